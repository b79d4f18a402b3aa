//! What the fuzz targets do with bytes. Here, so that stable replays every found case; `rust/fuzz` is a
//! thin shell for libFuzzer.
//!
//! | file | decoders |
//! |---|---|
//! | `zmtp` | greeting, handshake and traffic, NULL and CURVE, both sides |
//! | `bus` | batches of the bus, the hub and the node behind them |
//! | `edge` | client packets, frame decoders, netcode datagrams and tokens |
//! | `stream` | the ring buffer, frames of a listener both ways, WebSocket from its request on, PROXY headers |
//! | `store` | the mailbox's log: records and their operations |
//!
//! A target panics when a promise is broken: any split of a stream means the same, what was decoded encodes
//! to the same bytes, what we write can be read. [`check`] adds the bound on memory.

mod alloc;
mod bus;
mod corpus;
mod edge;
mod split;
mod store;
mod stream;
mod zmtp;

pub use alloc::{Memory, measure};
pub use corpus::{keep, kept};

/// One target.
#[derive(Debug)]
pub struct Target {
    /// As libFuzzer, `tests/vectors/fuzz` and `make fuzz` call it.
    pub name: &'static str,
    /// What it does with bytes.
    pub body: fn(&[u8]),
    /// Valid conversations to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that one byte of input may make it hold.
    pub per_byte: usize,
    /// Bytes that it holds for no input.
    pub fixed: usize,
}

/// All targets.
pub const TARGETS: [Target; 19] = [
    zmtp::NULL_SERVER,
    zmtp::NULL_CLIENT,
    zmtp::CURVE_SERVER,
    zmtp::CURVE_CLIENT,
    zmtp::CURVE_TRAFFIC,
    bus::BATCH,
    bus::HUB,
    bus::NODE,
    edge::PACKETS,
    edge::FRAMES,
    edge::NETCODE_SERVER,
    edge::NETCODE_CLIENT,
    edge::NETCODE_PACKET,
    edge::CONNECT_TOKEN,
    stream::RING,
    stream::LISTENER_FRAMES,
    stream::WEBSOCKET,
    stream::PROXY,
    store::MAILBOX_LOG,
];

/// The target of that name.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    let mut all = TARGETS.iter();
    all.find(|target| target.name == name).expect("a target")
}

/// Runs a target on some bytes and checks what it held at the most.
///
/// # Panics
/// A promise is broken: the bytes are a found case.
pub fn check(name: &str, data: &[u8]) {
    let target = target(name);
    let memory = measure(|| (target.body)(data));
    let limit = target.fixed + target.per_byte * data.len();
    assert!(
        memory.peak_bytes <= limit,
        "{name} held {} bytes for {} of input, the limit is {limit}",
        memory.peak_bytes,
        data.len()
    );
}
