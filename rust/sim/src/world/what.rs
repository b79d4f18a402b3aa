//! What can happen in a run, and who says what to whom.

use zmqgame_core::bus::hub::Conn;
use zmqgame_core::bus::message::MessageId;
use zmqgame_core::bus::store::StoreBatch;

/// What can happen.
#[derive(Debug)]
pub enum What {
    /// A frame arrives at the hub.
    HubIn(Conn, Vec<u8>),
    /// A frame arrives at a node.
    NodeIn(Conn, Vec<u8>),
    /// The hub notices that a connection is gone.
    HubLost(Conn),
    /// A node notices that its connection is gone.
    NodeLost(Conn),
    /// The hub's timer.
    HubTimer(u64),
    /// A node's timer.
    NodeTimer(usize, u64),
    /// A store batch is done: (hub incarnation, batch, whether it fails).
    StoreDone(u64, StoreBatch, bool),
    /// A process starts.
    HubStart,
    /// As above.
    NodeStart(usize),
    /// The workload: one more message.
    Send,
    /// A client looks for a host.
    Attach(usize, u64),
    /// A host hears from a client: (client, visit, node, node incarnation, what).
    HostHears(usize, u64, usize, u64, Said),
    /// A client hears from its host.
    ClientHears(usize, u64, Heard),
    /// A fault of a kind.
    Fault(Fault),
    /// What was held up on its way to the hub arrives.
    HubReads(Conn),
    /// A node reads again.
    Writable(Conn),
    /// Whether a hub that stops has drained: (hub incarnation, until when it may).
    HubDrains(u64, u64),
}

/// From a client to its host.
#[derive(Debug)]
pub enum Said {
    /// It handled a message.
    Handled(MessageId),
    /// Its connection is gone.
    Gone,
    /// It wants to leave for good.
    Leave,
}

/// From a host to its client.
#[derive(Debug)]
pub enum Heard {
    /// Its login.
    Bound(u64),
    /// A message.
    Message(MessageId),
    /// Its session's logout is confirmed.
    LoggedOut,
    /// A mark that may go.
    Forget(MessageId),
    /// The connection is gone.
    Closed,
}

/// Faults, each with its own mean time between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the hub.
    HubKill,
    /// kill -9 of a hosting node.
    NodeKill,
    /// kill -9 of a sender.
    SenderKill,
    /// A link is cut.
    Cut,
    /// A client moves to another host.
    Move,
    /// A client vanishes and comes back.
    Vanish,
    /// A client leaves.
    Leave,
    /// The store fails the next batch.
    StoreFail,
    /// The store is away for seconds.
    StoreAway,
    /// A node does not read for a while.
    NotWritable,
    /// A link's way to the hub takes long.
    HoldUp,
    /// Some nodes can't reach the hub.
    Partition,
    /// A node takes a frame at a time, each late.
    SlowNode,
    /// The hub's wall clock jumps.
    WallJump,
    /// The hub is told to stop.
    HubStop,
}

/// All of them.
pub const FAULTS: [Fault; 15] = [
    Fault::HubKill,
    Fault::NodeKill,
    Fault::SenderKill,
    Fault::Cut,
    Fault::Move,
    Fault::Vanish,
    Fault::Leave,
    Fault::StoreFail,
    Fault::StoreAway,
    Fault::NotWritable,
    Fault::HoldUp,
    Fault::Partition,
    Fault::SlowNode,
    Fault::WallJump,
    Fault::HubStop,
];
