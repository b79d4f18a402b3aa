//! The hub of `zmqgame-core` on a thread of its own.
//!
//! ```text
//! sockets ──> Server ──> HubRouter ──> Hub (core) ──> Server ──> sockets
//!                            │  ↑
//!                            ↓  │ one batch at a time
//!                        StoreQueue <──> the store's thread (Python: SQLite, MongoDB)
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::bus::hub::trace::Hop;
use zmqgame_core::bus::hub::{Allowed, Hub, HubConfig, HubOut, Peer, Sum};
use zmqgame_core::zmtp::{Config, Established};

use super::counters::LogLine;
use super::limits::FIRST_FRAME_BYTES;
use super::server::{Action, Conn, Router, Server, Watch};
use super::store::StoreQueue;
use crate::listener::Listener;
use crate::wake::Wake;

/// Operations of one store batch: a transaction of a few milliseconds.
pub const STORE_BATCH_OPS: usize = 1_000;
/// Questions of other threads that may wait for the loop: each asker waits for its answer.
const MAX_COMMANDS: usize = 64;
/// How long an asker waits: the loop's turns take milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Sums handed over at once: the rest comes with the next call.
const SUMS_A_TAKE: usize = 4_096;
/// The hub learns of a jump of the wall clock this late: deadlines are in seconds.
const WALL_CLOCK_MS: u64 = 1_000;
/// While it drains, the loop looks this often whether it is done.
const DRAIN_LOOK_MS: u64 = 10;

enum Command {
    Status(SyncSender<String>),
    Counters(SyncSender<Vec<(&'static str, u64)>>),
    Metrics(SyncSender<String>),
    Trace {
        hops: usize,
        all: bool,
        answer: SyncSender<(Vec<Hop>, Vec<Sum>)>,
    },
    Note(String),
    Keys {
        zmtp: Box<Config>,
        allowed: Vec<Allowed>,
    },
    Stop {
        drain_ms: u64,
    },
}

/// The core's hub as the server's router.
pub struct HubRouter {
    hub: Hub,
    store: Arc<StoreQueue>,
    commands: Receiver<Command>,
    /// For the server: what connections from now on are met with.
    zmtp: Option<Config>,
    /// When the hub's clock began.
    started: Instant,
    /// When the wall clock is read next.
    wall_at_ms: u64,
    /// Asked to stop: until when what waits may still go out.
    stop_at_ms: Option<u64>,
}

impl HubRouter {
    /// Latencies want a finer clock than the loop's, which also stands still during a turn.
    fn set_clock(&mut self) {
        let us = self.started.elapsed().as_micros();
        self.hub.set_clock_us(u64::try_from(us).unwrap_or(u64::MAX));
    }

    fn command(&mut self, now_ms: u64, command: Command) {
        // An asker that has given up does not want its answer any more.
        match command {
            Command::Status(answer) => drop(answer.try_send(self.hub.status_json())),
            Command::Counters(answer) => drop(answer.try_send(self.hub.counters().entries())),
            Command::Metrics(answer) => drop(answer.try_send(self.hub.metrics_json())),
            Command::Trace { hops, all, answer } => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH);
                let unix_us = unix.unwrap_or_default().as_micros();
                let hops = self
                    .hub
                    .take_hops(hops, u64::try_from(unix_us).unwrap_or(u64::MAX));
                drop(answer.try_send((hops, self.hub.take_sums(SUMS_A_TAKE, all))));
            }
            Command::Note(json) => self.hub.set_note(json),
            Command::Keys { zmtp, allowed } => {
                self.zmtp = Some(*zmtp);
                self.hub.set_allowed(now_ms, allowed);
            }
            Command::Stop { drain_ms } => {
                self.hub.handle_stop();
                self.stop_at_ms = Some(now_ms.saturating_add(drain_ms));
            }
        }
    }
}

impl Router for HubRouter {
    fn connected(&mut self, now_ms: u64, conn: Conn, established: &Established, address: &str) {
        let peer = Peer {
            key: established.key,
            address: address.to_owned(),
        };
        self.hub.handle_connected(now_ms, conn, peer);
    }

    fn frame(&mut self, now_ms: u64, conn: Conn, frame: &[u8]) {
        self.set_clock();
        self.hub.handle_frame(now_ms, conn, frame);
    }

    fn progress(&mut self, now_ms: u64, conn: Conn) {
        self.hub.handle_progress(now_ms, conn);
    }

    fn disconnected(&mut self, now_ms: u64, conn: Conn) {
        self.hub.handle_disconnected(now_ms, conn);
    }

    fn set_writable(&mut self, conn: Conn, writable: bool) {
        self.hub.set_writable(conn, writable);
    }

