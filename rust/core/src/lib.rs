//! The decisions of zmqgame: no socket, no clock, no thread, no unsafe.
//!
//! Bytes and the time come in as arguments through `handle_*`; what is to be done goes out
//! through `poll_*`. So one thread can run hubs, nodes, loss and crashes from one seed.
#![forbid(unsafe_code)]

/// Messages, hub, node.
pub mod bus;
/// What happens between a game server and its clients.
pub mod edge;
/// Typed errors about bytes from outside.
pub mod error;
/// Every limit with its reason.
pub mod limits;
/// The physics of the drag race.
pub mod race;
/// Whether SQLite's log has lost more than a crash can take.
pub mod sqlite_log;
pub mod stream;
pub mod zmtp;
