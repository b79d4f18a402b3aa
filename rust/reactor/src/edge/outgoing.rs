//! Connections that we make: TCP and WebSocket, with or without TLS, and Unix. From then on they are like the others.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::admission::Admission;
use super::config::{ConnectTls, Framing};
use super::connection::Connection;
use super::counters::Counters;
use super::event_loop::EventLoop;
use super::gate::Incoming;
use super::line::Line;
use super::reason::CloseReason;
use super::tls::{self, Tls};
use super::websocket_client::{Ask, WebSocketUrl};
use crate::listener::Peer;
use crate::reactor::{Interest, Token};
use crate::stream::Stream;

/// Addresses of one name that are tried: all of them share one connect time-out.
const MOST_ADDRESSES: usize = 16;

/// Whom to connect to, and how; names are resolved and files read already.
#[derive(Debug)]
pub struct Dial {
    targets: VecDeque<Peer>,
    framing: Framing,
    tls: Option<Box<Tls>>,
    ask: Option<Box<Ask>>,
}

impl Dial {
    /// To `host:port`; the addresses of a name are tried in turn.
    ///
    /// # Errors
    /// The name does not resolve, or the authorities can't be read.
    pub fn tcp(address: &str, framing: Framing, tls: Option<&ConnectTls>) -> io::Result<Self> {
        let targets: VecDeque<_> = address
            .to_socket_addrs()?
            .take(MOST_ADDRESSES)
            .map(Peer::Ip)
            .collect();
        if targets.is_empty() {
            let what = "the address names nothing";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Self {
            targets,
            framing,
            tls: tls.map(tls::client).transpose()?.map(Box::new),
            ask: None,
        })
    }

    /// To a WebSocket, whose binary messages are packets; `tls` says how the server of a `wss://` URL is
    /// verified, and must not be given for another.
    ///
    /// # Errors
    /// The name does not resolve, or the authorities can't be read.
    pub fn websocket(url: &WebSocketUrl, tls: Option<&ConnectTls>) -> io::Result<Self> {
        if url.has_tls() != tls.is_some() {
            let what = "wss:// needs authorities, and ws:// has no use for them";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Self {
            ask: Some(Box::new(url.ask()?)),
            ..Self::tcp(&url.address(), Framing::Packets, tls)?
        })
    }

    /// To a Unix socket's path.
    #[must_use]
    pub fn unix(path: &Path, framing: Framing) -> Self {
        Self {
            targets: VecDeque::from([Peer::Unix(Arc::from(path))]),
            framing,
            tls: None,
            ask: None,
        }
    }
}

/// Begins a connection to the first target that does not refuse at once.
fn begin(targets: &mut VecDeque<Peer>) -> io::Result<(Stream, Peer)> {
    let mut last = io::ErrorKind::InvalidInput.into();
    while let Some(target) = targets.pop_front() {
        match begin_one(&target) {
            Ok(stream) => return Ok((stream, target)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn begin_one(target: &Peer) -> io::Result<Stream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |family| rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    let begun = |result: rustix::io::Result<()>| match result {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(io::Error::from(error)),
    };
    match target {
        Peer::Ip(address) => {
            let socket = socket(match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            })?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            begun(rustix::net::connect(&socket, address))?;
            Ok(Stream::Tcp(socket.into()))
        }
        Peer::Unix(path) => {
            let socket = socket(AddressFamily::UNIX)?;
            let address = SocketAddrUnix::new(path.as_ref())?;
            begun(rustix::net::connect(&socket, &address))?;
            Ok(Stream::Unix(socket.into()))
        }
        Peer::ProxiedUnix => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl EventLoop {
    /// Begins a connection and gives its id; none once a stop is asked for. A target that refuses at once is told in a row, as later.
    pub(super) fn connect(&mut self, mut dial: Dial) -> io::Result<u64> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(self.shared.gone());
        }
        let full = || io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections");
        let mut admission = Admission::new(&self.shared).ok_or_else(full)?;
        admission.count_loop(self.index);
        let (stream, peer) = begin(&mut dial.targets)?;
        let id = self.new_id().ok_or_else(full)?;
        let incoming = Incoming {
            line: Line::new(stream, dial.tls),
            peer,
            framing: dial.framing,
            admission,
            since_ms: self.now_ms(),
        };
        let config = &self.shared.config;
        let connection = Box::new(Connection::outgoing(id, incoming, config, dial.ask));
        self.targets.insert(id, dial.targets);
        let token = Token(id);
        let watched = self
            .reactor
            .register(connection.line.as_fd(), token, Interest::EDGE);
        if let Err(error) = watched {
            self.release(connection);
            return Err(error);
        }
        self.shared.peers().insert(id, connection.peer.to_string());
        self.put(connection);
        self.handle_timer(id);
        Ok(id)
    }

    /// The socket of an outgoing connection is there or refused: goes on with TLS, or another address.
    pub(super) fn go_on(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let stream = connection.line.stream();
        let failed = sockopt::socket_error(stream.as_fd()).map_err(io::Error::from);
        let failed = failed.and_then(|state| state.map_err(io::Error::from));
        if let Err(error) = failed {
            return self.try_next(connection, &error);
        }
        self.targets.remove(&connection.id);
        connection
            .line
            .flush(&mut connection.outbound, &self.shared.counters)?;
        if !connection.line.is_handshaking() && connection.is_connecting() {
            connection.connected(&mut self.context())?;
        }
        Ok(())
    }

    fn try_next(
        &mut self,
        connection: &mut Connection,
        error: &io::Error,
    ) -> Result<(), CloseReason> {
        let refused = CloseReason::Connect(error.kind());
        let Some(targets) = self.targets.get_mut(&connection.id) else {
            return Err(refused);
        };
        let (stream, peer) = begin(targets).map_err(|_| refused)?;
        connection.line.replace(stream);
        connection.ended = false;
        self.shared.peers().insert(connection.id, peer.to_string());
        connection.peer = peer;
        let token = Token(connection.id);
        self.reactor
            .register(connection.line.as_fd(), token, Interest::EDGE)
            .map_err(|error| CloseReason::Connect(error.kind()))
    }

    /// Counts what became of an outgoing connection.
    pub(super) fn count_connect(&self) {
        Counters::add(&self.shared.counters.connects, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_connect_sends_at_once() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Peer::Ip(port.local_addr().unwrap());
        let stream = begin_one(&target).unwrap();
        assert!(sockopt::tcp_nodelay(stream.as_fd()).unwrap());
    }
}
