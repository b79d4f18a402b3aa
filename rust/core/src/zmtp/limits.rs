//! What a peer may cost before it is refused.

/// A greeting is this long, always.
pub const GREETING_BYTES: usize = 64;
/// A handshake command's body: INITIATE is 257 bytes plus metadata, and nobody's metadata is long.
pub const MAX_HANDSHAKE_COMMAND_BYTES: usize = 2_048;
/// Commands before READY: CURVE needs two from the client; a third is somebody playing.
pub const MAX_HANDSHAKE_COMMANDS: u32 = 4;
/// Metadata properties: libzmq sends two, and applications rarely add more than a few.
pub const MAX_PROPERTIES: usize = 32;
/// An identity in READY (RFC 37: 0 to 255 bytes).
pub const MAX_IDENTITY_BYTES: usize = 255;
/// A command after the handshake: PING is at most 23 bytes; the rest is skipped unread.
pub const MAX_COMMAND_BYTES: usize = 1_024;
/// The context of a PING (RFC 37: 0 to 16 bytes).
pub const MAX_PING_CONTEXT_BYTES: usize = 16;
/// A message frame, unless the driver says otherwise: what the bus allows a batch.
pub use crate::limits::MAX_FRAME_BYTES;
/// From the first byte to READY: a client on a slow link needs three round trips.
pub const HANDSHAKE_MS: u64 = 5_000;
/// What the buffer for a frame that came in pieces may keep after the frame is done.
pub const KEEP_PARTIAL_BYTES: usize = 16_384;
/// From here on a payload goes out as a piece of its own instead of being copied behind the last.
pub const OWN_CHUNK_BYTES: usize = 16_384;
/// What an emptied piece of the output may keep.
pub const KEEP_OUT_BYTES: usize = 65_536;

const _: () = assert!(MAX_HANDSHAKE_COMMAND_BYTES > 257 + 2 * 256);
const _: () = assert!(MAX_COMMAND_BYTES > 7 + MAX_PING_CONTEXT_BYTES);
