//! Why a connection ends: whose doing, which limit, which value.

use std::fmt;
use std::io;
use std::net::IpAddr;

use zmqgame_core::edge::proxy::ProxyError;
use zmqgame_core::stream::frame::FrameError;
use zmqgame_core::stream::packet::PacketError;

use super::counters::Counters;

/// Why a connection has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client has closed it.
    Peer,
    /// The network or the client's machine has broken it.
    Broken(io::ErrorKind),
    /// No packet came for too long.
    Idle {
        /// The limit.
        idle_ms: u64,
    },
    /// No first packet or WebSocket request came.
    Handshake {
        /// The limit.
        handshake_ms: u64,
    },
    /// An outgoing connection was not there in time.
    ConnectTime {
        /// The limit.
        connect_ms: u64,
    },
    /// An outgoing connection was refused, at every address that its name has.
    Connect(io::ErrorKind),
    /// The client reads too slowly: its outbound bound was reached.
    Full {
        /// The bound.
        limit_bytes: usize,
    },
    /// Bytes that are no packet.
    Packet(PacketError),
    /// Bytes that are no frame.
    Frame(FrameError),
    /// Bytes that are no TLS, or a certificate that is not trusted.
    Tls(String),
    /// A PROXY protocol header that is none.
    Proxy(ProxyError),
    /// It does not come from one of the listener's proxies.
    NoProxy {
        /// Where it comes from.
        address: IpAddr,
    },
    /// The client that a proxy names has too many connections already.
    Address {
        /// So many may be of one address.
        limit: usize,
    },
    /// The buffers of all connections have reached their bound.
    Memory {
        /// The bound.
        limit_bytes: usize,
    },
    /// A WebSocket request that can't be accepted.
    Request(String),
    /// A server's answer to our WebSocket request that can't be accepted.
    Answer(String),
    /// Bytes that are no WebSocket message for us.
    WebSocket(String),
    /// A WebSocket message that is text.
    Text,
    /// The handler has closed it.
    Handler(String),
    /// A UDP session has ended by its own rules.
    Session(&'static str),
    /// The edge stops.
    Stopped,
    /// The thread that served it has died.
    Died,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("closed by the client"),
            Self::Broken(kind) => write!(f, "connection broken: {kind}"),
            Self::Idle { idle_ms } => write!(f, "idle: no packet in {idle_ms} ms"),
            Self::Handshake { handshake_ms } => {
                write!(f, "handshake: no first packet in {handshake_ms} ms")
            }
            Self::ConnectTime { connect_ms } => {
                write!(f, "connect: not connected in {connect_ms} ms")
            }
            Self::Connect(kind) => write!(f, "connect: {kind}"),
            Self::Frame(error) => write!(f, "bad bytes: {error}"),
            Self::Tls(what) => write!(f, "bad TLS: {what}"),
            Self::Proxy(error) => write!(f, "bad PROXY header: {error}"),
            Self::NoProxy { address } => {
                write!(f, "no proxy: {address} is in none of their networks")
            }
            Self::Address { limit } => {
                write!(f, "address: more than {limit} connections of one client")
            }
            Self::Memory { limit_bytes } => {
                write!(
                    f,
                    "memory: the buffers of all have more than {limit_bytes} bytes"
                )
            }
            Self::Full { limit_bytes } => {
                write!(
                    f,
                    "full: more than {limit_bytes} bytes wait to be read by the client"
                )
            }
            Self::Packet(error) => write!(f, "bad bytes: {error}"),
            Self::Request(what) => write!(f, "bad WebSocket request: {what}"),
            Self::Answer(what) => write!(f, "connect: bad WebSocket answer: {what}"),
            Self::WebSocket(what) => write!(f, "bad WebSocket bytes: {what}"),
            Self::Text => f.write_str("bad WebSocket bytes: text message: packets are binary"),
            Self::Handler(why) => write!(f, "closed by the server: {why}"),
            Self::Session(why) => write!(f, "UDP session {why}"),
            Self::Stopped => f.write_str("the server stops"),
            Self::Died => f.write_str("the thread that served it has died"),
        }
    }
}

