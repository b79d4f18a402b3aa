//! The bus: messages, hub, node. The rules are in BUS.md, the bytes in PROTOCOL.md.
/// Rules that a test build takes away.
#[cfg(feature = "broken")]
pub mod broken;
#[cfg(not(feature = "broken"))]
mod broken;
/// Messages to bytes and back.
pub mod codec;
/// The hub's state machine.
pub mod hub;
/// When a part of a frame is a sign of life.
pub mod life;
/// A mailbox store in memory, for tests and the simulation.
pub mod memory_store;
/// What travels on the bus, as values.
pub mod message;
/// The node: sender, hosted players, calls.
pub mod node;
/// What the hub asks of the mailbox store.
pub mod store;
/// Fields and lists on the wire.
pub mod wire;
