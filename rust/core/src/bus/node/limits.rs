//! The node's bounds and times with their reasons. Those of the wire are in `crate::limits`.

/// Unreceipted messages of a sender: a tenth of a second at full speed must not be what limits a pair.
pub const WINDOW_MESSAGES: usize = 65_536;
/// Their bytes.
pub const WINDOW_BYTES: usize = 16 << 20;
/// Bytes of requests, replies and other control messages that wait for the socket: one window's worth.
pub const CONTROL_BYTES: usize = 16 << 20;
/// Bytes after which a frame is closed: large enough to be cheap, small enough that an ack is not late behind it.
pub const WRITE_BYTES: usize = 128 << 10;
/// Messages of `latest` and `droppable` that wait for the socket, or for a receipt: as many as of the others.
pub const LOOSE_MESSAGES: usize = 65_536;
/// Bytes of those that wait for the socket: a second of them on a slow link is stale.
pub const LOOSE_BYTES: usize = 4 << 20;
/// Requests without an answer, calls without a reply, group changes without an answer, each: what the hub takes of a
/// node (PROTOCOL.md section 6).
pub const MAX_CALLS: usize = 4_096;
/// Players hosted by one node: ten times what one game server can serve.
pub const MAX_PLAYERS: usize = 100_000;
/// Group memberships that a node has to register again.
pub const MAX_MEMBERS: usize = 1_000_000;
/// Messages delivered to a player and not acked: the hub sends 64; more is a hub that does not keep its bound.
pub const MAX_PENDING: usize = 1_024;
/// Recipients that are kept by name for one report, and so for a resend of it.
pub const MAX_REPORT_PLAYERS: usize = 65_536;
/// The first try after a loss: a hub that restarts under a supervisor is often back by then.
pub const FIRST_RETRY_MS: u64 = 10;
/// Later tries, plus or minus half: 20 a second and node are nothing for a hub that is up.
pub const RETRY_MS: u64 = 50;
/// After a refusal that may pass (a limit): no hammering.
pub const BACKOFF_MS: u64 = 1_000;
/// Losses nearer together than this add the hub's spread.
pub const SPREAD_WINDOW_MS: u64 = 60_000;
/// A connection without a welcome is given up after this: the time after which a silent link is dead.
pub const OPEN_MS: u64 = 3_000;
/// First wait after `busy`; doubles up to `BUSY_MAX_MS`.
pub const BUSY_FIRST_MS: u64 = 50;
/// Longest wait after `busy`.
pub const BUSY_MAX_MS: u64 = 1_000;
/// How long a client may be gone before its player is logged out.
pub const CLIENT_GRACE_MS: u64 = 60_000;
/// Deadline of a request when the caller gives none.
pub const REQUEST_MS: u64 = 5_000;
