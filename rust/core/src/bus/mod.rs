//! The bus: messages, hub, node.
/// What travels on the bus, as values.
pub mod message;