    fn woken(&mut self, now_ms: u64) {
        self.set_clock();
        if let Some((number, result)) = self.store.take_done() {
            let fits = self.hub.handle_store(now_ms, number, result);
            fits.expect("the queue gives back the batch that it was given, with all results");
        }
        while let Ok(command) = self.commands.try_recv() {
            self.command(now_ms, command);
        }
    }

    fn poll_timeout(&mut self) -> Option<u64> {
        self.hub.poll_timeout()
    }

    fn timeout(&mut self, now_ms: u64) {
        self.set_clock();
        if now_ms >= self.wall_at_ms {
            self.wall_at_ms = now_ms + WALL_CLOCK_MS;
            let unix = SystemTime::now().duration_since(UNIX_EPOCH);
            let unix_ms = unix.unwrap_or_default().as_millis();
            self.hub
                .handle_clock(now_ms, u64::try_from(unix_ms).unwrap_or(u64::MAX));
        }
        self.hub.handle_timeout(now_ms);
    }

    fn poll(&mut self, _now_ms: u64) -> Option<Action> {
        if let Some(out) = self.hub.poll_out() {
            return Some(match out {
                HubOut::Frame { conn, bytes } => Action::Send { conn, bytes },
                HubOut::Close { conn, why } => Action::Close {
                    conn,
                    why: why.text,
                },
                HubOut::Exit { why } => Action::Exit { why },
            });
        }
        if let Some(batch) = self.hub.poll_store(STORE_BATCH_OPS) {
            self.store.put(batch);
        }
        None
    }
}

/// Why the loop ended, for those who wait for it.
#[derive(Default)]
struct End {
    reason: Mutex<Option<String>>,
    changed: Condvar,
}

impl End {
    fn set(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration) -> Option<String> {
        let until = Instant::now() + timeout;
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        while reason.is_none() {
            let left = until.checked_duration_since(Instant::now())?;
            reason = self
                .changed
                .wait_timeout(reason, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        reason.clone()
    }
}

/// The thread that the hub lives on; it ends with the runner.
pub struct HubRunner {
    store: Arc<StoreQueue>,
    watch: Arc<Watch>,
    end: Arc<End>,
    wake: Wake,
    commands: SyncSender<Command>,
    endpoints: Vec<String>,
    thread: Option<JoinHandle<()>>,
}

impl HubRunner {
    /// Binds every endpoint, then starts the hub.
    ///
    /// # Errors
    /// An endpoint can't be bound; the text names it.
    pub fn start(hub: HubConfig, mut zmtp: Config, endpoints: &[String]) -> io::Result<Self> {
        let listeners = endpoints
            .iter()
            .map(|endpoint| bind(endpoint))
            .collect::<io::Result<Vec<_>>>()?;
        let bound = endpoints
            .iter()
            .zip(&listeners)
            .map(|(endpoint, listener)| name_of(endpoint, listener));
        let endpoints = bound.collect();
        let wake = Wake::new()?;
        let store = Arc::new(StoreQueue::new(wake.clone()));
        let (commands, receiver) = sync_channel(MAX_COMMANDS);
        let router = HubRouter {
            hub: Hub::new(hub, 0),
            store: Arc::clone(&store),
            commands: receiver,
            wall_at_ms: 0,
            zmtp: None,
            started: Instant::now(),
            stop_at_ms: None,
        };
        zmtp.first_frame_bytes = FIRST_FRAME_BYTES;
        let server = Server::new(router, zmtp, listeners, wake.clone())?;
        let (watch, end) = (server.watch(), Arc::new(End::default()));
        let (at_end, store_at_end) = (Arc::clone(&end), Arc::clone(&store));
        let thread =
            std::thread::Builder::new()
                .name("zmqgame-hub".into())
                .spawn(move || {
                    // A broken invariant ends the hub, and whoever waits has to hear of it: nodes come back
                    // to the next one.
                    let reason = catch_unwind(AssertUnwindSafe(|| run(server)));
                    store_at_end.stop();
                    at_end.set(reason.unwrap_or_else(|panic| {
                        format!("the hub's loop broke: {}", text_of(&*panic))
                    }));
                })?;
        Ok(Self {
            store,
            watch,
            end,
            wake,
            commands,
            endpoints,
            thread: Some(thread),
        })
    }

    /// What it is bound to, ports resolved.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The queue of store batches.
    #[must_use]
    pub fn store(&self) -> &StoreQueue {
        &self.store
    }

    /// Every counter: the hub's own, and the sockets' with the prefix `link_`.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let own = self.ask(Command::Counters).unwrap_or_default();
        let links = self.watch.counters();
        let mut all: Vec<(String, u64)> = own
            .into_iter()
            .map(|(name, count)| (name.into(), count))
            .collect();
        let numbers = [
            ("link_open", self.watch.connections() as u64),
            ("link_accepted", links.accepted),
            ("link_established", links.established),
            ("link_in_bytes", links.in_bytes),
            ("link_out_bytes", links.out_bytes),
            ("link_in_frames", links.in_frames),
            ("link_out_frames", links.out_frames),
            ("link_turns", links.turns),
            ("link_log_dropped", links.log_dropped),
        ];
        all.extend(numbers.map(|(name, count)| (name.into(), count)));
        all.extend(
            links
                .closed
                .iter()
                .map(|(kind, &count)| (format!("link_closed_{kind}"), count)),
        );
        all
    }

    /// What the hub says of itself, as JSON; `None` once it has ended.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        self.ask(Command::Status)
    }

