//! The node of `zmqgame-core` on one socket: reads, writes, timers, reconnects. In the thread of its owner.
//!
//! ```text
//! owner ──> Node (core) ──> frames ──> Peer (core) ──> socket
//!   ↑                                                    │
//!   └────────── events <── Node <── frames <── Peer <────┘
//! ```
//!
//! One [`Dealer::turn`] writes what waits, waits for something to happen and reads. The owner takes all events after
//! each turn and does what it wants with [`Dealer::node`] in between: an echo costs no hand-off between threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::{Node, NodeConfig};
use zmqgame_core::zmtp::{Config, Event, Role, Security};

use super::dealer_socket::{Connector, Endpoint, Opened, connected, end_of, no_connection};
use super::limits::{NODE_OUT_BYTES, READ_BYTES, READS_A_TURN};
use super::link::{Link, ReadOutcome};
use crate::reactor::{Interest, Reactor, Ready, Token};
use crate::stream::Stream;
use crate::wake::Wake;

const WAKE: Token = Token(0);
const SOCKET: Token = Token(1);

/// Who the node is, where its hub is.
#[derive(Debug, Clone)]
pub struct DealerConfig {
    /// The node.
    pub node: NodeConfig,
    /// `tcp://HOST:PORT` or `ipc://PATH`.
    pub endpoint: String,
    /// `Null` or `CurveClient`.
    pub security: Security,
    /// The clock's value now, for an owner that has one; else 0.
    pub now_ms: u64,
}

enum Socket {
    None,
    /// Waits for the resolver.
    Named,
    Connecting(Stream),
    Open(Box<Link>),
}

/// A node and its socket.
pub struct Dealer {
    node: Node,
    reactor: Reactor,
    base_ms: u64,
    wake: Wake,
    connector: io::Result<Connector>,
    config: Arc<Config>,
    security: Security,
    socket: Socket,
    key_trouble: String,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    random: u64,
}

impl Dealer {
    /// A node that connects in its first turns.
    ///
    /// # Errors
    /// A bad name, or the process is out of descriptors. A bad endpoint is told by events, as any other
    /// endpoint without a hub is.
    pub fn new(config: DealerConfig) -> io::Result<Self> {
        let invalid = |error: zmqgame_core::error::WireError| {
            io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
        };
        let node = Node::new(config.node, config.now_ms).map_err(invalid)?;
        let (reactor, wake) = (Reactor::new()?, Wake::new()?);
        reactor.register(&wake, WAKE, Interest::READ)?;
        let mut seed = [0; 8];
        crate::random(&mut seed)?;
        let connector = Endpoint::parse(&config.endpoint)
            .map(|endpoint| Connector::new(endpoint, wake.clone()));
        Ok(Self {
            node,
            reactor,
            base_ms: config.now_ms,
            wake,
            connector,
            config: Arc::new(Config::new(Role::Client, config.security.clone())),
            security: config.security,
            socket: Socket::None,
            key_trouble: String::new(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            random: u64::from_le_bytes(seed) | 1,
        })
    }

    /// The node, for its owner's calls; what they leave to be written goes out at the next turn or flush.
    pub const fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// The node, to look at.
    #[must_use]
    pub const fn node_ref(&self) -> &Node {
        &self.node
    }

    /// The clock of this dealer, as of the last turn.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.base_ms + self.reactor.now_ms()
    }

    /// The clock, read anew: before calls that come long after a turn.
    pub fn refresh_now(&mut self) -> u64 {
        self.base_ms + self.reactor.refresh_now()
    }

    /// Ends a wait of [`Dealer::turn`] from another thread.
    #[must_use]
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// What the last failed handshake says about keys; empty if nothing.
    #[must_use]
    pub fn key_trouble(&self) -> &str {
        &self.key_trouble
    }

    /// The keys of the next connection; the one there is keeps its own. Files of keys change while a node runs.
    pub fn set_security(&mut self, security: Security) {
        self.config = Arc::new(Config::new(Role::Client, security.clone()));
        self.security = security;
    }

