//! Connect tokens, which the manager signs and a client shows once, and challenge tokens, which a
//! server sends to learn whether the client is where it says.
//!
//! A connect token has a private part (client id, keys, user data: sealed for servers with
//! XChaCha20-Poly1305 under the key that manager and servers share) and a public part that repeats
//! the keys for the client.

use std::fmt;
use std::net::SocketAddr;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305};

use super::limits::{
    CHALLENGE_BYTES, MAX_TOKEN_SERVERS, PRIVATE_TOKEN_BYTES, TAG_BYTES, TOKEN_BYTES,
    TOKEN_NONCE_BYTES, USER_DATA_BYTES,
};
use super::packet::PacketKey;
use super::wire::{Reader, Writer};
use super::{Key, VERSION};

/// What the application puts into a token.
pub type UserData = [u8; USER_DATA_BYTES];
/// The tag at the end of a sealed private token: it names the token.
pub type TokenTag = [u8; TAG_BYTES];

const PRIVATE_TEXT_BYTES: usize = PRIVATE_TOKEN_BYTES - TAG_BYTES;
const CHALLENGE_TEXT_BYTES: usize = CHALLENGE_BYTES - TAG_BYTES;

/// Why a token was not made or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// Not the size of a token, or a field goes past its end.
    Length {
        /// Bytes that were needed.
        limit: usize,
        /// Bytes that were there.
        value: usize,
    },
    /// Another version of the standard.
    Version,
    /// No server address, or too many.
    Servers {
        /// The most that are allowed; at least one is needed.
        limit: usize,
        /// How many there were.
        value: usize,
    },
    /// Neither IPv4 (1) nor IPv6 (2).
    AddressType {
        /// The type that was there.
        value: u8,
    },
    /// It would expire before it was made.
    Times {
        /// Unix seconds at which it was made.
        create_s: u64,
        /// Unix seconds at which it expires.
        expire_s: u64,
    },
    /// Not sealed with this key, for this protocol and expiry, or changed on the way.
    Seal,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { limit, value } => {
                write!(f, "the token needs {limit} bytes and has {value}")
            }
            Self::Version => write!(f, "the token is not of netcode 1.02"),
            Self::Servers { limit, value } => {
                write!(f, "a token names 1 to {limit} servers, not {value}")
            }
            Self::AddressType { value } => {
                write!(f, "the token has an address of unknown type {value}")
            }
            Self::Times { create_s, expire_s } => {
                write!(
                    f,
                    "the token expires ({expire_s} s) before it was made ({create_s} s)"
                )
            }
            Self::Seal => write!(
                f,
                "the token is not sealed with this key, for this protocol and expiry"
            ),
        }
    }
}

impl std::error::Error for TokenError {}

/// What a manager decides about a token.
#[derive(Clone, Debug)]
pub struct TokenSpec<'a> {
    /// Names the application and its version; both sides must agree.
    pub protocol_id: u64,
    /// Unix seconds now.
    pub create_s: u64,
    /// Unix seconds from which servers refuse it.
    pub expire_s: u64,
    /// Seconds of silence after which a session ends.
    pub timeout_s: i32,
    /// Whose session this will be; one session an id and server.
    pub client_id: u64,
    /// Servers to try, in this order.
    pub servers: &'a [SocketAddr],
    /// Given to the server's application when the client connects.
    pub user_data: &'a UserData,
}

/// Random bytes for one token; never use them for a second one.
pub struct TokenEntropy {
    /// Nonce of the private part.
    pub nonce: [u8; TOKEN_NONCE_BYTES],
    /// Key for packets to the server.
    pub client_to_server: Key,
    /// Key for packets to the client.
    pub server_to_client: Key,
}

impl TokenEntropy {
    /// Bytes that a token needs.
    pub const BYTES: usize = TOKEN_NONCE_BYTES + 32 + 32;

    /// Cuts random bytes into their uses.
    pub fn from_bytes(random: &[u8; Self::BYTES]) -> Self {
        let (nonce, keys) = random.split_at(TOKEN_NONCE_BYTES);
        let (up, down) = keys.split_at(32);
        Self {
            nonce: std::array::from_fn(|i| nonce[i]),
            client_to_server: std::array::from_fn(|i| up[i]),
            server_to_client: std::array::from_fn(|i| down[i]),
        }
    }
}