    /// Everything that monitoring wants of the core, as JSON; `None` once it has ended.
    #[must_use]
    pub fn metrics(&self) -> Option<String> {
        self.ask(Command::Metrics)
    }

    /// Recorded hops, at most so many, and the sums of the seconds that are over (`all`: also of this one).
    #[must_use]
    pub fn take_trace(&self, hops: usize, all: bool) -> Option<(Vec<Hop>, Vec<Sum>)> {
        self.ask(|answer| Command::Trace { hops, all, answer })
    }

    /// What status and metrics say of the process around the hub: a JSON object.
    pub fn set_note(&self, json: String) {
        // The next one comes in a second.
        let _ = self.commands.try_send(Command::Note(json));
        self.wake.wake();
    }

    /// The log lines since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<LogLine> {
        self.watch.take_log()
    }

    /// Other keys: connections from now on are met with `zmtp`, links whose key is not in `allowed` any more
    /// are closed. False: the loop has ended, or is asked too much.
    #[must_use]
    pub fn set_keys(&self, mut zmtp: Config, allowed: Vec<Allowed>) -> bool {
        zmtp.first_frame_bytes = FIRST_FRAME_BYTES;
        let zmtp = Box::new(zmtp);
        let taken = self.commands.try_send(Command::Keys { zmtp, allowed });
        self.wake.wake();
        taken.is_ok()
    }

    /// Takes no more connections, lets what waits go out for at most so long, then ends.
    pub fn stop(&self, drain_ms: u64) {
        // Fails only when the loop is gone, or 64 others have asked it something: it will see one.
        let _ = self.commands.try_send(Command::Stop { drain_ms });
        self.wake.wake();
    }

    /// Waits for the end; why it came, or `None` while the hub is running.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<String> {
        self.end.wait(timeout)
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.commands.try_send(command(answer)).ok()?;
        self.wake.wake();
        answered.recv_timeout(ANSWER_TIMEOUT).ok()
    }
}

impl Drop for HubRunner {
    fn drop(&mut self) {
        self.stop(0);
        if let Some(thread) = self.thread.take() {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

/// The loop until its end, and why it came.
fn run(mut server: Server<HubRouter>) -> String {
    let mut look_ms = None;
    let mut said = false;
    loop {
        match server.turn(look_ms) {
            Ok(None) => {}
            Ok(Some(why)) => return why,
            Err(error) => return format!("waiting for sockets failed: {error}"),
        }
        if let Some(zmtp) = server.router.zmtp.take() {
            server.set_config(zmtp);
        }
        if let Some(at_ms) = server.router.stop_at_ms {
            server.stop_listening();
            look_ms = Some(DRAIN_LOOK_MS);
            let drained = server.is_flushed() && !server.router.store.is_busy();
            let late = server.now_ms() >= at_ms;
            if late || (drained && said) {
                return "stopped".into();
            }
            if drained {
                // Every receipt is out: now the nodes are told, and that goes out in the next turn.
                said = true;
                let now_ms = server.now_ms();
                server.router.hub.say_stop(now_ms);
            }
        }
    }
}

/// `tcp://host:port`, `tcp://*:port` or `ipc://path`, listening.
fn bind(endpoint: &str) -> io::Result<Listener> {
    let listener = match endpoint.split_once("://") {
        Some(("tcp", address)) => Listener::bind_tcp(&address.replacen('*', "0.0.0.0", 1), false),
        Some(("ipc", path)) => Listener::bind_unix(Path::new(path)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "write tcp://HOST:PORT or ipc://PATH",
        )),
    };
    listener.map_err(|error| {
        let what_to_do = match error.kind() {
            io::ErrorKind::AddrInUse => "; stop what listens there, or choose another address",
            io::ErrorKind::PermissionDenied => {
                "; choose a port above 1023 or a folder that is yours"
            }
            io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {endpoint}: {error}{what_to_do}"),
        )
    })
}

fn name_of(endpoint: &str, listener: &Listener) -> String {
    let scheme = if endpoint.starts_with("ipc") {
        "ipc"
    } else {
        "tcp"
    };
    format!("{scheme}://{}", listener.address())
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a word".into())
}
