//! netcode 1.02: encrypted, replay-protected UDP sessions that open with a connect token.
//!
//! The way of one datagram: [`packet`] checks its shape, [`replay`] whether it came before, the
//! packet's key opens it in place, and [`server`] or [`client`] decides what it means. [`token`]
//! is what the manager signs and the client carries. Only the time, the bytes, the sender's
//! address and (once, at creation) random bytes come in; nothing here reads a clock or a socket.
//!
//! Where we are stricter than the standard, and why:
//!
//! | rule | reason |
//! |---|---|
//! | a token connects once; used again it is ignored | keys come from the token and sequences start at 0, so a second session would repeat nonces and accept the first one's packets |
//! | the challenge carries the token's authentication tag in its padding | a challenge received at one address can't answer for another |
//! | a token without time-out gets [`limits::MAX_TIMEOUT_MS`] | a crashed client would hold its slot for ever |
//! | a server numbers from a random place, not from 0 | after a restart it knows no used tokens, and must not repeat nonces with one that comes again |
//! | wrong lengths are refused before the decryption | the same outcome, for less work |

/// The client's side of a session.
pub mod client;

/// Every limit of this module, with its reason.
pub mod limits;
/// Datagrams waiting to be sent, in one arena.
mod outbound;
/// The shape and the cipher of packets.
pub mod packet;
/// Which sequence numbers came already.
pub mod replay;
/// What a server tells its driver.
pub mod report;
/// The server's side of all sessions.
pub mod server;
/// Numbered places for clients, reused with a generation.
mod slots;
/// Connect tokens and challenge tokens.
pub mod token;
/// The tokens that were shown already, and from where.
mod used;
/// Fixed-size fields, little-endian.
mod wire;

/// A symmetric key.
pub type Key = [u8; limits::KEY_BYTES];

/// The version that every token, request and packet is bound to.
pub const VERSION: [u8; 13] = *b"NETCODE 1.02\0";

#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod stranger_tests;
#[cfg(test)]
mod vector_tests;
