//! The edge: sessions of clients, and what is decided about their connections.

/// A keyed hash for tables that are looked up by what strangers send.
pub mod keyed;
/// UDP sessions: the netcode 1.02 standard.
pub mod netcode;
/// The header by which a proxy names the client it speaks for.
pub mod proxy;
/// How much a connection may send in a time.
pub mod rate;
/// How much of a queue each address has.
pub mod shares;
