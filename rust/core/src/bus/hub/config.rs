//! What the hub is told at its start, and what it tells its driver.

use crate::bus::message::ErrorCode;
use crate::limits::MAX_CURSOR_SENDERS;

/// A connection as the driver names it; never used twice in a process.
pub type Conn = u64;

/// Who is at the other end of a connection, as far as the transport knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The CURVE key; none on a NULL connection.
    pub key: Option<[u8; 32]>,
    /// For logs.
    pub address: String,
}

/// A key that may connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The CURVE key.
    pub key: [u8; 32],
    /// Node names: `*` is any text, `?` any character.
    pub names: String,
    /// Roles it may have, in the same pattern; empty: any.
    pub roles: Vec<String>,
}

/// Times, limits and identity of a hub. `Default` has the values of the documentation.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Grows at each start of a hub [41].
    pub hub_epoch: u32,
    /// The hub's name in the slot map.
    pub name: String,
    /// Wall clock at the `now_ms` of `Hub::new`.
    pub unix_ms: u64,
    /// Messages without a deadline of their sender are kept so long in a mailbox.
    pub keep_ms: u64,
    /// What a mailbox holds at most, for the text of a refusal; the store counts.
    pub player_messages: u64,
    /// Its bytes.
    pub player_bytes: u64,
    /// How often the store is asked to delete what is past its deadline: rows that nobody reads cost disk only.
    pub expire_every_ms: u64,
    /// A record of whom nothing is left is kept so long: who comes back within it finds no read of the store in its way.
    pub idle_ms: u64,
    /// For the hash of names: random in production, so that no user can choose names that collide.
    pub hash_seed: u64,
    /// Something goes out on each link at least this often: a tenth of what a person notices, three to a loss.
    pub heartbeat_ms: u64,
    /// A link without a byte for so long is dead: three heartbeats.
    pub dead_ms: u64,
    /// A connection that has said no hello by then is closed, whatever else it says.
    pub hello_ms: u64,
    /// A lost node's players are kept so long: a restart of a process takes less.
    pub node_grace_ms: u64,
    /// After a start, nodes have so long to come back: three tries to connect.
    pub hub_grace_ms: u64,
    /// Keys that may connect; empty: anyone.
    pub allowed: Vec<Allowed>,
    /// Nodes that the hub remembers: each costs about 1 KiB.
    pub max_nodes: usize,
    /// Connections, those before hello included.
    pub max_links: usize,
    /// Players that the hub remembers: each about 150 B.
    pub max_players: usize,
    /// Groups.
    pub max_groups: usize,
    /// Groups of one player.
    pub max_groups_per_player: usize,
    /// Messages that wait in memory for one player; more go to the mailbox.
    pub queue_messages: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Delivered and not acked, per player: bounds what a node holds for it.
    pub sent_messages: usize,
    /// Senders in a session's cursor; a message of one more waits until a mark may go.
    pub cursor_senders: usize,
    /// Payload that waits for one link; more stays with the players.
    pub link_bytes: usize,
    /// Receipts, presence and answers that wait for one link; more: it does not read, the link is closed.
    pub control_bytes: usize,
    /// Payload in store operations that wait; more: `busy`.
    pub store_bytes: usize,
    /// Reads of mailboxes under way from which on a login waits for its turn, without a line: two batches.
    pub first_reads: usize,
    /// Payload of one batch.
    pub batch_bytes: usize,
    /// Messages that a sender may have without receipt.
    pub window_messages: u32,
    /// Their bytes.
    pub window_bytes: u32,
    /// Requests of one node under way.
    pub max_calls: usize,
    /// Deadline of a request that names none.
    pub call_ms: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            hub_epoch: 1,
            name: "hub".into(),
            unix_ms: 0,
            keep_ms: 30 * 86_400_000,
            player_messages: 1_000,
            player_bytes: 4 << 20,
            expire_every_ms: 10_000,
            idle_ms: 600_000,
            hash_seed: 0,
            heartbeat_ms: 1_000,
            dead_ms: 3_000,
            hello_ms: 3_000,
            node_grace_ms: 5_000,
            hub_grace_ms: 3_000,
            allowed: Vec::new(),
            max_nodes: 16_384,
            max_links: 20_000,
            max_players: 4_000_000,
            max_groups: 1_000_000,
            max_groups_per_player: 256,
            queue_messages: 256,
            queue_bytes: 1 << 20,
            sent_messages: 64,
            cursor_senders: MAX_CURSOR_SENDERS,
            link_bytes: 4 << 20,
            control_bytes: 32 << 20,
            store_bytes: 64 << 20,
            first_reads: 2_048,
            batch_bytes: 1 << 20,
            window_messages: 65_536,
            window_bytes: 16 << 20,
            max_calls: 4_096,
            call_ms: 5_000,
        }
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubOut {
    /// Write one frame.
    Frame {
        /// Where.
        conn: Conn,
        /// The batch.
        bytes: Vec<u8>,
    },
    /// Close after what was written before. No `handle_disconnected` is needed.
    Close {
        /// Which.
        conn: Conn,
        /// For the log.
        why: CloseReason,
    },
    /// The hub may not go on: another one has taken over. Its process ends.
    Exit {
        /// For the log.
        why: String,
    },
}

/// Why the hub closed a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// What the node was told; none after its bye.
    pub code: Option<ErrorCode>,
    /// For people.
    pub text: String,
}

/// Whether `pattern` (`*` any text, `?` any character) matches all of `name`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*' {
            (p, n) = (p + 1, n + 1);
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("game-*", "game-1", true),
            ("game-*", "xgame-1", false),
            ("cli-*-?", "cli-lima-3", true),
            ("cli-*-?", "cli-lima-33", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("stats", "stats2", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
