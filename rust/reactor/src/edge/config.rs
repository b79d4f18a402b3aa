//! What an edge may be told, and the limits of what it may be told.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zmqgame_core::edge::rate::MOST_A_SECOND;
use zmqgame_core::stream::frame;

pub use super::proxies::{BadNetworks, MOST_NETWORKS, Proxies};

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
/// How long a consumer may take to answer a client that has ended its half; answers end it earlier.
pub const ANSWER_MS: u64 = 3_000;
/// How long what a client sent before it closed waits on a paused connection where none is ever idle.
pub const LEFT_MS: u64 = 30_000;
/// Buffers of a connection shrink after this time without need for their size.
pub const QUIET_MS: u64 = 5_000;
/// What all connections may hold at most, if asked to: more than machines have.
pub const MOST_MEMORY_BYTES: usize = 1 << 44;
/// Keepalive: the kernel's own default is two hours, and a day is for ever.
pub const LONGEST_KEEPALIVE_S: u32 = 32_767;

/// Which loop gets a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// The next one.
    #[default]
    RoundRobin,
    /// The one that has the fewest.
    LeastConnections,
    /// Always the same one for an address, so that what a loop knows of it is in one place.
    SourceHash,
}

/// What happens to a packet for a connection that has too much waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboundPolicy {
    /// The connection is closed: its client does not read.
    #[default]
    Close,
    /// The packet is refused, the connection lives.
    DropNewest,
    /// Packets of droppable kinds are refused from half of the bound on, and the connection lives. The
    /// others have the whole bound, and close it there.
    DropDroppable,
}

/// A set of packet kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindSet([u64; 4]);

impl KindSet {
    /// Whether it holds `kind`.
    #[must_use]
    pub const fn has(&self, kind: u8) -> bool {
        self.0[(kind >> 6) as usize] >> (kind & 63) & 1 == 1
    }
}

impl FromIterator<u8> for KindSet {
    fn from_iter<T: IntoIterator<Item = u8>>(kinds: T) -> Self {
        let mut set = Self::default();
        for kind in kinds {
            set.0[usize::from(kind >> 6)] |= 1 << (kind & 63);
        }
        set
    }
}

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
    /// How long an outgoing connection may take, TLS included. Default 5 s.
    pub connect_ms: u64,
    /// Which loop gets a new connection. Default: the next one.
    pub balance: Balance,
    /// Connections of one IPv4 address, or of one IPv6 network of 64 bits, which is what one client has;
    /// 0 means any. Default 0.
    pub max_connections_per_address: usize,
    /// Packets a second that a connection may send; over it, reading of it pauses, and datagrams are
    /// dropped. 0 means any. Default 0.
    pub packets_per_s: u64,
    /// Packets that may come at once; 0 means those of one second. Default 0.
    pub packets_burst: u64,
    /// Bytes a second that a connection may send; over it, reading of it pauses, and datagrams are
    /// dropped. 0 means any. Default 0.
    pub bytes_per_s: u64,
    /// Bytes that may come at once; 0 means those of one second. Default 0.
    pub bytes_burst: u64,
    /// What happens at `max_outbound_bytes`. Default: the connection is closed.
    pub outbound_policy: OutboundPolicy,
    /// Kinds that may be dropped, for [`OutboundPolicy::DropDroppable`]. Default none.
    pub droppable_kinds: KindSet,
    /// Bytes that the buffers of all connections may have, in and out, TLS and WebSocket included; at the
    /// bound new connections are refused, and who needs more is closed. Default 1 GiB.
    pub max_memory_bytes: usize,
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
            connect_ms: 5_000,
            balance: Balance::default(),
            max_connections_per_address: 0,
            packets_per_s: 0,
            packets_burst: 0,
            bytes_per_s: 0,
            bytes_burst: 0,
            outbound_policy: OutboundPolicy::default(),
            droppable_kinds: KindSet::default(),
            max_memory_bytes: 1 << 30,
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
            ("connect_ms", self.connect_ms, 1, LONGEST_MS),
            (
                "max_connections_per_address",
                self.max_connections_per_address as u64,
                0,
                MOST_CONNECTIONS as u64,
            ),
            ("packets_per_s", self.packets_per_s, 0, MOST_A_SECOND),
            ("packets_burst", self.packets_burst, 0, MOST_A_SECOND),
            ("bytes_per_s", self.bytes_per_s, 0, MOST_A_SECOND),
            ("bytes_burst", self.bytes_burst, 0, MOST_A_SECOND),
            (
                "max_memory_bytes",
                self.max_memory_bytes as u64,
                65_536,
                MOST_MEMORY_BYTES as u64,
            ),
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

/// How the byte stream of a connection is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// The project's packets, or a WebSocket if the first bytes are `GET `.
    Packets,
    /// As they come: each read is one packet of kind 0; what is sent goes out without a header.
    Raw,
    /// Cut by a rule: each frame is one packet of kind 0; what is sent goes out without a header.
    Frames(Arc<frame::Framing>),
}

/// A listener's certificate chain and private key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a listener does with its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenOptions {
    /// How their bytes are read.
    pub framing: Framing,
    /// TLS, if it speaks that.
    pub tls: Option<TlsFiles>,
    /// Whose PROXY protocol headers name its clients.
    pub proxy_protocol: Proxies,
    /// Whether other sockets may listen on the same address: the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Seconds of silence after which the kernel asks whether the client's machine lives; 0 means never.
    pub keepalive_s: u32,
}

impl From<Framing> for ListenOptions {
    fn from(framing: Framing) -> Self {
        Self {
            framing,
            tls: None,
            proxy_protocol: Proxies::None,
            reuse_port: false,
            keepalive_s: 0,
        }
    }
}

/// How an outgoing connection verifies its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTls {
    /// The certificates that are trusted, a PEM file.
    pub authorities: PathBuf,
    /// The name that the server's certificate must have.
    pub server_name: String,
}
