//! The client edge: connections of many clients as batches of packets.
//!
//! [`Edge`] is the handle: it starts the loops, listens, sends, closes, stops; any thread may use it.
//! One thread (`gate`) takes connections in, reads PROXY headers, does TLS handshakes (`tls`), and chooses
//! a loop for each (`balance`). Each loop is a thread (`event_loop`) with its connections (`connection` over
//! `line`, `websocket`), outgoing ones (`outgoing`) included: how their bytes move is in `transfer`, how they
//! end in `ending`. What clients send becomes rows of one [`Batch`]: taken by the consumer with
//! [`Edge::receive`] (`inbox`), or handled on the loop by a [`Handler`]. What other threads ask of a loop
//! waits in its queue (`command`), packets by way of `sender`. Everything that waits is bounded: `config`
//! names the bounds, `table`, `admission` and `held` count for them, `counters` shows what they refused.

mod admission;
mod balance;
mod command;
pub mod config;
mod connection;
mod counters;
mod ending;
mod event_loop;
mod gate;
mod handler;
mod held;
mod inbox;
mod line;
mod outgoing;
mod proxies;
mod rates;
mod reason;
mod sender;
mod shared;
mod table;
mod tls;
mod transfer;
mod udp;
mod udp_loop;
mod udp_plain;
pub mod websocket;
pub mod websocket_client;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zmqgame_core::edge::netcode::Key;
use zmqgame_core::stream::packet::{Batch, Header};

use crate::listener::Listener;
use command::{Answer, Command};
use config::{ConnectTls, EdgeConfig, Framing, ListenOptions, Proxies};
use event_loop::EventLoop;
use gate::{Gate, Port};
use tls::TlsServer;
use udp::UdpListener;
use udp_plain::PlainListener;

pub use counters::Counters;
pub use handler::{Handler, Out};
pub use outgoing::Dial;
pub use reason::{CloseReason, ThreadDied};
pub use shared::{Shared, Write};
pub use websocket_client::WebSocketUrl;

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

/// How long after its deadline a stop waits for threads that have much to close, or little time.
const GRACE_MS: u64 = 1_000;