/// The part of a token that only servers can read.
pub struct PrivateToken {
    /// Whose session this will be.
    pub client_id: u64,
    /// Seconds of silence after which the session ends; not positive: never.
    pub timeout_s: i32,
    /// Servers that may accept it.
    pub servers: Vec<SocketAddr>,
    /// Key for packets to the server.
    pub client_to_server: Key,
    /// Key for packets to the client.
    pub server_to_client: Key,
    /// The application's bytes.
    pub user_data: UserData,
}

impl PrivateToken {
    /// The bytes before they are sealed; the number of servers must have been checked.
    pub fn write(&self) -> Box<[u8; PRIVATE_TOKEN_BYTES]> {
        let mut buffer = Box::new([0; PRIVATE_TOKEN_BYTES]);
        let mut writer = Writer::new(&mut buffer[..PRIVATE_TEXT_BYTES]);
        writer.u64(self.client_id);
        writer.u32(self.timeout_s as u32);
        writer.addresses(&self.servers);
        writer.bytes(&self.client_to_server);
        writer.bytes(&self.server_to_client);
        writer.bytes(&self.user_data);
        buffer
    }

    /// Reads what [`open_private`] has opened.
    pub fn read(text: &[u8]) -> Result<Self, TokenError> {
        let mut reader = Reader::new(text);
        Ok(Self {
            client_id: reader.u64()?,
            timeout_s: reader.u32()? as i32,
            servers: reader.addresses()?,
            client_to_server: reader.array()?,
            server_to_client: reader.array()?,
            user_data: reader.array()?,
        })
    }
}

fn associated(protocol_id: u64, expire_s: u64) -> [u8; 29] {
    let mut data = [0; 29];
    data[..13].copy_from_slice(&VERSION);
    data[13..21].copy_from_slice(&protocol_id.to_le_bytes());
    data[21..].copy_from_slice(&expire_s.to_le_bytes());
    data
}

/// Seals a private token in place.
pub fn seal_private(
    token: &mut [u8; PRIVATE_TOKEN_BYTES],
    protocol_id: u64,
    expire_s: u64,
    nonce: &[u8; TOKEN_NONCE_BYTES],
    private_key: &Key,
) {
    let cipher = XChaCha20Poly1305::new(&(*private_key).into());
    let (text, tag_place) = token.split_at_mut(PRIVATE_TEXT_BYTES);
    let data = associated(protocol_id, expire_s);
    let tag = cipher
        .encrypt_inout_detached(&(*nonce).into(), &data, text.into())
        .expect("1,008 bytes are far below the cipher's limit of 256 GiB");
    tag_place.copy_from_slice(&tag);
}

/// Opens a private token in place and reads it.
pub fn open_private(
    token: &mut [u8; PRIVATE_TOKEN_BYTES],
    protocol_id: u64,
    expire_s: u64,
    nonce: &[u8; TOKEN_NONCE_BYTES],
    private_key: &Key,
) -> Result<PrivateToken, TokenError> {
    let cipher = XChaCha20Poly1305::new(&(*private_key).into());
    let (text, tag) = token.split_at_mut(PRIVATE_TEXT_BYTES);
    let tag = Tag::try_from(&*tag).map_err(|_| TokenError::Seal)?;
    let data = associated(protocol_id, expire_s);
    cipher
        .decrypt_inout_detached(&(*nonce).into(), &data, (&mut *text).into(), &tag)
        .map_err(|_| TokenError::Seal)?;
    PrivateToken::read(text)
}

/// The whole token, as the client gets it.
pub struct ConnectToken {
    /// Names the application and its version.
    pub protocol_id: u64,
    /// Unix seconds at which it was made.
    pub create_s: u64,
    /// Unix seconds from which servers refuse it.
    pub expire_s: u64,
    /// Nonce of the private part.
    pub nonce: [u8; TOKEN_NONCE_BYTES],
    /// The sealed private part.
    pub private: Box<[u8; PRIVATE_TOKEN_BYTES]>,
    /// Seconds of silence after which a session ends; not positive: never.
    pub timeout_s: i32,
    /// Servers to try, in this order.
    pub servers: Vec<SocketAddr>,
    /// Key for packets to the server.
    pub client_to_server: Key,
    /// Key for packets to the client.
    pub server_to_client: Key,
}