    /// Whether all that the node has written is with the kernel.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        match &self.socket {
            Socket::Open(link) if link.peer.is_ready() => {
                link.peer.out_bytes() == 0 && !self.node.has_unsent()
            }
            _ => true,
        }
    }

    /// The next event of the node, in order; its wishes for a connection are fulfilled here and not shown.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        loop {
            match self.node.poll_event()? {
                NodeEvent::Connect => self.connect(),
                NodeEvent::Close { .. } => self.drop_socket(),
                event => return Some(event),
            }
        }
    }

    /// Writes what waits, waits for something to happen (at most so long), reads, and does what is due.
    ///
    /// # Errors
    /// epoll is broken, which no input can cause.
    pub fn turn(&mut self, at_most_ms: Option<u64>) -> io::Result<()> {
        self.flush();
        let wait_ms = self.wait_ms(at_most_ms);
        let mut ready = std::mem::take(&mut self.ready);
        let waited = self.reactor.wait(&mut ready, wait_ms);
        let readable = ready.iter().any(|event| event.token == SOCKET);
        let woken = ready.iter().any(|event| event.token == WAKE);
        self.ready = ready;
        waited?;
        self.after_wait(readable, woken);
        Ok(())
    }

    /// A turn that does not wait, for an owner whose own loop watches the descriptor.
    pub fn turn_now(&mut self) {
        self.reactor.refresh_now();
        self.after_wait(true, self.wake.is_pending());
        self.flush();
    }

    fn after_wait(&mut self, readable: bool, woken: bool) {
        if woken {
            self.wake.drain();
            if matches!(self.socket, Socket::Named) {
                self.connect();
            }
        }
        if readable {
            self.look();
        }
        self.timers();
    }

    /// As `turn_now`, but reads nothing: for an owner that has too many events already.
    pub fn turn_unread(&mut self) {
        self.reactor.refresh_now();
        self.after_wait(false, self.wake.is_pending());
    }

    /// Does what is due.
    pub fn timers(&mut self) {
        let now_ms = self.now_ms();
        if self
            .node
            .poll_timeout()
            .is_some_and(|at_ms| at_ms <= now_ms)
        {
            let random = self.next_random();
            self.node.handle_timeout(now_ms, random);
        }
        let reactor_ms = self.reactor.now_ms();
        if let Socket::Open(link) = &mut self.socket
            && let Err(error) = link.peer.handle_timeout(reactor_ms)
        {
            let (why, _) = end_of(&self.security, link.peer.is_ready(), Some(&error));
            self.end(&why, false);
        }
    }

    /// When [`Dealer::turn_now`] has to be called at the latest, by this dealer's clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let peer = match &self.socket {
            Socket::Open(link) => link.peer.poll_timeout().map(|at_ms| at_ms + self.base_ms),
            _ => None,
        };
        [self.node.poll_timeout(), peer].into_iter().flatten().min()
    }

    fn wait_ms(&mut self, at_most_ms: Option<u64>) -> Option<u64> {
        let Some(at_ms) = self.poll_timeout() else {
            return at_most_ms;
        };
        let until_ms = at_ms.saturating_sub(self.base_ms + self.reactor.refresh_now());
        Some(at_most_ms.map_or(until_ms, |at_most_ms| at_most_ms.min(until_ms)))
    }

    /// A small generator, seeded by the system: it spreads reconnects, nothing secret.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    // --- the socket ----------------------------------------------------------------------------------------------

    fn connect(&mut self) {
        self.drop_socket();
        let opened = match &mut self.connector {
            Ok(connector) => connector.open(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match opened {
            Ok(Opened::Later) => self.socket = Socket::Named,
            Ok(Opened::Stream(stream)) => {
                match self.reactor.register(&stream, SOCKET, Interest::WRITE) {
                    Ok(()) => self.socket = Socket::Connecting(stream),
                    Err(error) => self.end(&error.to_string(), false),
                }
            }
            Err(error) => self.end(&no_connection(&error), false),
        }
    }

    fn drop_socket(&mut self) {
        match std::mem::replace(&mut self.socket, Socket::None) {
            Socket::Open(link) => link.close(&mut self.reactor),
            Socket::Connecting(stream) => {
                // Fails only if it was never registered.
                let _ = self.reactor.deregister(&stream);
            }
            Socket::None | Socket::Named => {}
        }
    }

    fn end(&mut self, why: &str, keys: bool) {
        self.key_trouble = if keys { why.into() } else { String::new() };
        self.drop_socket();
        let (now_ms, random) = (self.now_ms(), self.next_random());
        self.node.handle_disconnected(now_ms, random, why);
    }

    /// Looks at a socket that has something to say.
    fn look(&mut self) {
        match std::mem::replace(&mut self.socket, Socket::None) {
            Socket::Connecting(stream) => self.look_connecting(stream),
            other => {
                self.socket = other;
                self.read();
            }
        }
    }

    fn look_connecting(&mut self, stream: Stream) {
        // Also called when nothing happened yet; a socket without a peer is not connected.
        let state = connected(&stream).and_then(|()| match &stream {
            Stream::Tcp(tcp) => tcp.peer_addr().map(|_| ()),
            Stream::Unix(_) => Ok(()),
        });
        match state {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.socket = Socket::Connecting(stream);
            }
            Err(error) => {
                // As in `drop_socket`.
                let _ = self.reactor.deregister(&stream);
                self.end(&no_connection(&error), false);
            }
            Ok(()) => self.open(stream),
        }
    }

    fn open(&mut self, stream: Stream) {
        let mut entropy = [0; 96];
        let made = crate::random(&mut entropy)
            .and_then(|()| self.reactor.deregister(&stream))
            .and_then(|()| {
                let config = Arc::clone(&self.config);
                let address = String::new();
                Link::new(stream, address, SOCKET, config, entropy, &mut self.reactor)
            });
        match made {
            Ok(link) => {
                self.socket = Socket::Open(Box::new(link));
                self.flush();
            }
            Err(error) => self.end(&error.to_string(), false),
        }
    }

    fn read(&mut self) {
        let (now_ms, mut random) = (self.now_ms(), 0);
        for _ in 0..READS_A_TURN {
            let Socket::Open(link) = &mut self.socket else {
                return;
            };
            let count = match link.read(&mut self.buffer) {
                ReadOutcome::Bytes(count) => count,
                ReadOutcome::Nothing => return,
                ReadOutcome::Ended => {
                    let (why, keys) = end_of(&self.security, link.peer.is_ready(), None);
                    return self.end(&why, keys);
                }
            };
            if random == 0 {
                random = self.random ^ now_ms.rotate_left(17);
            }
            let mut whole = false;
            let node = &mut self.node;
            let was_ready = link.peer.is_ready();
            let bytes = &mut self.buffer[..count];
            let reactor_ms = self.reactor.now_ms();
            let result = link.peer.handle_input(reactor_ms, bytes, &mut |event| {
                if let Event::Frame(frame) = event {
                    whole = true;
                    node.handle_frame(now_ms, random, frame);
                }
            });
            if let Err(error) = result {
                let (why, keys) = end_of(&self.security, was_ready, Some(&error));
                return self.end(&why, keys);
            }
            if link.life.read(count, whole) {
                node.handle_progress(now_ms);
            }
            // Less than was asked for: the kernel has no more; epoll tells if that changes.
            if count < READ_BYTES {
                break;
            }
        }
        self.next_random();
    }

    /// Writes what waits, as far as the socket takes it. Called by turns; an owner that does not take turns calls it
    /// after its own calls of the node.
    pub fn flush(&mut self) {
        let now_ms = self.now_ms();
        loop {
            let Socket::Open(link) = &mut self.socket else {
                return;
            };
            while link.peer.is_ready() && link.peer.out_bytes() < NODE_OUT_BYTES {
                let Some(frame) = self.node.poll_frame(now_ms) else {
                    break;
                };
                link.peer.send_owned(frame);
            }
            if link.peer.out_bytes() == 0 {
                return;
            }
            match link.flush(&self.reactor) {
                Ok(_) if link.peer.out_bytes() > 0 => return,
                Ok(_) => {}
                Err(_) => {
                    // What came before the end is read first: the hub's last words are in it.
                    return self.read();
                }
            }
        }
    }

    /// Ends the node and its connection; what waits to be written is tried once.
    pub fn close(&mut self) {
        self.flush();
        self.node.handle_end();
        self.drop_socket();
    }

    /// Takes turns until the handler says that it is enough (false), or for ever. The handler may use the node:
    /// what it sends goes out before the next wait.
    ///
    /// # Errors
    /// As [`Dealer::turn`].
    pub fn run(
        &mut self,
        mut handler: impl FnMut(&mut Node, u64, NodeEvent) -> bool,
    ) -> io::Result<()> {
        loop {
            self.turn(None)?;
            while let Some(event) = self.poll_event() {
                let now_ms = self.now_ms();
                if !handler(&mut self.node, now_ms, event) {
                    self.flush();
                    return Ok(());
                }
            }
        }
    }
}

impl AsFd for Dealer {
    /// Readable when a turn has something to do. Timers don't show: see [`Dealer::poll_timeout`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}
