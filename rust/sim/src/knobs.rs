//! What can go wrong in a run, as named numbers with units. One seed picks them all.

use crate::prng::Prng;
use zmqgame_core::bus::hub::HubConfig;

/// Seeds below keep the faults that they had when some of them were written down in `tests/seeds.rs`.
pub const FIRST_WITH_ALL: u64 = 10_000;
/// Seeds from here on have partitions, slow peers and wall clocks too.
const FIRST_WITH_WORLD: u64 = 20_000;
/// Seeds from here on have policies, short mailboxes and hubs that are stopped too.
pub const FIRST_WITH_POLICIES: u64 = 30_000;

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
    /// As above: the store fails everything for seconds.
    pub store_away_ms: u64,
    /// As above: a node does not read for a while.
    pub not_writable_ms: u64,
    /// As above: what a node sends reaches the hub late, often after the node has given the link up.
    pub hold_up_ms: u64,
    /// Nobody notices a cut but by the heartbeat.
    pub silent_cuts: bool,
    /// Messages that a sender has at once.
    pub burst: u64,
    /// The hub's `window_messages`.
    pub window: u32,
    /// The hub's `cursor_senders`.
    pub cursor_senders: usize,
    /// The hub's `link_bytes`.
    pub link_bytes: usize,
    /// The hub's `store_bytes`.
    pub store_bytes: usize,
    /// Of a thousand messages, so many go to everyone online.
    pub broadcast_per_mille: u64,
    /// Of a thousand messages, so many go to a durable group.
    pub club_per_mille: u64,
    /// A node's clock is up to this far ahead, another time at each start.
    pub clock_ahead_ms: u64,
    /// Mean time between, ms: some nodes can't reach the hub for a while, others can.
    pub partition_ms: u64,
    /// As above: what goes to a node takes long, a frame at a time.
    pub slow_node_ms: u64,
    /// The hub's wall clock is up to this far off, forward or back, another time at each start and jump, ms.
    pub wall_off_ms: u64,
    /// Mean time between jumps of the hub's wall clock, ms.
    pub wall_jump_ms: u64,
    /// Bytes of payload that the store takes at most; 0: any.
    pub store_limit_bytes: usize,
    /// Of a thousand messages, so many have a deadline.
    pub deadline_per_mille: u64,
    /// It is at most so far ahead, ms.
    pub deadline_ms: u64,
    /// Of a thousand messages to one player, so many are to be delivered later.
    pub defer_per_mille: u64,
    /// At most so much later, ms; a few are due at once.
    pub defer_ms: u64,
    /// Messages that a player's mailbox takes; 0: any.
    pub quota_messages: u64,
    /// Bytes of payload that it takes; 0: any.
    pub quota_bytes: u64,
    /// Of a thousand messages, so many are `latest`.
    pub latest_per_mille: u64,
    /// They have so many keys.
    pub latest_keys: u64,
    /// Of a thousand messages, so many are `droppable`.
    pub droppable_per_mille: u64,
    /// Of a thousand of both, so many want no receipt.
    pub quiet_per_mille: u64,
    /// The hub's `keep_ms`.
    pub keep_ms: u64,
    /// The hub's `expire_every_ms`.
    pub expire_every_ms: u64,
    /// The hub's `idle_ms`.
    pub idle_ms: u64,
    /// Mean time between, ms: the hub is told to stop, drains, and another one is started.
    pub hub_stop_ms: u64,
    /// Ms of virtual time with faults; after that all heal and everything must come in.
    pub faults_until_ms: u64,
}

impl Knobs {
    /// No fault, every way 1 ms long, no message that a script does not send.
    #[must_use]
    pub fn calm(senders: usize, hosts: usize, players: usize) -> Self {
        let limits = HubConfig::default();
        Self {
            senders,
            hosts,
            players,
            messages: 0,
            group_per_mille: 0,
            latency_ms: 1,
            store_ms: 1,
            ack_ms: 0,
            hub_kill_ms: 0,
            node_kill_ms: 0,
            sender_kill_ms: 0,
            cut_ms: 0,
            move_ms: 0,
            vanish_ms: 0,
            leave_ms: 0,
            store_fail_ms: 0,
            notice_ms: 1,
            store_away_ms: 0,
            not_writable_ms: 0,
            hold_up_ms: 0,
            silent_cuts: false,
            burst: 1,
            window: limits.window_messages,
            cursor_senders: limits.cursor_senders,
            link_bytes: limits.link_bytes,
            store_bytes: limits.store_bytes,
            broadcast_per_mille: 0,
            club_per_mille: 0,
            clock_ahead_ms: 0,
            partition_ms: 0,
            slow_node_ms: 0,
            wall_off_ms: 0,
            wall_jump_ms: 0,
            store_limit_bytes: 0,
            deadline_per_mille: 0,
            deadline_ms: 0,
            defer_per_mille: 0,
            defer_ms: 0,
            quota_messages: 0,
            quota_bytes: 0,
            latest_per_mille: 0,
            latest_keys: 1,
            droppable_per_mille: 0,
            quiet_per_mille: 0,
            keep_ms: limits.keep_ms,
            expire_every_ms: limits.expire_every_ms,
            idle_ms: limits.idle_ms,
            hub_stop_ms: 0,
            faults_until_ms: 0,
        }
    }

