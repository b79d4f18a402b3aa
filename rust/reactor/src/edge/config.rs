//! What an edge may be told, and the limits of what it may be told.

use std::fmt;

/// Loops: each is a thread; beyond the largest machines' cores more only cost switches.
pub const MOST_LOOPS: usize = 64;
/// Connections: the table of their states is made at start, 8 bytes each and loop.
pub const MOST_CONNECTIONS: usize = 1 << 20;
/// Packet and outbound limits: sizes are u32, and the sums of some must be too.
pub const MOST_BYTES: usize = 1 << 28;
/// Time-outs: a day; anything longer is no time-out.
pub const LONGEST_MS: u64 = 86_400_000;
/// What a connection may hold beyond its outbound bound for the protocol's own answers (pongs, close).
pub const OWN_ANSWERS_BYTES: usize = 16_384;
/// Bytes of an HTTP request head that asks for a WebSocket: what common proxies allow.
pub const REQUEST_HEAD_BYTES: usize = 8_192;
/// How much one loop reads before it hands its packets on, so that none waits for a long round.
pub const ROUND_BYTES: usize = 1 << 20;
/// How many connections one round of a loop takes in: the others' packets wait that long.
pub const ACCEPTS_A_ROUND: usize = 64;
/// How long a closing connection may take to read what was sent last and to close its side.
pub const LINGER_MS: u64 = 1_000;
/// Buffers of a connection shrink after this time without need for their size.
pub const QUIET_MS: u64 = 5_000;

/// The settings of an edge; see the fields for units and defaults.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// Event loops, a thread each. Default 1.
    pub loops: usize,
    /// Connections at a time; further ones are closed at accept. Default 10,000.
    pub max_connections: usize,
    /// Bytes of a packet, header included, that a client may send. Default 64 KiB.
    pub max_packet_bytes: usize,
    /// Bytes that may wait to be sent to one connection; at the bound it is closed. Default 1 MiB.
    pub max_outbound_bytes: usize,
    /// Bytes that may wait to be sent to all connections; at the bound sends are refused. Default 256 MiB.
    pub max_outbound_total_bytes: usize,
    /// Bytes of packets that may wait for the consumer; at the bound reading pauses. Default 64 MiB.
    pub max_inbound_bytes: usize,
    /// A connection that gives no whole packet for so long is closed; 0 means never. Default 30 s.
    pub idle_ms: u64,
    /// A connection that gives no whole packet (WebSocket: no request) for so long after it came is
    /// closed; 0 means never. Default 5 s.
    pub handshake_ms: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            loops: 1,
            max_connections: 10_000,
            max_packet_bytes: 65_536,
            max_outbound_bytes: 1_048_576,
            max_outbound_total_bytes: 268_435_456,
            max_inbound_bytes: 67_108_864,
            idle_ms: 30_000,
            handshake_ms: 5_000,
        }
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadConfig {
    /// The setting.
    pub setting: &'static str,
    /// Its value.
    pub value: u64,
    /// The least it may be.
    pub low: u64,
    /// The most it may be.
    pub high: u64,
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            value,
            low,
            high,
        } = self;
        write!(f, "{setting} is {value}: must be {low} to {high}")
    }
}

impl std::error::Error for BadConfig {}

impl EdgeConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> Result<(), BadConfig> {
        let bytes = MOST_BYTES as u64;
        let ranges = [
            ("loops", self.loops as u64, 1, MOST_LOOPS as u64),
            (
                "max_connections",
                self.max_connections as u64,
                1,
                MOST_CONNECTIONS as u64,
            ),
            ("max_packet_bytes", self.max_packet_bytes as u64, 64, bytes),
            (
                "max_outbound_bytes",
                self.max_outbound_bytes as u64,
                64,
                bytes,
            ),
            (
                "max_outbound_total_bytes",
                self.max_outbound_total_bytes as u64,
                64,
                1 << 40,
            ),
            (
                "max_inbound_bytes",
                self.max_inbound_bytes as u64,
                4_096,
                1 << 30,
            ),
            ("idle_ms", self.idle_ms, 0, LONGEST_MS),
            ("handshake_ms", self.handshake_ms, 0, LONGEST_MS),
        ];
        for (setting, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(BadConfig {
                    setting,
                    value,
                    low,
                    high,
                });
            }
        }
        Ok(())
    }
}

/// How the byte streams of a listener are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The project's packets, or a WebSocket if the first bytes are `GET `.
    Packets,
    /// As they come: each read is one packet of kind 0; what is sent goes out without a header.
    Raw,
}
