//! Why a connection was refused or ended: whose fault, which limit, which value.

use std::fmt;

/// Who got it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The other side sent something we refuse.
    Remote,
    /// The other side refused us.
    Local,
}

/// Why a connection can't go on. Each kind has a short name for counters and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZmtpError {
    /// The first bytes are no ZMTP signature.
    NotZmtp,
    /// A peer of ZMTP 1 or 2; the value is the version byte it sent.
    OldVersion(u8),
    /// Its security mechanism is not ours; the value is the name it sent.
    Mechanism(String),
    /// Both sides claim to be the server, or both the client.
    BothSameRole,
    /// A frame head with bits that have no meaning.
    BadFlags(u8),
    /// A frame over the limit.
    FrameTooLarge {
        /// What the head claims.
        bytes: u64,
        /// What is allowed here.
        limit: usize,
    },
    /// A message of more than one frame.
    Multipart,
    /// A command or its metadata does not parse.
    Malformed(&'static str),
    /// A message or command that has no place at this point.
    Unexpected(String),
    /// More handshake commands than the mechanism has.
    HandshakeTooLong,
    /// A socket type that can't talk to ours.
    SocketType(String),
    /// A box did not open: wrong server key, wrong client key, or bytes changed on the way.
    Authentication(&'static str),
    /// The client's key is not on the list.
    KeyNotAllowed([u8; 32]),
    /// A nonce did not grow: a replay.
    Replay,
    /// The handshake took too long.
    HandshakeTimeout {
        /// What is allowed.
        limit_ms: u64,
    },
    /// The peer promised a sign of life within this time and gave none.
    Silent {
        /// The time it promised.
        ttl_ms: u64,
    },
    /// The peer refused us and said why.
    Refused(String),
}

impl ZmtpError {
    /// A name for counters and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotZmtp => "not_zmtp",
            Self::OldVersion(_) => "old_version",
            Self::Mechanism(_) => "mechanism",
            Self::BothSameRole => "both_same_role",
            Self::BadFlags(_) => "bad_flags",
            Self::FrameTooLarge { .. } => "frame_too_large",
            Self::Multipart => "multipart",
            Self::Malformed(_) => "malformed",
            Self::Unexpected(_) => "unexpected",
            Self::HandshakeTooLong => "handshake_too_long",
            Self::SocketType(_) => "socket_type",
            Self::Authentication(_) => "authentication",
            Self::KeyNotAllowed(_) => "key_not_allowed",
            Self::Replay => "replay",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::Silent { .. } => "silent",
            Self::Refused(_) => "refused",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused(_) => Fault::Local,
            _ => Fault::Remote,
        }
    }
}

impl fmt::Display for ZmtpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotZmtp => write!(f, "the first bytes are not ZMTP"),
            Self::OldVersion(version) => {
                write!(f, "ZMTP version byte {version}, at least 3 is needed")
            }
            Self::Mechanism(name) => {
                write!(f, "security mechanism {name:?} is not the one configured")
            }
            Self::BothSameRole => write!(
                f,
                "both sides claim the same role of the security mechanism"
            ),
            Self::BadFlags(flags) => write!(f, "frame flags {flags:#04x}"),
            Self::FrameTooLarge { bytes, limit } => {
                write!(f, "a frame of {bytes} bytes, the limit is {limit}")
            }
            Self::Multipart => write!(f, "a message of more than one frame"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
            Self::Unexpected(what) => write!(f, "unexpected {what}"),
            Self::HandshakeTooLong => write!(f, "too many handshake commands"),
            Self::SocketType(name) => write!(f, "socket type {name:?}"),
            Self::Authentication(what) => {
                write!(f, "{what} does not open: wrong key or changed bytes")
            }
            Self::KeyNotAllowed(key) => {
                write!(f, "the client key ")?;
                key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, " is not allowed")
            }
            Self::Replay => write!(f, "a nonce did not grow"),
            Self::HandshakeTimeout { limit_ms } => write!(f, "no handshake within {limit_ms} ms"),
            Self::Silent { ttl_ms } => {
                write!(f, "silent for the {ttl_ms} ms it promised to speak in")
            }
            Self::Refused(reason) => write!(f, "refused by the peer: {reason}"),
        }
    }
}

impl std::error::Error for ZmtpError {}
