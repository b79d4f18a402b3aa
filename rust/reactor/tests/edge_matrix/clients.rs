//! Clients of all transports that are not our own code, blocking, and the certificates for them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::protocol::{Message, WebSocket};
use zmqgame_core::stream::packet::{Header, write_packet};
use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::{Framing, ListenOptions, TlsFiles};

use crate::common::DEADLINE;

/// Random numbers that are the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// A folder of its own that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zmqgame-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A certificate that signs itself, for `name`, and its key.
    pub fn certificate(&self, name: &str) -> TlsFiles {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let files = TlsFiles {
            certificate: self.0.join("certificate.pem"),
            key: self.0.join("key.pem"),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
    WebSocket,
    Tls,
    Wss,
}

pub const TRANSPORTS: [Transport; 5] = [
    Transport::Tcp,
    Transport::Unix,
    Transport::WebSocket,
    Transport::Tls,
    Transport::Wss,
];

/// Where a test's edge listens.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: String,
    pub transport: Transport,
    pub authorities: PathBuf,
}

/// Listens for one transport.
pub fn listen(edge: &Edge, transport: Transport, framing: Framing, folder: &Folder) -> Place {
    let mut options = ListenOptions::from(framing);
    let files = folder.certificate("localhost");
    let authorities = files.certificate.clone();
    if matches!(transport, Transport::Tls | Transport::Wss) {
        options.tls = Some(files);
    }
    let address = if transport == Transport::Unix {
        edge.listen_unix(&folder.path().join("edge.sock"), options)
    } else {
        edge.listen_tcp("127.0.0.1:0", options)
    };
    Place {
        address: address.unwrap(),
        transport,
        authorities,
    }
}

pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

pub fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Waits until the handshake is done, so that its failure is seen here.
pub fn tls(
    address: &str,
    authorities: &Path,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = tcp(address);
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// The bytes below the packets.
pub fn dial(place: &Place) -> Box<dyn Duplex> {
    dial_with_window(place, None)
}

/// With a bound for what the kernel takes for a client that does not read.
fn dial_with_window(place: &Place, window_bytes: Option<usize>) -> Box<dyn Duplex> {
    let narrow = |socket: BorrowedFd<'_>| {
        if let Some(bytes) = window_bytes {
            sockopt::set_socket_recv_buffer_size(socket, bytes).unwrap();
        }
    };
    match place.transport {
        Transport::Unix => {
            let stream = UnixStream::connect(&place.address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            Box::new(stream)
        }
        Transport::Tcp | Transport::WebSocket => {
            let stream = tcp(&place.address);
            narrow(stream.as_fd());
            Box::new(stream)
        }
        Transport::Tls | Transport::Wss => {
            let stream = tls(&place.address, &place.authorities).unwrap();
            narrow(stream.sock.as_fd());
            Box::new(stream)
        }
    }
}

/// A client that sends and gets packets.
pub enum Client {
    Stream(Box<dyn Duplex>),
    WebSocket(Box<WebSocket<Box<dyn Duplex>>>),
}

impl Client {
    pub fn new(place: &Place) -> Self {
        Self::over(place, dial(place))
    }

    /// One that gets at most so much ahead of what it reads.
    pub fn with_window(place: &Place, bytes: usize) -> Self {
        Self::over(place, dial_with_window(place, Some(bytes)))
    }

    fn over(place: &Place, stream: Box<dyn Duplex>) -> Self {
        if matches!(place.transport, Transport::WebSocket | Transport::Wss) {
            let made = tungstenite::client("ws://localhost/", stream);
            Self::WebSocket(Box::new(made.map_err(|e| e.to_string()).unwrap().0))
        } else {
            Self::Stream(stream)
        }
    }

    /// Sends a packet, on a stream in pieces.
    pub fn send(&mut self, header: Header, payload: &[u8], random: &mut Random) {
        let mut bytes = Vec::new();
        write_packet(&mut bytes, header, payload);
        match self {
            Self::Stream(stream) => send_pieces(&mut **stream, &bytes, random),
            Self::WebSocket(socket) => {
                socket.send(Message::binary(bytes.split_off(4))).unwrap();
            }
        }
    }

    /// The next packet without its length.
    pub fn receive(&mut self) -> Vec<u8> {
        match self {
            Self::Stream(stream) => {
                let mut prefix = [0; 4];
                stream.read_exact(&mut prefix).unwrap();
                let mut bytes = vec![0; u32::from_le_bytes(prefix) as usize];
                stream.read_exact(&mut bytes).unwrap();
                bytes
            }
            Self::WebSocket(socket) => socket.read().unwrap().into_data().to_vec(),
        }
    }
}

pub fn send_pieces(stream: &mut dyn Duplex, bytes: &[u8], random: &mut Random) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = [3, 100, 20_000][random.below(3)];
        let (now, later) = rest.split_at((1 + random.below(most)).min(rest.len()));
        stream.write_all(now).unwrap();
        rest = later;
    }
    stream.flush().unwrap();
}
