//! A node on a thread of its own, for owners on other threads.
//!
//! The node is behind a lock that the thread holds only while it works. A call of the owner runs under the lock and
//! writes to the socket itself, so a send costs no hand-off; what comes is read by the thread, and events wait in a
//! batch for the owner: one wake for as many as there are.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::zmtp::Security;

use super::dealer::{Dealer, DealerConfig};
use super::limits::NODE_EVENTS;
use crate::wake::Wake;

struct State {
    dealer: Dealer,
    events: VecDeque<NodeEvent>,
    /// The thread sleeps until then (`None`: for ever); meaningless while it works.
    asleep_until_ms: Option<Option<u64>>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    /// For owners that wait without a descriptor.
    filled: Condvar,
    /// Towards the thread.
    wake: Wake,
    /// Towards the owner.
    told: Wake,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the node's events to the owner's batch. True: there are new ones.
    fn collect(state: &mut State) -> bool {
        let before = state.events.len();
        while let Some(event) = state.dealer.poll_event() {
            state.events.push_back(event);
        }
        state.events.len() > before
    }

    fn tell(&self) {
        self.told.wake();
        self.filled.notify_one();
    }
}

/// The handle of the owner. Dropping it ends the node without a goodbye.
pub struct NativeNode {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl NativeNode {
    /// Starts the thread; the node connects by itself.
    ///
    /// # Errors
    /// A bad name, or the process is out of descriptors or threads.
    pub fn start(config: DealerConfig) -> io::Result<Self> {
        let dealer = Dealer::new(config)?;
        let shared = Arc::new(Shared {
            wake: dealer.wake(),
            told: Wake::new()?,
            filled: Condvar::new(),
            state: Mutex::new(State {
                dealer,
                events: VecDeque::new(),
                asleep_until_ms: None,
                stop: false,
            }),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("zmqgame-node".into())
            .spawn(move || run(&of_thread))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Runs a batch of calls of the node, then writes what they leave, as far as the socket takes it. The second
    /// argument is the node's clock in ms.
    pub fn with<T>(&self, calls: impl FnOnce(&mut Node, u64) -> T) -> T {
        let mut state = self.shared.lock();
        let result = Self::call(&mut state, calls);
        self.finish(state);
        result
    }

    /// As [`NativeNode::with`], but what the calls leave waits for the next [`NativeNode::flush`] or what comes
    /// before it.
    pub fn queue<T>(&self, calls: impl FnOnce(&mut Node, u64) -> T) -> T {
        Self::call(&mut self.shared.lock(), calls)
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&self) {
        self.finish(self.shared.lock());
    }

    fn call<T>(state: &mut State, calls: impl FnOnce(&mut Node, u64) -> T) -> T {
        let now_ms = state.dealer.refresh_now();
        calls(state.dealer.node(), now_ms)
    }

    fn finish(&self, mut state: MutexGuard<'_, State>) {
        state.dealer.flush();
        // What the calls have to say at once is an event too.
        let news = Shared::collect(&mut state);
        let earlier = match (state.asleep_until_ms, state.dealer.poll_timeout()) {
            (Some(until_ms), Some(due_ms)) => until_ms.is_none_or(|until_ms| due_ms < until_ms),
            _ => false,
        };
        drop(state);
        if news {
            self.shared.tell();
        }
        if earlier {
            self.shared.wake.wake();
        }
    }

    /// Takes what has happened, behind what `events` holds already. After the descriptor was readable, or at any time.
    pub fn take_events(&self, events: &mut VecDeque<NodeEvent>) {
        if self.shared.told.is_pending() {
            self.shared.told.drain();
        }
        let mut state = self.shared.lock();
        let resume = state.events.len() >= NODE_EVENTS;
        if events.is_empty() {
            std::mem::swap(events, &mut state.events);
        } else {
            events.append(&mut state.events);
        }
        drop(state);
        if resume {
            self.shared.wake.wake();
        }
    }

    /// Waits until there are events, at most so long, and takes them.
    pub fn wait_events(&self, events: &mut VecDeque<NodeEvent>, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut state = self.shared.lock();
        while state.events.is_empty() {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            let waited = self.shared.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.take_events(events);
    }

    /// What the last failed handshake says about keys; empty if nothing.
    #[must_use]
    pub fn key_trouble(&self) -> String {
        self.shared.lock().dealer.key_trouble().to_owned()
    }

    /// The keys of the next connection.
    pub fn set_security(&self, security: Security) {
        self.shared.lock().dealer.set_security(security);
    }

    /// Whether all that was sent is with the kernel.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.shared.lock().dealer.is_flushed()
    }

    /// Ends the node, its connection and the thread; what waits to be written is tried once.
    pub fn stop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            state.dealer.close();
            // Whoever still looks is told what was given up.
            Shared::collect(&mut state);
        }
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of it was shown on its own.
            let _ = thread.join();
        }
    }
}

impl AsFd for NativeNode {
    /// Readable while there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.told.as_fd()
    }
}

impl Drop for NativeNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread: waits without the lock, works with it.
fn run(shared: &Shared) {
    let descriptor = match shared.lock().dealer.as_fd().try_clone_to_owned() {
        Ok(descriptor) => descriptor,
        Err(_) => return,
    };
    loop {
        let mut state = shared.lock();
        state.asleep_until_ms = None;
        if state.stop {
            return;
        }
        if state.events.len() < NODE_EVENTS {
            state.dealer.turn_now();
        } else {
            state.dealer.turn_unread();
        }
        let news = Shared::collect(&mut state);
        // After the events: a connection that they asked for has something to write, and has new deadlines.
        state.dealer.flush();
        let until_ms = state.dealer.poll_timeout();
        let now_ms = state.dealer.now_ms();
        let full = state.events.len() >= NODE_EVENTS;
        state.asleep_until_ms = Some(until_ms);
        drop(state);
        if news {
            shared.tell();
        }
        sleep(
            &descriptor,
            &shared.wake,
            full,
            until_ms.map(|until_ms| until_ms.saturating_sub(now_ms)),
        );
    }
}

fn sleep(dealer: impl AsFd, wake: &Wake, full: bool, wait_ms: Option<u64>) {
    let timeout = wait_ms.map(|wait_ms| Timespec {
        tv_sec: (wait_ms / 1000).cast_signed(),
        tv_nsec: ((wait_ms % 1000) * 1_000_000).cast_signed(),
    });
    // An owner that does not take its events is not read for: then only the wake counts.
    let source = if full { wake.as_fd() } else { dealer.as_fd() };
    // A signal ends the wait early, which does no harm.
    let _ = poll(
        &mut [PollFd::from_borrowed_fd(source, PollFlags::IN)],
        timeout.as_ref(),
    );
}
