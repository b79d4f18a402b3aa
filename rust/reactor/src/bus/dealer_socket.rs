//! The socket of a node: found by name, connected without waiting, and why it could not be.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};
use zmqgame_core::zmtp::{Security, ZmtpError};

use crate::stream::Stream;
use crate::wake::Wake;

/// Where the hub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `HOST:PORT`.
    Tcp(String),
    /// A path of this machine.
    Unix(String),
}

impl Endpoint {
    /// Reads `tcp://HOST:PORT` or `ipc://PATH`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> io::Result<Self> {
        match text.split_once("://") {
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(("ipc", path)) if !path.is_empty() => Ok(Self::Unix(path.to_owned())),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{text} is no address: write tcp://HOST:PORT or ipc://PATH"),
            )),
        }
    }
}

/// Where the resolver's thread leaves its answer.
type Answer = Arc<Mutex<Option<io::Result<Vec<SocketAddr>>>>>;

/// Opens sockets to one endpoint, one after the other.
#[derive(Debug)]
pub struct Connector {
    endpoint: Endpoint,
    wake: Wake,
    /// A question to the resolver, which may take its time: at most one is under way.
    asked: Option<Answer>,
    /// Addresses of the name; each try takes the next one.
    found: Vec<SocketAddr>,
}

/// What became of a try.
pub enum Opened {
    /// A socket; it is connected when it can be written.
    Stream(Stream),
    /// The resolver is at work; the wake tells when to call [`Connector::open`] again.
    Later,
}

impl Connector {
    /// For an endpoint; `wake` is called from the resolver's thread.
    #[must_use]
    pub const fn new(endpoint: Endpoint, wake: Wake) -> Self {
        Self {
            endpoint,
            wake,
            asked: None,
            found: Vec::new(),
        }
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// It can't be: the name is unknown, the path is not there, the process is out of descriptors.
    pub fn open(&mut self) -> io::Result<Opened> {
        let address = match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                return Ok(Opened::Stream(Stream::Unix(stream)));
            }
            Endpoint::Tcp(address) => address.clone(),
        };
        if let Ok(literal) = address.parse() {
            return open_tcp(literal).map(Opened::Stream);
        }
        if self.asked.is_none() && self.found.is_empty() {
            self.ask(address)?;
        }
        if let Some(asked) = &self.asked {
            let answer = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(found) = answer else {
                return Ok(Opened::Later);
            };
            self.asked = None;
            self.found = found?;
        }
        // When the last one was tried the name is looked up anew: it may have moved.
        match self.found.pop() {
            Some(next) => open_tcp(next).map(Opened::Stream),
            None => Err(io::Error::other("the name has no address")),
        }
    }

    fn ask(&mut self, address: String) -> io::Result<()> {
        let answer = Answer::default();
        let asked = Arc::clone(&answer);
        let wake = self.wake.clone();
        std::thread::Builder::new()
            .name("zmqgame-resolve".into())
            .spawn(move || {
                let found = address.to_socket_addrs().map(|found| {
                    let mut found: Vec<SocketAddr> = found.collect();
                    found.reverse();
                    found
                });
                *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                wake.wake();
            })?;
        self.asked = Some(asked);
        Ok(())
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<Stream> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// Whether the connection is made, once the socket can be written.
///
/// # Errors
/// Why it is not.
pub fn connected(stream: &Stream) -> io::Result<()> {
    let error = match stream {
        Stream::Tcp(stream) => stream.take_error()?,
        Stream::Unix(stream) => stream.take_error()?,
    };
    error.map_or(Ok(()), Err)
}

/// What a connection that could not be made says to a person.
#[must_use]
pub fn no_connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "the hub does not listen".into(),
        _ => error.to_string(),
    }
}

/// The end of a connection in words, and whether it is the keys that are wrong.
#[must_use]
pub fn end_of(security: &Security, ready: bool, error: Option<&ZmtpError>) -> (String, bool) {
    let curve = matches!(security, Security::CurveClient { .. });
    match error {
        Some(ZmtpError::Refused(_)) if curve && !ready => {
            ("the hub does not admit this node's key".into(), true)
        }
        Some(ZmtpError::Mechanism(_)) if curve => {
            ("this node uses CURVE and the hub does not".into(), true)
        }
        Some(ZmtpError::Mechanism(name)) if name == "CURVE" => {
            ("the hub wants CURVE keys".into(), true)
        }
        Some(error) => (
            format!("the hub speaks another protocol: {error}"),
            curve && !ready,
        ),
        None if curve && !ready => (
            // A server that can't open our HELLO may say nothing; nor does one that dies in this moment.
            "the hub broke off the handshake: this node's copy of the hub's public key may be wrong"
                .into(),
            true,
        ),
        None => ("the hub closed the connection".into(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    #[test]
    fn endpoints_are_read() {
        let tcp = Endpoint::parse("tcp://[::1]:7600").unwrap();
        assert_eq!(tcp, Endpoint::Tcp("[::1]:7600".into()));
        let unix = Endpoint::parse("ipc:///run/hub").unwrap();
        assert_eq!(unix, Endpoint::Unix("/run/hub".into()));
        for bad in ["nonsense", "tcp://host", "ipc://", "udp://a:1"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_looked_up_without_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::parse(&format!("tcp://localhost:{port}")).unwrap();
        let mut connector = Connector::new(endpoint, Wake::new().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        let mut tries = 0;
        while tries < 4 {
            match connector.open() {
                Ok(Opened::Later) => std::thread::sleep(Duration::from_millis(2)),
                // `localhost` may name ::1 first, where nobody listens.
                Ok(Opened::Stream(_)) => tries += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < until);
        }
    }
}