/// A running edge. Dropping it stops it without waiting for what is queued.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    /// The loops', then the gate's.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Also of those that a stop did not wait for.
    ids: Mutex<Vec<ThreadId>>,
    tls: Mutex<Vec<Arc<TlsServer>>>,
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
            ids: Mutex::default(),
            tls: Mutex::default(),
            next_loop: std::sync::atomic::AtomicUsize::new(0),
        };
        let started = edge.start_threads(&mut make);
        if started.is_err() {
            // Nobody is to wait for those that were not started.
            let first = edge.threads().len();
            (first..=shared.loops.len()).for_each(|index| shared.end_thread(index, false));
        }
        started.map(|()| edge)
    }

    fn start_threads(
        &self,
        make: &mut impl FnMut(usize) -> Option<Box<dyn Handler>>,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        for index in 0..shared.config.loops {
            let (handler, shared) = (make(index), Arc::clone(&shared));
            let thread = start_thread(
                Arc::clone(&shared),
                index,
                move || EventLoop::new(index, shared, handler),
                EventLoop::run,
            )?;
            self.keep(thread);
        }
        let (index, gate) = (shared.loops.len(), Arc::clone(&shared));
        let thread = start_thread(gate, index, move || Gate::new(shared), Gate::run)?;
        self.keep(thread);
        Ok(())
    }

    fn keep(&self, thread: JoinHandle<()>) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(thread.thread().id());
        self.threads().push(thread);
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on `host:port` (port 0: a free one) and gives the address it is bound to.
    ///
    /// # Errors
    /// The address is in use, not ours, or no address; the TLS files can't be used; or the edge has stopped.
    pub fn listen_tcp(
        &self,
        address: &str,
        options: impl Into<ListenOptions>,
    ) -> io::Result<String> {
        let options = options.into();
        if options.keepalive_s > config::LONGEST_KEEPALIVE_S {
            let most = config::LONGEST_KEEPALIVE_S;
            let what = format!(
                "keepalive_s is {}: must be 0 to {most}",
                options.keepalive_s
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let listener = Listener::bind_tcp(address, options.reuse_port)?;
        if options.keepalive_s > 0 {
            listener.keep_alive(options.keepalive_s)?;
        }
        self.listen(listener, options)
    }

    /// Listens on a path.
    ///
    /// # Errors
    /// The path is in use or its folder not writable; its proxies are networks; or the edge has stopped.
    pub fn listen_unix(
        &self,
        path: &Path,
        options: impl Into<ListenOptions>,
    ) -> io::Result<String> {
        let options = options.into();
        if matches!(options.proxy_protocol, Proxies::Of(_)) {
            let what =
                "a Unix socket's clients have no address: its proxies are all who can connect";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.listen(Listener::bind_unix(path)?, options)
    }

    fn listen(&self, listener: Listener, options: ListenOptions) -> io::Result<String> {
        self.check_running()?;
        let address = listener.address();
        let tls = options.tls.clone().map(TlsServer::load).transpose()?;
        let tls = tls.map(Arc::new);
        let port = Box::new(Port {
            listener,
            options,
            tls: tls.clone(),
        });
        let gate = |answer| self.shared.gate.push(Command::Listen(port, answer));
        self.ask(|answer| gate(answer).map_err(|_| self.shared.gone()))?;
        self.tls_servers().extend(tls);
        Ok(address)
    }

    /// Asks a thread of ours and waits for its answer; when it ends instead, says so.
    fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> io::Result<()>) -> io::Result<T> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        ask(answer)?;
        answered.recv().unwrap_or_else(|_| Err(self.shared.gone()))
    }

    fn tls_servers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<TlsServer>>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the certificates and keys of all listeners again, for connections that come from now on.
    ///
    /// # Errors
    /// Files that can't be used, all of them; their listeners keep what they had.
    pub fn reload_tls(&self) -> io::Result<()> {
        let servers = self.tls_servers().clone();
        let failed: Vec<_> = servers
            .iter()
            .filter_map(|server| server.reload().err())
            .map(|error| error.to_string())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let what = format!("kept the old: {}", failed.join("; "));
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    /// Connects to `host:port`. Gives the connection's id at once; its open packet comes when it is there,
    /// its close packet when it can't be made. Not to be called on a loop: there is [`Out::connect`].
    ///
    /// # Errors
    /// The name does not resolve, the authorities can't be read, there are too many connections already, or
    /// the edge has stopped.
    pub fn connect_tcp(
        &self,
        address: &str,
        framing: Framing,
        tls: Option<&ConnectTls>,
    ) -> io::Result<u64> {
        self.connect(Dial::tcp(address, framing, tls)?)
    }

    /// Connects to a Unix socket's path, as [`Edge::connect_tcp`].
    ///
    /// # Errors
    /// Nobody listens there, there are too many connections already, or the edge has stopped.
    pub fn connect_unix(&self, path: &Path, framing: Framing) -> io::Result<u64> {
        self.connect(Dial::unix(path, framing))
    }

    /// Connects to a WebSocket, as [`Edge::connect_tcp`]: its binary messages are packets.
    ///
    /// # Errors
    /// See [`Edge::connect_tcp`]; or the URL is for TLS and there are no authorities, or the other way.
    pub fn connect_websocket(
        &self,
        url: &WebSocketUrl,
        tls: Option<&ConnectTls>,
    ) -> io::Result<u64> {
        self.connect(Dial::websocket(url, tls)?)
    }

    fn connect(&self, dial: Dial) -> io::Result<u64> {
        self.ask(|answer| self.hand_over(Command::Connect(Box::new(dial), answer)))
    }

    /// Listens for netcode sessions on `host:port` and gives the address it is bound to. Tokens must
    /// name `public_address`, by default the bound one, and be sealed with `private_key`.
    ///
    /// # Errors
    /// An address is in use, not ours, or no address; a port's buffers are over `max_memory_bytes`; or the
    /// edge has stopped.
    pub fn listen_udp(
        &self,
        address: &str,
        public_address: Option<&str>,
        protocol_id: u64,
        private_key: Key,
    ) -> io::Result<String> {
        let listener = UdpListener::bind(
            address,
            public_address,
            protocol_id,
            private_key,
            &self.shared,
        )?;
        let address = listener.address()?;
        self.ask(|answer| self.hand_over(Command::ListenUdp(Box::new(listener), answer)))?;
        Ok(address)
    }

    /// Listens for plain datagrams on `host:port`, every loop on a socket of its own, and gives the
    /// address they are bound to. Each datagram is a packet of kind 0, each remote address a connection
    /// until it is silent for the idle time-out.
    ///
    /// # Errors
    /// The address is in use, not ours, or no address; the ports' buffers are over `max_memory_bytes`; or the
    /// edge has stopped.
    pub fn listen_udp_plain(&self, address: &str) -> io::Result<String> {
        self.check_running()?;
        self.check_thread()?;
        let (listeners, address) = PlainListener::bind(address, &self.shared)?;
        let loops = &self.shared.loops;
        let (answer, answers) = std::sync::mpsc::sync_channel(loops.len());
        for (end, listener) in loops.iter().zip(listeners) {
            // The socket of one that has died closes: the kernel gives its datagrams to the others.
            let _ = end
                .queue
                .push(Command::ListenUdpPlain(listener, answer.clone()));
        }
        drop(answer);
        let answers: Vec<_> = answers.iter().collect();
        let failed = match answers.is_empty() {
            true => Some(self.shared.gone()),
            false => answers.into_iter().find_map(Result::err),
        };
        let Some(error) = failed else {
            return Ok(address);
        };
        if let Ok(address) = address.parse() {
            for end in loops {
                let _ = end.queue.push(Command::ForgetUdpPlain(address));
            }
        }
        Err(error)
    }

    /// UDP listeners and outgoing connections go to the loops in turn.
    fn hand_over(&self, mut command: Command) -> io::Result<()> {
        self.check_running()?;
        self.check_thread()?;
        for _ in &self.shared.loops {
            let index = self.next_loop.fetch_add(1, Ordering::Relaxed) % self.shared.loops.len();
            match self.shared.loops[index].queue.push(command) {
                Ok(()) => return Ok(()),
                // This loop has died.
                Err(back) => command = back,
            }
        }
        Err(self.shared.gone())
    }

    fn check_running(&self) -> io::Result<()> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(self.shared.gone());
        }
        Ok(())
    }

    /// Whether this thread is one of ours.
    fn is_ours(&self) -> bool {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.contains(&std::thread::current().id())
    }

    /// A loop must not wait for an answer of a loop: it could be its own.
    fn check_thread(&self) -> io::Result<()> {
        if self.is_ours() {
            let what = "a handler must not wait for its edge";
            return Err(io::Error::new(io::ErrorKind::Deadlock, what));
        }
        Ok(())
    }

    /// Whether all threads of the edge live. [`Edge::wait`] asks this by itself, others may want to.
    ///
    /// # Errors
    /// One has died: [`ThreadDied`] is in the error. It is told once for each while there are other loops,
    /// which go on; then always.
    pub fn check_threads(&self) -> io::Result<()> {
        let shared = &self.shared;
        let Some(died) = shared.died() else {
            return Ok(());
        };
        let untold = shared.untold.swap(false, Ordering::AcqRel);
        if untold || (0..shared.loops.len()).all(|index| shared.has_ended(index)) {
            return Err(io::Error::other(died.clone()));
        }
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

    /// Says that all batches taken so far are handled and answered: clients that have ended their half wait
    /// for no more. [`Edge::receive`] and [`Edge::wait`] say so, too; who calls neither for a while, because
    /// it waits by the descriptor, may say it here.
    pub fn end_handling(&self) {
        if self.shared.inbox.end_handling() {
            self.shared.wake_loops();
        }
    }

    /// Waits until there are packets. Gives whether there are.
    ///
    /// # Errors
    /// A thread of the edge has died, and all packets were taken: see [`Edge::check_threads`].
    pub fn wait(&self, timeout_ms: u64) -> io::Result<bool> {
        self.end_handling();
        let wake = self.shared.inbox.wake();
        if self.shared.died().is_some() && self.shared.inbox.is_idle() {
            self.check_threads()?;
        }
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

    /// Takes a wake-up back without taking packets.
    pub fn quiet(&self) {
        self.shared.inbox.wake().drain();
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EdgeConfig {
        &self.shared.config
    }

    /// Takes the storage of received batches back.
    #[must_use]
    pub fn returns(&self) -> Returns {
        Returns(Arc::downgrade(&self.shared))
    }

    /// Queues packets; gives how many were refused. See [`Shared::send`].
    pub fn send<'a>(&self, writes: impl IntoIterator<Item = Write<'a>>) -> usize {
        self.shared.send(writes)
    }

    /// Queues one packet whose payload is in parts; gives whether it was taken.
    pub fn send_vectored(&self, connection: u64, header: Header, parts: &[&[u8]]) -> bool {
        self.shared.send_vectored(connection, header, parts)
    }

    /// Closes a connection after what was sent before; an unknown one is closed already.
    pub fn close(&self, connection: u64, reason: &str) {
        self.shared.close(connection, reason);
    }

    /// Stops reading a connection: what its client sends waits in the network; datagrams, which can't, are
    /// dropped and counted. A client is not called idle meanwhile. When its client closes, what it sent
    /// before can still be read for the idle time-out (30 s where that is never), if it is resumed in time;
    /// then the connection closes. One that is broken closes at once.
    pub fn pause(&self, connection: u64) {
        self.shared.pause(connection, true);
    }

    /// Reads a connection again.
    pub fn resume(&self, connection: u64) {
        self.shared.pause(connection, false);
    }

    /// Gives a loop's handler's place to another one, or to none: then its rows go to the inbox. What waits
    /// there is the new handler's first. Not to be called on a loop.
    ///
    /// # Errors
    /// The edge has stopped, or there is no such loop.
    pub fn set_handler(
        &self,
        loop_index: usize,
        handler: Option<Box<dyn Handler>>,
    ) -> io::Result<()> {
        self.check_running()?;
        self.check_thread()?;
        let shared = &self.shared;
        let end = shared.loops.get(loop_index);
        let end = end.ok_or_else(|| shared.gone())?;
        let handle = |answer| end.queue.push(Command::Handle(handler, answer));
        self.ask(|answer| handle(answer).map_err(|_| shared.gone()))
    }

    /// Ends the consumer's [`Edge::wait`], or calls [`Handler::woken`] on every loop.
    pub fn wake(&self) {
        self.shared.wake();
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

    /// How many stream connections each loop has.
    #[must_use]
    pub fn connections_of_loops(&self) -> Vec<usize> {
        let live = |end: &shared::LoopEnd| end.live.load(Ordering::Relaxed);
        self.shared.loops.iter().map(live).collect()
    }

    /// How many bytes the buffers of all connections have.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes the queues of requests to the loops have, packets that are to be sent included: at most
    /// the outbound bound of all, and what the requests themselves take.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.shared.queue_bytes()
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
    /// `drain_ms` are over. What clients sent before can still be received. A handler that does not return
    /// is given one second more; then its loop is left alone, and ends when it does return. Called on a loop
    /// of the edge it does not wait.
    pub fn stop(&self, drain_ms: u64) {
        let shared = &self.shared;
        shared.stopping.store(true, Ordering::Release);
        let drain_ms = drain_ms.min(config::LONGEST_MS);
        let until_ms = shared.now_ms() + drain_ms;
        let deadline = Instant::now() + Duration::from_millis(drain_ms + GRACE_MS);
        let (loops, waits) = (shared.loops.len(), !self.is_ours());
        let wait_for = |indexes| {
            if waits {
                shared.wait_for_ends(indexes, deadline);
            }
        };
        // The gate first: what it has taken in goes to loops that still run. Who has ended takes nothing.
        let _ = shared.gate.push(Command::Stop { until_ms });
        wait_for(loops..loops + 1);
        for end in &shared.loops {
            let _ = end.queue.push(Command::Stop { until_ms });
        }
        wait_for(0..loops);
        if !waits {
            return;
        }
        // Who has not ended now may never do; a thread that panicked has said so on stderr.
        for (index, thread) in self.threads().drain(..).enumerate() {
            if shared.has_ended(index) {
                let _ = thread.join();
            }
        }
        // What came too late holds the shared state that holds it.
        for queue in shared
            .loops
            .iter()
            .map(|end| &end.queue)
            .chain([&shared.gate])
        {
            queue.close();
        }
    }
}

/// Tells all who wait when a thread ends, whichever way.
struct End {
    shared: Arc<Shared>,
    index: usize,
    died: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.end_thread(self.index, self.died);
    }
}

/// What a thread runs is made on it, since what epoll fills can't move; its failure comes back.
fn start_thread<T: 'static>(
    shared: Arc<Shared>,
    index: usize,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
    run: fn(T) -> io::Result<()>,
) -> io::Result<JoinHandle<()>> {
    let (made, is_made) = std::sync::mpsc::channel();
    let name = shared.thread_name(index);
    let body = move || {
        let died = true;
        let mut end = End {
            shared,
            index,
            died,
        };
        let running = match make() {
            Ok(running) => running,
            Err(error) => {
                end.died = false;
                let _ = made.send(Err(error));
                return;
            }
        };
        let _ = made.send(Ok(()));
        end.died = run(running).is_err();
    };
    let thread = std::thread::Builder::new().name(name).spawn(body)?;
    is_made
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the thread died")))
        .map(|()| thread)
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop(0);
    }
}
