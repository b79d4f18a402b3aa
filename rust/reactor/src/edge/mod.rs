//! The client edge: connections of many clients as batches of packets.
//!
//! [`Edge`] is the handle: it starts the loops, listens, sends, closes, stops; any thread may use it.
//! Each loop is a thread (`event_loop`) with its connections (`connection`, `websocket`). What clients
//! send becomes rows of one [`Batch`]: taken by the consumer with [`Edge::receive`], or handled on the
//! loop by a [`Handler`]. Everything that waits is bounded: `config` names the bounds, `table` charges
//! them, `counters` shows what they refused.

mod command;
pub mod config;
mod connection;
mod counters;
mod event_loop;
mod inbox;
mod reason;
mod shared;
mod table;
mod udp;
mod udp_loop;
mod udp_plain;
pub mod websocket;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zmqgame_core::edge::netcode::Key;
use zmqgame_core::stream::packet::Batch;

use crate::listener::Listener;
use command::Command;
use config::{EdgeConfig, Framing};
use event_loop::EventLoop;
use udp::UdpListener;
use udp_plain::PlainListener;

pub use counters::Counters;
pub use reason::CloseReason;
pub use shared::{Shared, Write};

/// Where received batches go when nobody looks at them any more; the edge may be gone by then.
#[derive(Debug, Clone, Default)]
pub struct Returns(std::sync::Weak<Shared>);

impl Returns {
    /// Takes the storage back, or drops it.
    pub fn give_back(&self, batch: Batch) {
        if let Some(shared) = self.0.upgrade() {
            shared.inbox.give_back(batch);
        }
    }
}

/// Handles packets on the loop's own thread: for servers without Python.
pub trait Handler: Send {
    /// Takes a batch (opens and closes included); answers go through `edge.send`.
    fn handle(&mut self, batch: &Batch, edge: &Shared);
}

/// A running edge. Dropping it stops it without waiting for what is queued.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    next_loop: std::sync::atomic::AtomicUsize,
}

impl Edge {
    /// Starts the loops; packets wait for [`Edge::receive`].
    ///
    /// # Errors
    /// A setting is out of its range, or the process is out of descriptors or threads.
    pub fn start(config: EdgeConfig) -> io::Result<Self> {
        Self::start_with(config, |_| None)
    }

