//! What can go wrong in a run, as named numbers with units. One seed picks them all.

use crate::prng::Prng;

/// The faults and sizes of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knobs {
    /// Nodes that send.
    pub senders: usize,
    /// Nodes that host players.
    pub hosts: usize,
    /// Players, each with one client at a time.
    pub players: usize,
    /// Messages in all, group sends included.
    pub messages: u64,
    /// Of a thousand messages, so many go to a group.
    pub group_per_mille: u64,
    /// Longest way of a frame, ms.
    pub latency_ms: u64,
    /// Longest store batch, ms.
    pub store_ms: u64,
    /// Longest wait of a client before it acks, ms.
    pub ack_ms: u64,
    /// Ms between two faults of a kind, on average; 0: never.
    pub hub_kill_ms: u64,
    /// As above.
    pub node_kill_ms: u64,
    /// As above.
    pub sender_kill_ms: u64,
    /// As above: a link is cut, each end notices at its own time.
    pub cut_ms: u64,
    /// As above: a client moves to another host.
    pub move_ms: u64,
    /// As above: a client vanishes and comes back.
    pub vanish_ms: u64,
    /// As above: a client logs out and a new session begins after.
    pub leave_ms: u64,
    /// As above: the store fails a batch.
    pub store_fail_ms: u64,
    /// Longest time until an end notices a cut, ms; beyond it the heartbeat must.
    pub notice_ms: u64,
    /// Ms of virtual time with faults; after that all heal and everything must come in.
    pub faults_until_ms: u64,
}

impl Knobs {
    /// The run that a seed stands for: some are calm, some lose everything they can.
    #[must_use]
    pub fn of(prng: &mut Prng) -> Self {
        let every = |prng: &mut Prng| match prng.below(4) {
            0 => 0,
            1 => prng.between(200, 1_000),
            2 => prng.between(1_000, 4_000),
            _ => prng.between(4_000, 20_000),
        };
        Self {
            senders: prng.between(1, 3) as usize,
            hosts: prng.between(2, 4) as usize,
            players: prng.between(1, 8) as usize,
            messages: prng.between(100, 1_500),
            group_per_mille: prng.below(300),
            latency_ms: prng.between(1, 30),
            store_ms: prng.between(1, 60),
            ack_ms: prng.between(0, 40),
            hub_kill_ms: every(prng),
            node_kill_ms: every(prng),
            sender_kill_ms: every(prng),
            cut_ms: every(prng),
            move_ms: every(prng),
            vanish_ms: every(prng),
            leave_ms: every(prng),
            store_fail_ms: every(prng),
            notice_ms: prng.between(1, 8_000),
            faults_until_ms: prng.between(3_000, 20_000),
        }
    }
}
