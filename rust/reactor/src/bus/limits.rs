//! What the bus's sockets may cost.

/// Links at one time: a hub of 1,000 nodes with room for tools and reconnects.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Links that have not shown who they are. One more, and the oldest of them has to go: a flood
/// can't shut honest nodes out, who need a few milliseconds.
pub const MAX_HANDSHAKES: usize = 256;
/// Output of one link from which on the router is told to hold back.
pub const OUT_HIGH_BYTES: usize = 4 << 20;
/// Output of one link below which the router may go on.
pub const OUT_LOW_BYTES: usize = 1 << 20;
/// Output of one link at which it is cut: the router was told long ago, so this is a flood of PINGs
/// or answers that nobody reads.
pub const OUT_MAX_BYTES: usize = 32 << 20;
/// One read's room: what the kernel has of a fast sender, in one call.
pub const READ_BYTES: usize = 256 << 10;
/// Reads of one link in a turn, 1 MiB: so much of a flood comes before the others (tests/integration/test_bus_sharing.py).
pub const READS_A_TURN: usize = 4;
/// What one read takes of input that nobody wants, of a link that is being closed.
pub const DISCARD_BYTES: usize = 16 << 10;
/// Such reads: who sends faster than that loses our last words.
pub const DISCARD_READS: usize = 64;
/// Connections taken in a turn.
pub const ACCEPTS_A_TURN: usize = 64;
/// New connections a second from addresses that have proven no key: at 0.2 ms each a tenth of a core.
pub const CONNECTION_RATE: u64 = 500;
/// Such connections at once, after a quiet time: twice the nodes that a hub is made for.
pub const CONNECTION_BURST: u64 = 2_048;
/// New connections a second from one address.
pub const ADDRESS_RATE: u64 = 250;
/// Such connections at once: 1,000 nodes of one machine that come back together.
pub const ADDRESS_BURST: u64 = 1_024;
/// Addresses whose connections are counted.
pub const ADDRESSES: usize = 4_096;
/// Reads of a turn from peers that are in a CURVE handshake: 2 ms, which others can wait.
pub const HANDSHAKE_READS_A_TURN: usize = 16;
/// The first frame of a peer: a hello has at most 9 KiB.
pub const FIRST_FRAME_BYTES: usize = 64 << 10;
/// What all links together may hold of frames that are not whole: 32 of the largest. Beyond it the link
/// that holds most is closed; a node comes back and sends again.
pub const PARTIAL_MAX_BYTES: usize = 64 << 20;
/// Pieces of one vectored write.
pub const SLICES_A_WRITE: usize = 64;
/// Lines of the log that wait for whoever reads them; more are counted and dropped.
pub const MAX_LOG_LINES: usize = 1_024;
/// Output of a node that waits for its socket, beside what the kernel has: the node packs no further frame until it is
/// below, so that an ack is not late behind more than this.
pub const NODE_OUT_BYTES: usize = 256 << 10;
/// Events of a node that wait for its owner: all that the hub may have unacked towards 1,000 busy players. Then the
/// socket is read no further, and the hub takes an owner that stays away for dead.
pub const NODE_EVENTS: usize = 65_536;

const _: () = assert!(OUT_LOW_BYTES < OUT_HIGH_BYTES && OUT_HIGH_BYTES < OUT_MAX_BYTES);
const _: () = assert!(OUT_MAX_BYTES > OUT_HIGH_BYTES + 4 * zmqgame_core::limits::MAX_FRAME_BYTES);
const _: () = assert!(MAX_HANDSHAKES < MAX_CONNECTIONS);
const _: () = assert!(PARTIAL_MAX_BYTES >= 16 * zmqgame_core::limits::MAX_FRAME_BYTES);
const _: () = assert!(ADDRESS_BURST <= CONNECTION_BURST && ADDRESS_RATE <= CONNECTION_RATE);
