//! The edge: sessions of clients.

/// A keyed hash for tables that are looked up by what strangers send.
pub mod keyed;
/// UDP sessions: the netcode 1.02 standard.
pub mod netcode;
