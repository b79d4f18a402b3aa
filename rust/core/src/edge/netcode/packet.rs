//! Packets: `prefix | sequence (1 to 8 bytes) | body | tag`, opened and sealed in place.
//!
//! The prefix's low half is the kind, its high half the length of the sequence number. Every
//! length is checked in [`Header::read`] before anything is sliced or decrypted.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::limits::{
    CHALLENGE_BYTES, MAX_PAYLOAD_BYTES, MIN_DATAGRAM_BYTES, PRIVATE_TOKEN_BYTES, REQUEST_BYTES,
    TAG_BYTES, TOKEN_NONCE_BYTES,
};
use super::token::ConnectToken;
use super::{Key, VERSION};

/// Bytes of the body of a challenge and of its response.
pub const CHALLENGE_BODY_BYTES: usize = 8 + CHALLENGE_BYTES;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A client shows its token; the only kind that is not encrypted.
    Request = 0,
    /// The server is full.
    Denied = 1,
    /// The server asks whether the client is where it says.
    Challenge = 2,
    /// The client is.
    Response = 3,
    /// Still here; from the server also: you are connected, at this index.
    KeepAlive = 4,
    /// The application's bytes.
    Payload = 5,
    /// Goodbye.
    Disconnect = 6,
}

impl Kind {
    fn from_low_half(prefix: u8) -> Option<Self> {
        Some(match prefix & 15 {
            0 => Self::Request,
            1 => Self::Denied,
            2 => Self::Challenge,
            3 => Self::Response,
            4 => Self::KeepAlive,
            5 => Self::Payload,
            6 => Self::Disconnect,
            _ => return None,
        })
    }

    fn allows_body(self, bytes: usize) -> bool {
        match self {
            Self::Request => false,
            Self::Denied | Self::Disconnect => bytes == 0,
            Self::Challenge | Self::Response => bytes == CHALLENGE_BODY_BYTES,
            Self::KeepAlive => bytes == 8,
            Self::Payload => (1..=MAX_PAYLOAD_BYTES).contains(&bytes),
        }
    }

    /// Whether a second one with the same number is ignored.
    pub fn is_replay_protected(self) -> bool {
        matches!(self, Self::KeepAlive | Self::Payload | Self::Disconnect)
    }
}

/// Why a packet was refused before or at its decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// Shorter or longer than its kind can be.
    Length,
    /// No such kind, or a request where an encrypted packet must be.
    Kind,
    /// The length of its sequence number is not 1 to 8.
    SequenceLength,
    /// The tag does not match: another key, number, protocol or kind, or changed bytes.
    Seal,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the packet has not the length of its kind",
            Self::Kind => "the packet is of no known kind",
            Self::SequenceLength => "the packet's sequence number has not 1 to 8 bytes",
            Self::Seal => "the packet was not sealed with this session's key",
        })
    }
}

impl std::error::Error for PacketError {}

/// What an encrypted packet says in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// Its number, which is also its nonce.
    pub sequence: u64,
    prefix: u8,
    bytes: usize,
}

impl Header {
    /// Checks the shape of an encrypted packet.
    pub fn read(datagram: &[u8]) -> Result<Self, PacketError> {
        if datagram.len() < MIN_DATAGRAM_BYTES {
            return Err(PacketError::Length);
        }
        let prefix = datagram[0];
        let kind = match Kind::from_low_half(prefix) {
            None | Some(Kind::Request) => return Err(PacketError::Kind),
            Some(kind) => kind,
        };
        let sequence_bytes = usize::from(prefix >> 4);
        if !(1..=8).contains(&sequence_bytes) {
            return Err(PacketError::SequenceLength);
        }
        let bytes = 1 + sequence_bytes;
        let body = datagram
            .len()
            .checked_sub(bytes + TAG_BYTES)
            .ok_or(PacketError::Length)?;
        if !kind.allows_body(body) {
            return Err(PacketError::Length);
        }
        let mut number = [0; 8];
        number[..sequence_bytes].copy_from_slice(&datagram[1..bytes]);
        Ok(Self {
            kind,
            sequence: u64::from_le_bytes(number),
            prefix,
            bytes,
        })
    }
}

/// A key for packets or challenges, ready to use. Shows nothing of itself.
pub struct PacketKey(LessSafeKey);

