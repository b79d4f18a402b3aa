//! What a server tells its driver: what a datagram was, what happened to sessions, what it counted.

use std::fmt;
use std::net::SocketAddr;

use super::packet::PacketError;
use super::server::ClientKey;
use super::token::UserData;

/// Why a datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// A wrong length, kind or version: noise.
    Malformed,
    /// Encrypted, from an address that has no session; or a kind that its state does not expect.
    Unexpected,
    /// A request for another application.
    Protocol,
    /// The token's time is over.
    Expired,
    /// The token or the packet was not sealed with the right key.
    Seal,
    /// The token is for other servers.
    OtherServer,
    /// The token was shown from another address, or has connected before.
    TokenUsed,
    /// The address or the client id has a session.
    AlreadyConnected,
    /// All slots are taken; the client was told.
    ServerFull,
    /// A table or queue of ours is full; the client will try again.
    Busy,
    /// The number came before, or is too old to say.
    Replay,
}

impl Refusal {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Unexpected,
        Self::Protocol,
        Self::Expired,
        Self::Seal,
        Self::OtherServer,
        Self::TokenUsed,
        Self::AlreadyConnected,
        Self::ServerFull,
        Self::Busy,
        Self::Replay,
    ];

    /// The counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::Protocol => "protocol",
            Self::Expired => "expired",
            Self::Seal => "seal",
            Self::OtherServer => "other_server",
            Self::TokenUsed => "token_used",
            Self::AlreadyConnected => "already_connected",
            Self::ServerFull => "server_full",
            Self::Busy => "busy",
            Self::Replay => "replay",
        }
    }
}

impl From<PacketError> for Refusal {
    fn from(error: PacketError) -> Self {
        if error == PacketError::Seal {
            Self::Seal
        } else {
            Self::Malformed
        }
    }
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Bytes for the application, in the datagram's own buffer.
    Payload {
        /// Who sent them.
        client: ClientKey,
        /// The packet's number.
        sequence: u64,
        /// The bytes.
        bytes: &'a mut [u8],
    },
    /// Handled; there may be events and datagrams now.
    Handled,
    /// Nothing happened.
    Refused(Refusal),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Silence for the token's time-out.
    TimedOut,
    /// The client said goodbye.
    ByClient,
    /// [`Server::disconnect`](super::server::Server::disconnect).
    ByServer,
}

impl Ended {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "timed out",
            Self::ByClient => "disconnected by the client",
            Self::ByServer => "disconnected by the server",
        }
    }
}

/// What the application must know. Drain after each datagram: a client's `Connected` then comes
/// before its first payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began.
    Connected {
        /// Its key.
        client: ClientKey,
        /// Who the token says it is.
        client_id: u64,
        /// Where it is.
        address: SocketAddr,
        /// What the manager put into the token.
        user_data: Box<UserData>,
    },
    /// A session ended.
    Disconnected {
        /// Its key.
        client: ClientKey,
        /// Who it was.
        client_id: u64,
        /// Why.
        why: Ended,
    },
}

/// Why a payload was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No such session (any more).
    UnknownClient,
    /// Empty or longer than [`MAX_PAYLOAD_BYTES`](super::limits::MAX_PAYLOAD_BYTES).
    Length {
        /// The most that fits.
        limit: usize,
        /// How long it was.
        value: usize,
    },
    /// Too much is waiting to be sent.
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownClient => f.write_str("no such session"),
            Self::Length { limit, value } => {
                write!(f, "a payload has 1 to {limit} bytes, not {value}")
            }
            Self::Full => f.write_str("too many datagrams wait to be sent"),
        }
    }
}

impl std::error::Error for SendError {}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Refused datagrams, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Decryptions that failed.
    pub failed_decryptions: u64,
    /// Sessions begun.
    pub connected: u64,
    /// Payloads received.
    pub payloads: u64,
    /// Datagrams dropped because too many were waiting to be sent.
    pub dropped: u64,
}
