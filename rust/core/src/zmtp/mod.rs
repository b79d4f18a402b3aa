//! ZMTP 3.1, the wire protocol of ZeroMQ, with the mechanisms NULL and CURVE.
//!
//! Specifications: RFC 37 (ZMTP 3.1; 3.0 peers are served), RFC 26 (CurveZMQ). libzmq is the oracle
//! of the tests. [`peer::Peer`] is one end of one connection: bytes in, frames out, no socket, no
//! clock, no randomness of its own. The socket types are ROUTER (server) and DEALER (client).
//!
//! ```text
//! bytes ──> greeting (64 B) ──> frame heads ──┬─> command: READY, ERROR, PING, PONG  (NULL)
//!                                             ├─> command: HELLO ... READY            (CURVE handshake)
//!                                             └─> message ──> [CURVE: open] ──> one frame of the bus
//! ```
//!
//! A message of the bus is one frame; a multi-part message is refused. Limits are checked on the
//! frame's head, and memory grows with bytes that came, not with lengths that were claimed.

mod cipher;
mod command;
mod curve;
pub mod error;
mod frame;
mod greeting;
pub mod limits;
mod out;
pub mod peer;
#[cfg(test)]
mod tests;

pub use cipher::{PublicKey, SecretKey};
pub use error::{Fault, ZmtpError};
pub use out::OutQueue;
pub use peer::{Config, Entropy, Established, Event, Peer, Role, Security};
