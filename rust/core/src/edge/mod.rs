//! The edge: sessions of clients.

/// UDP sessions: the netcode 1.02 standard.
pub mod netcode;
