//! Limits of the store, each with its reason.

/// Bytes of the log after which the transaction is committed: a start that runs it again takes some 0.2 s.
pub const LOG_BYTES: u64 = 8 << 20;
/// The log grows by so much: a write inside it changes no length, so its sync is the data's only.
pub const LOG_STEP_BYTES: u64 = 1 << 20;
/// Records begin at multiples of this: a disk writes no less at once, so a torn one leaves those before it whole.
pub const LOG_ALIGN: usize = 512;
/// Rows held back for one statement (a read of any row writes them first): some ms, which the next batch waits.
pub const PENDING_ROWS: usize = 512;
/// Their payload.
pub const PENDING_BYTES: usize = 4 << 20;
/// Rows of one insert: what a statement costs is shared, and the parameters stay below SQLite's limit.
pub const INSERT_ROWS: usize = 32;
/// Mailboxes whose size is remembered, about 200 B each: more are counted again.
pub const USED_PLAYERS: usize = 100_000;
/// Marks that are remembered, about 40 B each: more are looked up again.
pub const CACHED_MARKS: usize = 400_000;
/// SQLite's page cache in KiB: pages of an open transaction that do not fit are written twice. Given back when nobody waits.
pub const CACHE_KIB: i64 = 32_768;
/// Pages in SQLite's log before it is moved into the database: what a start has to check.
pub const CHECKPOINT_PAGES: u32 = 4_000;
/// What SQLite's log is cut to when it begins again.
pub const CHECKPOINT_KEEP_BYTES: i64 = 32 << 20;
/// Rows of one answer to a read: a batch that other players wait behind stays below some ms.
pub const READ_ROWS: u32 = 1_000;
/// Payload of one answer to a read (at least one row goes): four of the largest messages.
pub const READ_BYTES: usize = 4_194_304;
/// A node not seen for so long is retired: longer than any planned pause, short enough to bound the marks.
pub const ROSTER_DAYS: u64 = 7;
/// What a row costs beside its payload, for the byte limit: names, numbers, index entries.
pub const ROW_BYTES: i64 = 128;
/// Statements kept prepared: all there are.
pub const STATEMENTS: usize = 64;
