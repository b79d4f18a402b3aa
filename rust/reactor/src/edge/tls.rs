//! TLS by rustls over memory: who reads and writes sockets stays in `line`, so that bounds, pauses and
//! counters are the same with and without it.

use std::io::{self, BufReader, IoSlice, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring as crypto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ProducesTickets;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore};
use rustls::{ServerConfig, ServerConnection};
use zmqgame_core::stream::ring::RingBuffer;

use super::config::{ConnectTls, TlsFiles};
use super::held::Records;
use super::reason::CloseReason;

/// The most bytes of a certificate, key or authority file: the authorities of a whole operating system
/// have a third of it.
const FILE_BYTES: u64 = 1 << 20;
/// Plaintext of one record, the largest that TLS allows, and what a record has beside it.
const RECORD_BYTES: usize = 16_384;
const RECORD_MORE_BYTES: usize = 22;
/// What one TLS connection is taken to hold beside its buffers for records, for the bound on memory: measured.
pub(super) const TLS_BYTES: usize = 4_096;

fn bad(path: &Path, what: impl std::fmt::Display) -> io::Error {
    let path = path.display();
    io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: {what}"))
}

/// Reads a file whose size is bounded.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(name)?;
    let mut bytes = Vec::new();
    let mut bounded = BufReader::new(file).take(FILE_BYTES + 1);
    bounded.read_to_end(&mut bytes).map_err(name)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(bad(path, format!("more than {FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = read_file(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(bad(path, "no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(bad(path, error)),
    }
}

/// A listener's certificate and key, which can be read anew while it runs.
#[derive(Debug)]
pub(super) struct TlsServer {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    /// Kept over reloads, so that clients can still resume their sessions.
    tickets: Arc<dyn ProducesTickets>,
    config: Mutex<Arc<ServerConfig>>,
}

impl TlsServer {
    pub(super) fn load(files: TlsFiles) -> io::Result<Self> {
        let provider = Arc::new(crypto::default_provider());
        let tickets = crypto::Ticketer::new().map_err(io::Error::other)?;
        let config = Mutex::new(read_config(&files, &provider, &tickets)?);
        Ok(Self {
            files,
            provider,
            tickets,
            config,
        })
    }

    /// Reads the files again; new connections use them. When they are broken, the old ones stay.
    pub(super) fn reload(&self) -> io::Result<()> {
        let config = read_config(&self.files, &self.provider, &self.tickets)?;
        *self.lock() = config;
        Ok(())
    }

    /// A new connection's side of TLS.
    pub(super) fn accept(&self) -> Result<Tls, CloseReason> {
        let config = Arc::clone(&*self.lock());
        ServerConnection::new(config).map(Tls::new).map_err(reason)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<ServerConfig>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_config(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
) -> io::Result<Arc<ServerConfig>> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read_file(&files.key)?)
        .map_err(|error| bad(&files.key, error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad(&files.certificate, error))?;
    config.ticketer = Arc::clone(tickets);
    // One is what a client that comes back needs; each costs it a write.
    config.send_tls13_tickets = 1;
    // Sessions are in the tickets: nothing is kept here for clients that went.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What an outgoing connection needs, read and checked before the connection is made.
pub(super) fn client(options: &ConnectTls) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.authorities)? {
        roots
            .add(certificate)
            .map_err(|error| bad(&options.authorities, error))?;
    }
    let name = ServerName::try_from(options.server_name.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), name)
        .map(Tls::new)
        .map_err(io::Error::other)
}

fn reason(error: rustls::Error) -> CloseReason {
    CloseReason::Tls(error.to_string())
}

/// A socket without anything to read.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub(super) struct Tls {
    connection: Connection,
    held: Records,
}

impl Tls {
    fn new(connection: impl Into<Connection>) -> Self {
        let mut connection = connection.into();
        // What is to be sent waits as plaintext in the connection's own ring, which has a bound.
        connection.set_buffer_limit(Some(2 * RECORD_BYTES));
        Self {
            connection,
            held: Records::default(),
        }
    }

    /// What it holds.
    pub(super) fn memory(&self) -> usize {
        TLS_BYTES + self.held.bytes()
    }

    /// Whether it holds storage that could be given back.
    pub(super) fn has_storage(&self) -> bool {
        self.held.has_grown()
    }

    /// Gives storage back that nothing stands in; rustls does so by itself only when more comes.
    pub(super) fn shrink(&mut self) {
        if self.held.is_between() {
            self.held.make_room();
            let _ = self.connection.read_tls(&mut Nothing);
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn version(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        }
    }

    /// Takes ciphertext; what it holds in plaintext goes behind `into`. Gives whether the other side has
    /// said that it sends no more.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<bool, CloseReason> {
        loop {
            self.held.make_room();
            let (given, handshaking) = (bytes, self.is_handshaking());
            // It fails only when plaintext is not taken, which is done below.
            let taken = self.connection.read_tls(&mut bytes).unwrap_or(0);
            let state = self.connection.process_new_packets().map_err(reason)?;
            let count = state.plaintext_bytes_to_read();
            let gave = count > 0 || handshaking != self.connection.is_handshaking();
            self.held.follow(&given[..taken], gave);
            self.held.to_write = state.tls_bytes_to_write();
            if count > 0 {
                let start = into.len();
                into.resize(start + count, 0);
                let read = self.connection.reader().read_exact(&mut into[start..]);
                read.map_err(|error| CloseReason::Broken(error.kind()))?;
            }
            if state.peer_has_closed() || (taken == 0 && !bytes.is_empty()) {
                return Ok(true);
            }
            if bytes.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Whether there is ciphertext to write.
    pub(super) fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Writes ciphertext.
    pub(super) fn write_to(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        let written = self.connection.write_tls(socket);
        if let Ok(count) = written {
            self.held.to_write = self.held.to_write.saturating_sub(count);
        }
        written
    }

    /// Makes a record of the ring's oldest bytes.
    pub(super) fn encrypt(&mut self, ring: &mut RingBuffer) -> io::Result<usize> {
        let [first, second] = ring.readable();
        let first = &first[..first.len().min(RECORD_BYTES)];
        let second = &second[..second.len().min(RECORD_BYTES - first.len())];
        let slices = [IoSlice::new(first), IoSlice::new(second)];
        let count = self.connection.writer().write_vectored(&slices)?;
        ring.consume(count);
        self.held.to_write += count + RECORD_MORE_BYTES;
        Ok(count)
    }

    /// The last word: nothing more comes from this side.
    pub(super) fn say_goodbye(&mut self) {
        self.connection.send_close_notify();
    }
}
