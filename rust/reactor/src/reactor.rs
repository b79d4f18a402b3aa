//! The event loop's heart: epoll, the clock and the timers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{Timespec, epoll};

use crate::timers::Timers;

/// What a registration is known by; chosen by the loop's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a registration waits for. Level-triggered: what is left unread is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// Nothing but errors and hang-ups (a paused connection).
    pub const NONE: Self = Self(0);
    /// Bytes to read, or a connection to accept.
    pub const READ: Self = Self(1);
    /// Room to write.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Both, edge-triggered: told once when it begins, so whoever reads or writes goes on until the
    /// socket says that it would wait.
    pub const EDGE: Self = Self(7);

    /// From its two halves.
    #[must_use]
    pub const fn new(read: bool, write: bool) -> Self {
        Self(read as u8 | (write as u8) << 1)
    }

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        if self.0 & 1 != 0 {
            flags |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        }
        if self.0 & 2 != 0 {
            flags |= epoll::EventFlags::OUT;
        }
        if self.0 & 4 != 0 {
            flags |= epoll::EventFlags::ET;
        }
        flags
    }
}

/// One thing to look at after [`Reactor::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Whose.
    pub token: Token,
    /// A read, or an accept, would not wait (it may find the end or an error).
    pub readable: bool,
    /// A write would not wait.
    pub writable: bool,
    /// The other side has ended its half: what it sent before can be read, then the end.
    pub ended: bool,
    /// The other side is gone altogether: nothing can be written any more.
    pub hangup: bool,
    /// The token's deadline has come (see [`Reactor::set_timer`]); the other fields are false.
    pub timer: bool,
}

/// How many events one wait takes: more wait for the next call, so that a busy loop stays fair.
const EVENTS_A_WAIT: usize = 512;
/// How many timers one wait hands out.
const TIMERS_A_WAIT: usize = 1024;

/// epoll, a monotonic clock in milliseconds and one deadline a token.
pub struct Reactor {
    epoll: OwnedFd,
    timers: Timers,
    start: Instant,
    now_ms: u64,
}

impl Reactor {
    /// An empty loop whose clock starts now.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Self::with_clock(Instant::now())
    }

    /// An empty loop whose millisecond 0 is `start`: several loops can share one time line.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn with_clock(start: Instant) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            timers: Timers::default(),
            start,
            now_ms: elapsed_ms(start),
        })
    }

    /// The time of the last wait's return, in milliseconds of the loop's clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Reads the clock anew, after long work.
    pub fn refresh_now(&mut self) -> u64 {
        self.now_ms = elapsed_ms(self.start);
        self.now_ms
    }

    /// Watches a descriptor. It is forgotten by itself once its last duplicate is closed.
    ///
    /// # Errors
    /// The descriptor is registered already, can't be watched, or the kernel's limit is reached.
    pub fn register(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.0);
        Ok(epoll::add(&self.epoll, source, data, interest.flags())?)
    }

    /// Changes what a registered descriptor waits for.
    ///
    /// # Errors
    /// The descriptor is not registered.
    pub fn modify(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.0);
        Ok(epoll::modify(&self.epoll, source, data, interest.flags())?)
    }

    /// Stops watching a descriptor. Events of it that this wait has already handed out may remain.
    ///
    /// # Errors
    /// The descriptor is not registered.
    pub fn deregister(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Sets the token's deadline in place of the one it had.
    pub fn set_timer(&mut self, token: Token, at_ms: u64) {
        self.timers.set(token, at_ms);
    }

    /// Takes the token's deadline away.
    pub fn cancel_timer(&mut self, token: Token) {
        self.timers.cancel(token);
    }

    /// Waits until something is ready, a timer is due or `at_most_ms` have passed (`None`: for ever),
    /// and replaces the contents of `ready` by what there is. A signal ends the wait with nothing.
    ///
    /// # Errors
    /// The epoll descriptor is broken, which no input can cause.
    pub fn wait(&mut self, ready: &mut Vec<Ready>, at_most_ms: Option<u64>) -> io::Result<()> {
        ready.clear();
        let timeout = self.timeout(at_most_ms);
        // On the stack: an event can hold a pointer, and a vector of them could not change threads.
        let mut events = [MaybeUninit::uninit(); EVENTS_A_WAIT];
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => ready.extend(events.iter().map(ready_of)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.refresh_now();
        for _ in 0..TIMERS_A_WAIT {
            let Some(token) = self.timers.pop_due(self.now_ms) else {
                break;
            };
            ready.push(Ready {
                token,
                readable: false,
                writable: false,
                ended: false,
                hangup: false,
                timer: true,
            });
        }
        Ok(())
    }

    fn timeout(&mut self, at_most_ms: Option<u64>) -> Option<Timespec> {
        if at_most_ms == Some(0) {
            return Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
        }
        let until_timer = self.timers.next_ms().map(|at_ms| {
            let now_ms = self.refresh_now();
            at_ms.saturating_sub(now_ms)
        });
        let wait_ms = match (until_timer, at_most_ms) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) => a,
            (None, b) => b?,
        };
        // A day at most: epoll refuses waits beyond 24 days, and nothing waits that long.
        let wait_ms = wait_ms.min(86_400_000);
        Some(Timespec {
            tv_sec: (wait_ms / 1000).cast_signed(),
            tv_nsec: ((wait_ms % 1000) * 1_000_000).cast_signed(),
        })
    }
}

impl AsFd for Reactor {
    /// Readable while something is ready: a loop can be watched by another one. Timers don't show.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn ready_of(event: &epoll::Event) -> Ready {
    let flags = event.flags;
    let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
    Ready {
        token: Token(event.data.u64()),
        readable: broken || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
        writable: broken || flags.contains(epoll::EventFlags::OUT),
        ended: broken || flags.contains(epoll::EventFlags::RDHUP),
        hangup: broken,
        timer: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn tells_readable_writable_and_timers() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let mut ready = Vec::new();
        reactor.register(&a, Token(1), Interest::BOTH).unwrap();
        reactor.wait(&mut ready, Some(0)).unwrap();
        assert!(ready[0].writable && !ready[0].readable);

        reactor.modify(&a, Token(1), Interest::READ).unwrap();
        reactor.wait(&mut ready, Some(0)).unwrap();
        assert!(ready.is_empty());
        b.write_all(b"x").unwrap();
        reactor.wait(&mut ready, Some(5_000)).unwrap();
        assert!(ready[0].readable && ready[0].token == Token(1));

        reactor.deregister(&a).unwrap();
        let at_ms = reactor.refresh_now() + 5;
        reactor.set_timer(Token(9), at_ms);
        reactor.wait(&mut ready, Some(5_000)).unwrap();
        while ready.is_empty() {
            reactor.wait(&mut ready, Some(5_000)).unwrap();
        }
        assert!(ready[0].timer && ready[0].token == Token(9));
        assert!(reactor.now_ms() >= at_ms);
    }

    #[test]
    fn tells_a_hangup_to_a_paused_connection() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.register(&a, Token(1), Interest::NONE).unwrap();
        drop(b);
        let mut ready = Vec::new();
        reactor.wait(&mut ready, Some(5_000)).unwrap();
        assert!(ready[0].hangup && ready[0].readable);
    }
}