impl PacketKey {
    /// Prepares a key.
    pub fn new(key: &Key) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the length is in the type");
        Self(LessSafeKey::new(unbound))
    }

    /// Seals in place and returns the tag. A number is used once a key, or both are worthless.
    pub(super) fn seal_bytes(
        &self,
        sequence: u64,
        data: &[u8],
        text: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(sequence), Aad::from(data), text)
            .expect("a datagram is far below the cipher's limit of 256 GiB");
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Opens in place: the text, without its tag.
    pub(super) fn open_bytes<'a>(
        &self,
        sequence: u64,
        data: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], PacketError> {
        self.0
            .open_in_place(nonce(sequence), Aad::from(data), sealed)
            .map_err(|_| PacketError::Seal)
    }

    /// Appends a sealed packet to `out`.
    pub fn seal(
        &self,
        protocol_id: u64,
        kind: Kind,
        sequence: u64,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        debug_assert!(kind.allows_body(body.len()));
        let sequence_bytes = 8 - (sequence.max(1).leading_zeros() / 8) as usize;
        let prefix = ((sequence_bytes as u8) << 4) | kind as u8;
        out.push(prefix);
        out.extend_from_slice(&sequence.to_le_bytes()[..sequence_bytes]);
        let start = out.len();
        out.extend_from_slice(body);
        let tag = self.seal_bytes(
            sequence,
            &associated(protocol_id, prefix),
            &mut out[start..],
        );
        out.extend_from_slice(&tag);
    }

    /// Opens the packet that `header` was read from, in place: its body.
    pub fn open<'a>(
        &self,
        protocol_id: u64,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], PacketError> {
        let data = associated(protocol_id, header.prefix);
        self.open_bytes(header.sequence, &data, &mut datagram[header.bytes..])
    }
}

fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&sequence.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn associated(protocol_id: u64, prefix: u8) -> [u8; 22] {
    let mut data = [0; 22];
    data[..13].copy_from_slice(&VERSION);
    data[13..21].copy_from_slice(&protocol_id.to_le_bytes());
    data[21] = prefix;
    data
}

/// A connection request, borrowed from its datagram.
pub struct Request<'a> {
    /// Names the application and its version.
    pub protocol_id: u64,
    /// Unix seconds from which the token is refused.
    pub expire_s: u64,
    /// Nonce of the private part.
    pub nonce: [u8; TOKEN_NONCE_BYTES],
    /// The sealed private part; opened in place.
    pub private: &'a mut [u8; PRIVATE_TOKEN_BYTES],
}

impl<'a> Request<'a> {
    /// Whether a datagram claims to be a request.
    pub fn is(datagram: &[u8]) -> bool {
        datagram.first() == Some(&0)
    }

    /// Reads a request; `None` if it is not one of this version.
    pub fn read(datagram: &'a mut [u8]) -> Option<Self> {
        let datagram: &mut [u8; REQUEST_BYTES] = datagram.try_into().ok()?;
        let (head, private) = datagram.split_last_chunk_mut::<PRIVATE_TOKEN_BYTES>()?;
        if head[0] != 0 || head[1..14] != VERSION {
            return None;
        }
        let (protocol_id, rest) = head[14..].split_first_chunk::<8>()?;
        let (expire_s, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            protocol_id: u64::from_le_bytes(*protocol_id),
            expire_s: u64::from_le_bytes(*expire_s),
            nonce: *rest.first_chunk()?,
            private,
        })
    }

    /// Appends the request that shows `token`.
    pub fn write(token: &ConnectToken, out: &mut Vec<u8>) {
        out.push(0);
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&token.protocol_id.to_le_bytes());
        out.extend_from_slice(&token.expire_s.to_le_bytes());
        out.extend_from_slice(&token.nonce);
        out.extend_from_slice(&token.private[..]);
    }
}

/// The body of a challenge or a response: a number and a sealed challenge token.
pub fn challenge_body(sequence: u64, sealed: &[u8; CHALLENGE_BYTES]) -> [u8; CHALLENGE_BODY_BYTES] {
    let mut body = [0; CHALLENGE_BODY_BYTES];
    body[..8].copy_from_slice(&sequence.to_le_bytes());
    body[8..].copy_from_slice(sealed);
    body
}

/// Splits such a body again; its length was checked with the header.
pub fn split_challenge_body(body: &mut [u8]) -> Option<(u64, &mut [u8; CHALLENGE_BYTES])> {
    let (sequence, sealed) = body.split_first_chunk_mut::<8>()?;
    Some((u64::from_le_bytes(*sequence), sealed.try_into().ok()?))
}
