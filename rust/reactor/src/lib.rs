//! Sockets, event loops, timers and wake-ups: drives what `zmqgame-core` decides.
//!
//! One loop is one thread with one [`reactor::Reactor`]: it registers sockets under a token, waits,
//! and gets back which tokens are ready and which timers are due. [`wake::Wake`] is how another
//! thread gets its attention; [`listener::Listener`] takes connections in and survives running out
//! of descriptors.
#![deny(unsafe_code)]

pub mod bus;
pub mod edge;
pub mod listener;
pub mod load;
pub mod reactor;
pub mod stream;
pub mod sys;
pub mod timers;
pub mod wake;

/// Fills `bytes` with random bytes of the system.
///
/// # Errors
/// The system has none, which does not happen after its start.
pub fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))
}
