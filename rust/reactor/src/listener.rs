//! Taking connections in: TCP and Unix, and what to do when descriptors run out.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::stream::Stream;

/// Connections that the kernel may hold for us before we accept them (it caps it at somaxconn).
const BACKLOG: i32 = 4096;
/// How long a listener is best left alone when the machine, not only this process, is out of
/// descriptors or memory: accepting again at once would spin.
pub const PAUSE_MS: u64 = 100;

/// What one [`Listener::accept`] gave.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, non-blocking, and where it comes from.
    Stream(Stream, Peer),
    /// Nobody is waiting.
    Empty,
    /// A connection was taken and closed at once because the process is out of descriptors.
    Refused,
    /// The system is out of something: stop watching the listener for [`PAUSE_MS`].
    Pause(io::Error),
}

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// An address.
    Ip(SocketAddr),
    /// The path of a Unix listener: clients have none of their own.
    Unix(Arc<Path>),
    /// A Unix socket of a proxy's machine.
    ProxiedUnix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::ProxiedUnix => f.write_str("unix:"),
        }
    }
}

/// A listening socket, non-blocking.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Given up for one accept when descriptors run out, so that the caller sees an end and not a
    /// silence, and the level-triggered loop does not spin.
    reserve: Option<File>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<Path>),
}

impl Listener {
    /// Listens on `host:port`; port 0 takes a free one. With `reuse_port` several loops can bind the
    /// same address, and the kernel spreads connections over them.
    ///
    /// # Errors
    /// The name does not resolve, the address is in use or not ours.
    pub fn bind_tcp(address: &str, reuse_port: bool) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the address names nothing");
        for address in address.to_socket_addrs()? {
            match bind_one(address, reuse_port) {
                Ok(listener) => return Self::new(Socket::Tcp(listener)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Listens on a path. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// The path is in use, too long, or its folder not writable.
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        listener.set_nonblocking(true)?;
        Self::new(Socket::Unix(listener, Arc::from(path)))
    }

    fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            socket,
            reserve: Some(File::open("/dev/null")?),
        })
    }

    /// The address it is bound to: `host:port`, or the path.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|e| e.to_string(), |a| a.to_string()),
            Socket::Unix(_, path) => path.display().to_string(),
        }
    }

    /// Takes one waiting connection. Call until [`Accepted::Empty`], but a bounded number of times.
    pub fn accept(&mut self) -> Accepted {
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
        loop {
            match self.accept_one() {
                Ok((stream, peer)) => return Accepted::Stream(stream, peer),
                Err(error) => match rustix::io::Errno::from_io_error(&error) {
                    Some(rustix::io::Errno::AGAIN) => return Accepted::Empty,
                    Some(rustix::io::Errno::MFILE) => return self.refuse_one(error),
                    Some(
                        rustix::io::Errno::NFILE
                        | rustix::io::Errno::NOBUFS
                        | rustix::io::Errno::NOMEM,
                    ) => {
                        return Accepted::Pause(error);
                    }
                    // The rest is about the connection that was waiting (accept(2): ECONNABORTED and
                    // pending network errors): it is gone, the next one may be fine.
                    Some(errno) if is_of_the_connection(errno) => {}
                    _ => return Accepted::Pause(error),
                },
            }
        }
    }

    /// One more connection is taken on the reserved descriptor and dropped.
    fn refuse_one(&mut self, error: io::Error) -> Accepted {
        if self.reserve.take().is_none() {
            return Accepted::Pause(error);
        }
        let taken = self.accept_one();
        let empty = taken
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        drop(taken);
        self.reserve = File::open("/dev/null").ok();
        if empty {
            Accepted::Empty
        } else {
            Accepted::Refused
        }
    }

    fn accept_one(&self) -> io::Result<(Stream, Peer)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = rustix::net::acceptfrom_with(listener, flags)?;
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                // The kernel gives the address of whoever it accepts; without one there is nobody.
                let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
                Ok((Stream::Tcp(stream.into()), Peer::Ip(peer)))
            }
            Socket::Unix(listener, path) => {
                let stream = rustix::net::accept_with(listener, flags)?;
                Ok((Stream::Unix(stream.into()), Peer::Unix(Arc::clone(path))))
            }
        }
    }

    /// From now on the kernel asks the machines of silent clients whether they live: after `after_s`, then
    /// every quarter of that, and gives them up after the fourth time.
    ///
    /// # Errors
    /// It is no TCP listener.
    pub fn keep_alive(&self, after_s: u32) -> io::Result<()> {
        let every_s = Duration::from_secs(u64::from(after_s.div_ceil(4)));
        sockopt::set_socket_keepalive(self, true)?;
        sockopt::set_tcp_keepidle(self, Duration::from_secs(u64::from(after_s)))?;
        sockopt::set_tcp_keepintvl(self, every_s)?;
        sockopt::set_tcp_keepcnt(self, 4)?;
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Somebody may have removed it before us.
            let _ = std::fs::remove_file(path.as_ref());
        }
    }
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart must not wait for the old connections' TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // Accepted sockets inherit it. Batches are packed by us; waiting for more bytes would only add delay.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

