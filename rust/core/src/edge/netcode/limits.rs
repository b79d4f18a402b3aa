//! Sizes of the standard, and the bounds that we add.

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of the tag that authenticates what was encrypted.
pub const TAG_BYTES: usize = 16;
/// Bytes of a connect token's nonce.
pub const TOKEN_NONCE_BYTES: usize = 24;
/// Bytes of a whole connect token.
pub const TOKEN_BYTES: usize = 2048;
/// Bytes of the part of a connect token that only servers can read, tag included.
pub const PRIVATE_TOKEN_BYTES: usize = 1024;
/// Bytes of a challenge token, tag included.
pub const CHALLENGE_BYTES: usize = 300;
/// Bytes that the application puts into a token and gets back at the server.
pub const USER_DATA_BYTES: usize = 256;
/// Server addresses in one token: the standard's limit.
pub const MAX_TOKEN_SERVERS: usize = 32;
/// Bytes of a connection request, the only packet that is not encrypted.
pub const REQUEST_BYTES: usize = 1 + 13 + 8 + 8 + TOKEN_NONCE_BYTES + PRIVATE_TOKEN_BYTES;
/// Bytes of one payload: the standard's limit; with headers it stays under common path MTUs.
pub const MAX_PAYLOAD_BYTES: usize = 1200;
/// Bytes of the largest datagram: prefix, eight sequence bytes, payload, tag.
pub const MAX_DATAGRAM_BYTES: usize = 1 + 8 + MAX_PAYLOAD_BYTES + TAG_BYTES;
/// Bytes under which no encrypted packet can be valid.
pub const MIN_DATAGRAM_BYTES: usize = 18;
/// Sequence numbers that are remembered: the standard's advice, 4 s at 60 packets/s.
pub const REPLAY_WINDOW: u64 = 256;
/// Packets sent to say goodbye: all of them lost is unlikely, and the time-out remains.
pub const DISCONNECT_PACKETS: usize = 10;
/// Between two connection requests, challenge responses, or keep-alives to who may not know it is connected.
pub const SEND_INTERVAL_MS: u64 = 100;
/// Keep-alives in one time-out of silence: nine may be lost in a row...
pub const KEEP_ALIVES_A_TIMEOUT: u64 = 10;
/// ...and the longest time between two: address translators forget a silent flow, the soonest after some seconds.
pub const MAX_KEEP_ALIVE_MS: u64 = 1_000;

/// How long one is silent towards the other before it sends a keep-alive. At the usual 5 s, half a second: ten a
/// second, as the standard's examples have it, would be 100,000 datagrams a second for 10,000 silent clients.
pub fn keep_alive_ms(timeout_ms: u64) -> u64 {
    (timeout_ms / KEEP_ALIVES_A_TIMEOUT).clamp(SEND_INTERVAL_MS, MAX_KEEP_ALIVE_MS)
}
/// Clients of one server at most: a slot costs about 1 KB.
pub const MAX_CLIENTS: u32 = 65_536;
/// The longest silence a token may ask for: beyond it a slot is held by nobody.
pub const MAX_TIMEOUT_MS: u64 = 60_000;
/// Addresses that have shown a token but not answered the challenge, for each allowed client...
pub const PENDING_PER_CLIENT: u32 = 1;
/// ...and at least this many, so that a small server survives a burst.
pub const MIN_PENDING: u32 = 64;
/// Used tokens that are remembered until they expire. Full, new ones are refused: forgetting one
/// would let it be used again. Only valid tokens enter.
pub const MAX_USED_TOKENS: usize = 131_072;
/// Datagrams waiting to be sent; beyond it they are dropped and counted, as the network would.
pub const MAX_OUTBOUND_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(REQUEST_BYTES == 1078);
/// The answer to a request must be smaller than the request: no amplification.
const _: () = assert!(1 + 8 + 8 + CHALLENGE_BYTES + TAG_BYTES < REQUEST_BYTES);
const _: () = assert!(REPLAY_WINDOW.is_multiple_of(64));