/// The longest reason in a close frame (RFC 6455 section 5.5: 125 with the code), and of a close.
pub(super) const REASON_BYTES: usize = 123;

/// As much of a reason as is told, in whole characters.
pub(super) fn cut(reason: &str) -> &str {
    let ends = (0..=REASON_BYTES.min(reason.len())).rev();
    let end = ends.into_iter().find(|&at| reason.is_char_boundary(at));
    &reason[..end.unwrap_or(0)]
}

/// A thread of the edge has died, of a panic or a broken poll. Its connections are closed; those of other
/// loops go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadDied {
    /// The thread's name: `edge-` and the number of its loop, or `edge-gate`, which takes connections in.
    pub thread: String,
}

impl fmt::Display for ThreadDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the thread {} has died: its connections are closed",
            self.thread
        )
    }
}

impl std::error::Error for ThreadDied {}

impl CloseReason {
    /// The code of the WebSocket close frame (RFC 6455 section 7.4.1).
    pub(super) fn websocket_code(&self) -> u16 {
        match self {
            Self::Stopped
            | Self::Idle { .. }
            | Self::Handshake { .. }
            | Self::ConnectTime { .. } => 1001,
            Self::WebSocket(_) | Self::Request(_) => 1002,
            Self::Text => 1003,
            Self::Died => 1011,
            Self::Packet(PacketError::TooLong { .. }) => 1009,
            Self::Packet(_) => 1007,
            Self::Full { .. } | Self::NoProxy { .. } | Self::Address { .. } => 1008,
            Self::Memory { .. } => 1013,
            Self::Frame(_) | Self::Tls(_) | Self::Proxy(_) | Self::Answer(_) => 1002,
            Self::Peer
            | Self::Broken(_)
            | Self::Connect(_)
            | Self::Handler(_)
            | Self::Session(_) => 1000,
        }
    }

    /// Whether what is queued should still go out and the client be given time to read it.
    pub(super) fn is_graceful(&self) -> bool {
        !matches!(
            self,
            Self::Peer
                | Self::Broken(_)
                | Self::Full { .. }
                | Self::Memory { .. }
                | Self::Connect(_)
                | Self::ConnectTime { .. }
                | Self::Answer(_)
                | Self::NoProxy { .. }
                | Self::Address { .. }
        )
    }

    /// Counts it.
    pub(super) fn count(&self, counters: &Counters) {
        let one = |counter| Counters::add(counter, 1);
        match self {
            Self::Full { .. } => one(&counters.closed_full),
            Self::Idle { .. } => one(&counters.closed_idle),
            Self::Handshake { .. } => one(&counters.closed_handshake),
            Self::Packet(error) => {
                one(&counters.bad_bytes);
                match error {
                    PacketError::TooShort { .. } => one(&counters.packet_too_short),
                    PacketError::TooLong { .. } => one(&counters.packet_too_long),
                    PacketError::OwnKind { .. } => one(&counters.packet_own_kind),
                    PacketError::Reserved { .. } => one(&counters.packet_reserved),
                }
            }
            Self::Request(_) => {
                one(&counters.bad_bytes);
                one(&counters.bad_request);
            }
            Self::WebSocket(_) | Self::Text => {
                one(&counters.bad_bytes);
                one(&counters.bad_websocket);
            }
            Self::Frame(_) => {
                one(&counters.bad_bytes);
                one(&counters.bad_frame);
            }
            Self::Tls(_) => {
                one(&counters.bad_bytes);
                one(&counters.bad_tls);
            }
            Self::Proxy(_) => {
                one(&counters.bad_bytes);
                one(&counters.bad_proxy);
            }
            Self::NoProxy { .. } => one(&counters.refused_proxy),
            // Where it was counted for its address.
            Self::Address { .. } => {}
            Self::Memory { .. } => one(&counters.closed_memory),
            Self::Connect(_) | Self::ConnectTime { .. } | Self::Answer(_) => {
                one(&counters.connects_failed);
            }
            Self::Peer
            | Self::Broken(_)
            | Self::Handler(_)
            | Self::Session(_)
            | Self::Stopped
            | Self::Died => {}
        }
    }
}