fn is_of_the_connection(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno as E;
    [
        E::INTR,
        E::CONNABORTED,
        E::CONNRESET,
        E::PROTO,
        E::NETDOWN,
        E::NOPROTOOPT,
        E::HOSTDOWN,
        E::NONET,
        E::HOSTUNREACH,
        E::OPNOTSUPP,
        E::NETUNREACH,
        E::NOTCONN,
        E::INVAL,
    ]
    .contains(&errno)
}

/// Connects to `host:port`, waiting for the connection, then non-blocking: for clients and tests.
///
/// # Errors
/// Nobody listens, or the name does not resolve.
pub fn connect_tcp(address: &str) -> io::Result<Stream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Interest, Reactor, Token};
    use std::io::Read;

    fn accept_within(listener: &mut Listener, reactor: &mut Reactor) -> Accepted {
        let mut ready = Vec::new();
        for _ in 0..50 {
            match listener.accept() {
                Accepted::Empty => reactor.wait(&mut ready, Some(100)).unwrap(),
                other => return other,
            }
        }
        Accepted::Empty
    }

    #[test]
    fn accepts_tcp_and_unix() {
        let mut reactor = Reactor::new().unwrap();
        let mut tcp = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
        reactor.register(&tcp, Token(1), Interest::READ).unwrap();
        let _client = TcpStream::connect(tcp.address()).unwrap();
        assert!(matches!(
            accept_within(&mut tcp, &mut reactor),
            Accepted::Stream(Stream::Tcp(_), _)
        ));
        assert!(matches!(tcp.accept(), Accepted::Empty));

        let path = std::env::temp_dir().join(format!("zmqgame-listener-{}", std::process::id()));
        let mut unix = Listener::bind_unix(&path).unwrap();
        reactor.register(&unix, Token(2), Interest::READ).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert!(matches!(
            accept_within(&mut unix, &mut reactor),
            Accepted::Stream(Stream::Unix(_), _)
        ));
        let in_use = Listener::bind_unix(&path).unwrap_err();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        drop(unix);
        assert!(!path.exists());
    }

    /// As the kernel has it, of the socket that a client got.
    #[test]
    fn what_is_asked_of_a_port_holds_for_accepted_sockets() {
        for (address, asks, shares) in [("127.0.0.1:0", true, false), ("[::1]:0", false, true)] {
            let mut reactor = Reactor::new().unwrap();
            let mut port = Listener::bind_tcp(address, shares).unwrap();
            if asks {
                port.keep_alive(30).unwrap();
            }
            reactor.register(&port, Token(1), Interest::READ).unwrap();
            assert_eq!(sockopt::socket_reuseport(&port).unwrap(), shares);
            let _client = TcpStream::connect(port.address()).unwrap();
            let Accepted::Stream(stream, _) = accept_within(&mut port, &mut reactor) else {
                panic!("nobody was accepted");
            };
            let socket = stream.as_fd();
            assert!(sockopt::tcp_nodelay(socket).unwrap());
            assert_eq!(sockopt::socket_keepalive(socket).unwrap(), asks);
            if asks {
                let seconds = |time: Duration| time.as_secs();
                assert_eq!(seconds(sockopt::tcp_keepidle(socket).unwrap()), 30);
                assert_eq!(seconds(sockopt::tcp_keepintvl(socket).unwrap()), 8);
                assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), 4);
            }
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_and_reuse_port_is_not() {
        let first = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
        let error = Listener::bind_tcp(&first.address(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let a = Listener::bind_tcp("127.0.0.1:0", true).unwrap();
        Listener::bind_tcp(&a.address(), true).unwrap();
    }

    #[test]
    fn out_of_descriptors_closes_the_caller_and_the_listener_lives() {
        // In a process of its own: the limit would hit the other tests.
        if std::env::var_os("ZMQGAME_FD_TEST").is_none() {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "listener::tests::out_of_descriptors_closes_the_caller_and_the_listener_lives",
                ])
                .env("ZMQGAME_FD_TEST", "1")
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        let mut listener = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor
            .register(&listener, Token(1), Interest::READ)
            .unwrap();
        let mut refused = TcpStream::connect(listener.address()).unwrap();
        let mut hoard = Vec::new();
        let limit = rustix::process::Rlimit {
            current: Some(64),
            maximum: Some(64),
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        assert!(matches!(
            accept_within(&mut listener, &mut reactor),
            Accepted::Refused
        ));
        assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
        hoard.truncate(hoard.len() - 4);
        let _client = TcpStream::connect(listener.address()).unwrap();
        assert!(matches!(
            accept_within(&mut listener, &mut reactor),
            Accepted::Stream(..)
        ));
    }
}
