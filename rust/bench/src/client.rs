//! One node of the load: the core's `Node` over a ZMTP connection.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use zmqgame_core::bus::life::Life;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::{Node, NodeConfig};
use zmqgame_core::zmtp::{Config, Event, Peer};
use zmqgame_reactor::reactor::{Interest, Reactor, Token};

/// Payload a node hands to its socket in one piece, before it looks for answers again.
const WRITE_AHEAD_BYTES: usize = 1 << 20;

/// A node and its connection. The load does not reconnect: a lost hub ends the run.
pub struct Client {
    /// The state machine.
    pub node: Node,
    peer: Peer,
    stream: TcpStream,
    token: Token,
    wants_write: bool,
    life: Life,
}

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(
        name: &str,
        roles: Vec<String>,
        address: &str,
        zmtp: &Arc<Config>,
        token: Token,
        reactor: &mut Reactor,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut entropy = [0; 96];
        zmqgame_reactor::random(&mut entropy)?;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let epoch = u64::try_from(unix.unwrap_or_default().as_millis()).unwrap_or(1);
        let now_ms = reactor.refresh_now();
        let config = NodeConfig {
            name: name.into(),
            epoch,
            connection: epoch,
            roles,
            next_seq: 1,
        };
        let node =
            Node::new(config, now_ms).map_err(|error| io::Error::other(error.to_string()))?;
        reactor.register(&stream, token, Interest::READ)?;
        let mut client = Self {
            node,
            peer: Peer::new(Arc::clone(zmtp), now_ms, entropy),
            stream,
            token,
            wants_write: false,
            life: Life::default(),
        };
        client.node.handle_timeout(now_ms, 0);
        client.flush(reactor)?;
        Ok(client)
    }

    /// Whether the hub has welcomed it.
    pub const fn is_up(&self) -> bool {
        self.node.is_up()
    }

    /// Reads what is there, up to one buffer; how many bytes.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn read(&mut self, now_ms: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut whole = false;
        let node = &mut self.node;
        let result =
            self.peer
                .handle_input(now_ms, &mut buffer[..count], &mut |event| match event {
                    Event::Frame(frame) => {
                        whole = true;
                        node.handle_frame(now_ms, 0, frame);
                    }
                    Event::Ready(_) => {}
                });
        result.map_err(|error| io::Error::other(error.to_string()))?;
        if self.life.read(count, whole) {
            node.handle_progress(now_ms);
        }
        Ok(count)
    }

    /// The next thing that the node has to tell.
    ///
    /// # Errors
    /// The link is lost, or the hub refuses the node.
    pub fn event(&mut self) -> io::Result<Option<NodeEvent>> {
        match self.node.poll_events() {
            Some(NodeEvent::Down { why } | NodeEvent::Close { why }) => Err(io::Error::other(why)),
            Some(NodeEvent::Refused { text, .. }) => Err(io::Error::other(text)),
            Some(NodeEvent::Connect) => Ok(None),
            other => Ok(other),
        }
    }

    /// Hands frames to the socket as far as it takes them.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self, reactor: &Reactor) -> io::Result<()> {
        loop {
            while self.peer.is_ready() && self.peer.out_bytes() < WRITE_AHEAD_BYTES {
                let Some(frame) = self.node.poll_frame(reactor.now_ms()) else {
                    break;
                };
                self.peer.send_owned(frame);
            }
            if self.peer.out().is_empty() {
                return self.want_write(reactor, false);
            }
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.peer.out().slices(&mut slices);
            match self.stream.write_vectored(&slices[..filled]) {
                Ok(count) => self.peer.out().consume(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.want_write(reactor, true);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn want_write(&mut self, reactor: &Reactor, wanted: bool) -> io::Result<()> {
        if self.wants_write != wanted {
            self.wants_write = wanted;
            reactor.modify(&self.stream, self.token, Interest::new(true, wanted))?;
        }
        Ok(())
    }
}