    /// Starts the loops, each with the handler that `make` gives for it.
    ///
    /// # Errors
    /// See [`Edge::start`].
    pub fn start_with(
        config: EdgeConfig,
        mut make: impl FnMut(usize) -> Option<Box<dyn Handler>>,
    ) -> io::Result<Self> {
        config
            .check()
            .map_err(|bad| io::Error::new(io::ErrorKind::InvalidInput, bad))?;
        let shared = Arc::new(Shared::new(config)?);
        let edge = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
            next_loop: std::sync::atomic::AtomicUsize::new(0),
        };
        for index in 0..shared.config.loops {
            edge.start_loop(index, make(index))?;
        }
        Ok(edge)
    }

    /// The loop is made on its own thread, since what epoll fills can't move; its failure comes back.
    fn start_loop(&self, index: usize, handler: Option<Box<dyn Handler>>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (made, is_made) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("edge-{index}"))
            .spawn(move || {
                let event_loop = match EventLoop::new(index, shared, handler) {
                    Ok(event_loop) => event_loop,
                    Err(error) => {
                        let _ = made.send(Err(error));
                        return Ok(());
                    }
                };
                let _ = made.send(Ok(()));
                event_loop.run()
            })?;
        self.threads().push(thread);
        is_made
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the loop's thread died")))
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<io::Result<()>>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on `host:port` (port 0: a free one) and gives the address it is bound to.
    ///
    /// # Errors
    /// The address is in use, not ours, or no address; or the edge has stopped.
    pub fn listen_tcp(&self, address: &str, framing: Framing) -> io::Result<String> {
        self.listen(Listener::bind_tcp(address, false)?, framing)
    }

    /// Listens on a path.
    ///
    /// # Errors
    /// The path is in use or its folder not writable; or the edge has stopped.
    pub fn listen_unix(&self, path: &Path, framing: Framing) -> io::Result<String> {
        self.listen(Listener::bind_unix(path)?, framing)
    }

    fn listen(&self, listener: Listener, framing: Framing) -> io::Result<String> {
        let address = listener.address();
        self.hand_over(Command::Listen(listener, framing))?;
        Ok(address)
    }

    /// Listens for netcode sessions on `host:port` and gives the address it is bound to. Tokens must
    /// name `public_address`, by default the bound one, and be sealed with `private_key`.
    ///
    /// # Errors
    /// An address is in use, not ours, or no address; or the edge has stopped.
    pub fn listen_udp(
        &self,
        address: &str,
        public_address: Option<&str>,
        protocol_id: u64,
        private_key: Key,
    ) -> io::Result<String> {
        let max_clients = u32::try_from(self.shared.config.max_connections).unwrap_or(u32::MAX);
        let listener = UdpListener::bind(
            address,
            public_address,
            protocol_id,
            private_key,
            max_clients,
        )?;
        let address = listener.address()?;
        self.hand_over(Command::ListenUdp(Box::new(listener)))?;
        Ok(address)
    }

    /// Listens for plain datagrams on `host:port`, every loop on a socket of its own, and gives the
    /// address they are bound to. Each datagram is a packet of kind 0, each remote address a connection
    /// until it is silent for the idle time-out.
    ///
    /// # Errors
    /// The address is in use, not ours, or no address; or the edge has stopped.
    pub fn listen_udp_plain(&self, address: &str) -> io::Result<String> {
        self.check_running()?;
        let (listeners, address) = PlainListener::bind(address, self.shared.loops.len())?;
        for (end, listener) in self.shared.loops.iter().zip(listeners) {
            end.queue.push(Command::ListenUdpPlain(listener));
        }
        Ok(address)
    }

    fn check_running(&self) -> io::Result<()> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the edge has stopped",
            ));
        }
        Ok(())
    }

    /// Listeners go to the loops in turn.
    fn hand_over(&self, command: Command) -> io::Result<()> {
        self.check_running()?;
        let index = self.next_loop.fetch_add(1, Ordering::Relaxed) % self.shared.loops.len();
        self.shared.loops[index].queue.push(command);
        Ok(())
    }

    /// The eventfd that is readable when there are packets.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.shared.inbox.wake().as_raw_fd()
    }

    /// Takes all packets that are there; never waits.
    #[must_use]
    pub fn receive(&self) -> Batch {
        let (batch, loops_wait) = self.shared.inbox.take();
        if loops_wait {
            self.shared.wake_loops();
        }
        batch
    }

    /// Waits until there are packets. Gives whether there are.
    ///
    /// # Errors
    /// The descriptor is broken, which no input can cause.
    pub fn wait(&self, timeout_ms: u64) -> io::Result<bool> {
        let wake = self.shared.inbox.wake();
        let mut polled = [PollFd::new(wake, PollFlags::IN)];
        let timeout_ms = timeout_ms.min(config::LONGEST_MS);
        let timeout = Timespec {
            tv_sec: (timeout_ms / 1000).cast_signed(),
            tv_nsec: ((timeout_ms % 1000) * 1_000_000).cast_signed(),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the storage of received batches back.
    #[must_use]
    pub fn returns(&self) -> Returns {
        Returns(Arc::downgrade(&self.shared))
    }

    /// Makes whoever waits for packets look, as if there were some.
    pub fn wake(&self) {
        self.shared.inbox.wake().wake();
    }

    /// Queues packets; gives how many were refused. See [`Shared::send`].
    pub fn send<'a>(&self, writes: impl IntoIterator<Item = Write<'a>>) -> usize {
        self.shared.send(writes)
    }

    /// Closes a connection after what was sent before; an unknown one is closed already.
    pub fn close(&self, connection: u64, reason: &str) {
        let place = table::Place::of(connection);
        if let Some(end) = self.shared.loops.get(place.owner) {
            end.queue.push(Command::Close {
                id: connection,
                reason: reason.to_owned(),
            });
        }
    }

    /// Where a connection comes from; `None` when it is closed.
    #[must_use]
    pub fn peer(&self, connection: u64) -> Option<String> {
        self.shared.peers().get(&connection).cloned()
    }

    /// How many connections there are, those that are closing included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.live.load(Ordering::Acquire)
    }

    /// How many bytes are charged to all connections: queued, or being handed to a loop.
    #[must_use]
    pub fn outbound_bytes(&self) -> usize {
        self.shared.outbound_bytes.load(Ordering::Acquire)
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Stops taking in, sends what is queued, closes everything; returns when that is done or
    /// `drain_ms` are over. What clients sent before can still be received.
    pub fn stop(&self, drain_ms: u64) {
        self.shared.stopping.store(true, Ordering::Release);
        for end in &self.shared.loops {
            end.queue.push(Command::Stop {
                drain_ms: drain_ms.min(config::LONGEST_MS),
            });
        }
        for thread in self.threads().drain(..) {
            // A loop that panicked has said so on stderr; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop(0);
    }
}
