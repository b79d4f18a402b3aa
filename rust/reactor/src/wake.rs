//! Waking a loop, or an asyncio user, from another thread: one eventfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A handle that any thread may hold; clones share the descriptor.
///
/// Wakes between two [`Wake::drain`] calls cost one system call together: whoever is first writes,
/// the others see that the flag is up.
#[derive(Debug, Clone)]
pub struct Wake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Wake {
    /// A new eventfd, non-blocking.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner {
            fd,
            pending: AtomicBool::new(false),
        })))
    }

    /// Makes the descriptor readable. What the caller published before is seen after [`Wake::drain`].
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            // The only failure of a write of 1 is a full counter, and then the descriptor is readable.
            let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
        }
    }

    /// Takes the wake-up back. Look at what was published only after this call.
    pub fn drain(&self) {
        let mut count = [0u8; 8];
        // The read goes first: with the flag lowered first, a wake between the two would be eaten.
        let _ = rustix::io::read(&self.0.fd, &mut count);
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    /// Whether somebody has woken it since the last [`Wake::drain`].
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.0.pending.load(Ordering::Acquire)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Interest, Reactor, Token};

    #[test]
    fn wakes_from_another_thread_and_only_once() {
        let wake = Wake::new().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.register(&wake, Token(7), Interest::READ).unwrap();
        let other = wake.clone();
        let thread = std::thread::spawn(move || {
            for _ in 0..1000 {
                other.wake();
            }
        });
        let mut ready = Vec::new();
        while !ready
            .iter()
            .any(|r: &crate::reactor::Ready| r.token == Token(7))
        {
            reactor.wait(&mut ready, Some(5_000)).unwrap();
            assert!(!ready.is_empty(), "no wake-up in 5 s");
        }
        thread.join().unwrap();
        wake.drain();
        assert!(!wake.is_pending());
        reactor.wait(&mut ready, Some(0)).unwrap();
        assert!(ready.is_empty());
        wake.wake();
        reactor.wait(&mut ready, Some(0)).unwrap();
        assert_eq!(ready.len(), 1);
    }
}