    /// The run that a seed stands for: some are calm, some lose everything they can.
    #[must_use]
    pub fn of(seed: u64, prng: &mut Prng) -> Self {
        let every = |prng: &mut Prng| match prng.below(4) {
            0 => 0,
            1 => prng.between(200, 1_000),
            2 => prng.between(1_000, 4_000),
            _ => prng.between(4_000, 20_000),
        };
        let knobs = Self {
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
            ..Self::calm(0, 0, 0)
        };
        if seed < FIRST_WITH_ALL {
            return knobs;
        }
        let knobs = knobs.with_all(prng);
        if seed < FIRST_WITH_WORLD {
            return knobs;
        }
        let knobs = knobs.with_world(prng);
        if seed < FIRST_WITH_POLICIES {
            return knobs;
        }
        knobs.with_policies(prng)
    }

    /// `latest` and `droppable`, mailboxes that keep for seconds, records that are soon forgotten, hubs that are told to
    /// stop, and mailboxes of a few messages.
    fn with_policies(mut self, prng: &mut Prng) -> Self {
        if prng.chance(600) {
            self.latest_per_mille = prng.between(20, 400);
            self.latest_keys = prng.between(1, 100);
        }
        if prng.chance(600) {
            self.droppable_per_mille = prng.between(20, 400);
        }
        if prng.chance(500) {
            self.quiet_per_mille = prng.between(100, 900);
        }
        if prng.chance(400) {
            self.keep_ms = prng.between(500, 20_000);
        }
        if prng.chance(500) {
            self.expire_every_ms = prng.between(1, 3_000);
        }
        if prng.chance(500) {
            self.idle_ms = prng.between(1, 4_000);
        }
        if prng.chance(500) {
            self.hub_stop_ms = prng.between(500, 8_000);
        }
        if prng.chance(300) {
            self.quota_messages = prng.between(1, 10);
        }
        self
    }

    /// Partitions, slow peers, wall clocks, deadlines, deferred sends, a full store and full mailboxes.
    fn with_world(mut self, prng: &mut Prng) -> Self {
        let rare = |prng: &mut Prng| prng.chance(500).then(|| prng.between(1_000, 8_000));
        self.partition_ms = rare(prng).unwrap_or(0);
        self.slow_node_ms = rare(prng).unwrap_or(0);
        if prng.chance(500) {
            self.wall_off_ms = prng.between(1, 7_200_000);
            self.wall_jump_ms = prng.between(500, 8_000);
        }
        if prng.chance(250) {
            self.store_limit_bytes = prng.between(50, 2_000) as usize;
        }
        if prng.chance(500) {
            self.deadline_per_mille = prng.between(20, 500);
            self.deadline_ms = prng.between(100, 20_000);
        }
        if prng.chance(500) {
            self.defer_per_mille = prng.between(20, 400);
            self.defer_ms = prng.between(1, 20_000);
        }
        if prng.chance(300) {
            self.quota_messages = prng.between(1, 30);
        }
        if prng.chance(200) {
            self.quota_bytes = prng.between(20, 300);
        }
        self
    }

    /// Whether messages of `latest` or `droppable` are sent.
    #[must_use]
    pub const fn has_policies(&self) -> bool {
        self.latest_per_mille + self.droppable_per_mille > 0
    }

    /// Whether mailboxes keep for seconds, not for days.
    #[must_use]
    pub fn keeps_short(&self) -> bool {
        self.keep_ms < HubConfig::default().keep_ms
    }

    /// The faults and bounds that came later; each is absent in about half of the runs.
    fn with_all(mut self, prng: &mut Prng) -> Self {
        let rare = |prng: &mut Prng| prng.chance(500).then(|| prng.between(1_000, 8_000));
        self.store_away_ms = rare(prng).map_or(0, |ms| 2 * ms);
        self.not_writable_ms = rare(prng).unwrap_or(0);
        self.hold_up_ms = rare(prng).unwrap_or(0);
        self.silent_cuts = prng.chance(250);
        if prng.chance(400) {
            self.burst = prng.between(2, 60);
        }
        if prng.chance(250) {
            self.window = prng.between(3, 60) as u32;
        }
        if prng.chance(500) {
            self.senders += prng.below(4) as usize;
            self.cursor_senders = prng.between(1, 4) as usize;
        }
        if prng.chance(300) {
            self.link_bytes = prng.between(10, 300) as usize;
        }
        if prng.chance(250) {
            self.store_bytes = prng.between(50, 2_000) as usize;
        }
        if prng.chance(300) {
            self.broadcast_per_mille = prng.below(100);
        }
        if prng.chance(300) {
            self.club_per_mille = prng.below(200);
        }
        if prng.chance(300) {
            self.ack_ms = prng.between(40, 1_500);
        }
        if prng.chance(80) {
            self.players = prng.between(20, 100) as usize;
        }
        if prng.chance(300) {
            self.clock_ahead_ms = prng.between(1_000, 3_600_000);
        }
        self
    }
}