impl ConnectToken {
    /// Makes and seals a token.
    pub fn generate(
        spec: &TokenSpec<'_>,
        private_key: &Key,
        entropy: TokenEntropy,
    ) -> Result<Self, TokenError> {
        check_servers(spec.servers.len())?;
        check_times(spec.create_s, spec.expire_s)?;
        let private = PrivateToken {
            client_id: spec.client_id,
            timeout_s: spec.timeout_s,
            servers: spec.servers.to_vec(),
            client_to_server: entropy.client_to_server,
            server_to_client: entropy.server_to_client,
            user_data: *spec.user_data,
        };
        let mut sealed = private.write();
        seal_private(
            &mut sealed,
            spec.protocol_id,
            spec.expire_s,
            &entropy.nonce,
            private_key,
        );
        Ok(Self {
            protocol_id: spec.protocol_id,
            create_s: spec.create_s,
            expire_s: spec.expire_s,
            nonce: entropy.nonce,
            private: sealed,
            timeout_s: spec.timeout_s,
            servers: private.servers,
            client_to_server: private.client_to_server,
            server_to_client: private.server_to_client,
        })
    }

    /// The bytes that travel to the client.
    pub fn write(&self) -> Box<[u8; TOKEN_BYTES]> {
        let mut buffer = Box::new([0; TOKEN_BYTES]);
        let mut writer = Writer::new(&mut buffer[..]);
        writer.bytes(&VERSION);
        writer.u64(self.protocol_id);
        writer.u64(self.create_s);
        writer.u64(self.expire_s);
        writer.bytes(&self.nonce);
        writer.bytes(&self.private[..]);
        writer.u32(self.timeout_s as u32);
        writer.addresses(&self.servers);
        writer.bytes(&self.client_to_server);
        writer.bytes(&self.server_to_client);
        buffer
    }

    /// Reads a token; only a server can say whether its private part is good.
    pub fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() != TOKEN_BYTES {
            return Err(TokenError::Length {
                limit: TOKEN_BYTES,
                value: bytes.len(),
            });
        }
        let mut reader = Reader::new(bytes);
        if reader.array()? != VERSION {
            return Err(TokenError::Version);
        }
        let token = Self {
            protocol_id: reader.u64()?,
            create_s: reader.u64()?,
            expire_s: reader.u64()?,
            nonce: reader.array()?,
            private: Box::new(reader.array()?),
            timeout_s: reader.u32()? as i32,
            servers: reader.addresses()?,
            client_to_server: reader.array()?,
            server_to_client: reader.array()?,
        };
        check_times(token.create_s, token.expire_s)?;
        Ok(token)
    }
}

fn check_servers(count: usize) -> Result<(), TokenError> {
    if (1..=MAX_TOKEN_SERVERS).contains(&count) {
        return Ok(());
    }
    Err(TokenError::Servers {
        limit: MAX_TOKEN_SERVERS,
        value: count,
    })
}

fn check_times(create_s: u64, expire_s: u64) -> Result<(), TokenError> {
    if create_s <= expire_s {
        Ok(())
    } else {
        Err(TokenError::Times { create_s, expire_s })
    }
}

/// What a server sends to an address and expects back from it. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whose session this will be.
    pub client_id: u64,
    /// The application's bytes.
    pub user_data: UserData,
    /// Names the connect token; in what the standard calls padding, which only we read.
    pub token: TokenTag,
}

impl Challenge {
    /// Seals it with the server's own key.
    pub fn seal(&self, sequence: u64, key: &PacketKey) -> [u8; CHALLENGE_BYTES] {
        let mut buffer = [0; CHALLENGE_BYTES];
        let mut writer = Writer::new(&mut buffer[..CHALLENGE_TEXT_BYTES]);
        writer.u64(self.client_id);
        writer.bytes(&self.user_data);
        writer.bytes(&self.token);
        let (text, tag) = buffer.split_at_mut(CHALLENGE_TEXT_BYTES);
        tag.copy_from_slice(&key.seal_bytes(sequence, &[], text));
        buffer
    }

    /// Opens what came back.
    pub fn open(
        bytes: &mut [u8; CHALLENGE_BYTES],
        sequence: u64,
        key: &PacketKey,
    ) -> Result<Self, TokenError> {
        let text = key
            .open_bytes(sequence, &[], bytes)
            .map_err(|_| TokenError::Seal)?;
        let mut reader = Reader::new(text);
        Ok(Self {
            client_id: reader.u64()?,
            user_data: reader.array()?,
            token: reader.array()?,
        })
    }
}
