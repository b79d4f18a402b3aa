//! Links (one a connection) and sessions (one a node key, for as long as the hub lives).

use crate::bus::hub::config::{Conn, Peer};
use crate::bus::hub::directory::{FixedMap, NONE};
use crate::bus::hub::observe::Traffic;
use crate::bus::hub::outbound::Outbound;
use crate::bus::hub::receipts::{Detail, Report};
use crate::bus::message::{Mark, VERSION_MIN};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Answers `expired` that are remembered of one sender: as many as it may have without receipt.
const MAX_EXPIRED: usize = 65_536;

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// The driver's name for it.
    pub conn: Conn,
    /// Who is at its other end.
    pub peer: Peer,
    /// Its node, after hello; else `NONE`.
    pub session: u32,
    /// The protocol version, after hello.
    pub version: u16,
    /// When it was made.
    pub since_ms: u64,
    /// When bytes came last.
    pub heard_ms: u64,
    /// When bytes went out last.
    pub sent_ms: u64,
    /// What waits.
    pub out: Outbound,
    /// The driver takes frames.
    pub writable: bool,
    /// It is in the list of links with something to take.
    pub ready: bool,
    /// What is to be said to the driver when all is out.
    pub closing: Option<crate::bus::hub::config::CloseReason>,
    /// What went over it.
    pub traffic: Traffic,
    /// Players that wait for room in `out`.
    pub stalled: VecDeque<u32>,
}

/// All links.
#[derive(Debug, Default)]
pub struct Links {
    slots: Vec<Option<Link>>,
    free: Vec<u32>,
    by_conn: FixedMap<Conn, u32>,
}

impl Links {
    /// How many.
    pub fn len(&self) -> usize {
        self.by_conn.len()
    }

    /// A new connection. False: that name is in use.
    pub fn add(&mut self, now: u64, conn: Conn, peer: Peer) -> bool {
        if self.by_conn.contains_key(&conn) {
            return false;
        }
        let link = Link {
            conn,
            peer,
            session: NONE,
            version: VERSION_MIN,
            since_ms: now,
            heard_ms: now,
            sent_ms: now,
            out: Outbound::default(),
            writable: true,
            ready: false,
            closing: None,
            traffic: Traffic::default(),
            stalled: VecDeque::new(),
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[at as usize] = Some(link);
        self.by_conn.insert(conn, at);
        true
    }

    /// The link of a connection.
    pub fn find(&self, conn: Conn) -> Option<u32> {
        self.by_conn.get(&conn).copied()
    }

    /// The link at an index, if it is still there.
    pub fn get(&self, at: u32) -> Option<&Link> {
        self.slots.get(at as usize)?.as_ref()
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut Link> {
        self.slots.get_mut(at as usize)?.as_mut()
    }

    /// Forgets a link.
    pub fn remove(&mut self, at: u32) -> Option<Link> {
        let link = self.slots.get_mut(at as usize)?.take()?;
        self.by_conn.remove(&link.conn);
        self.free.push(at);
        Some(link)
    }

    /// One above the highest index.
    pub fn end(&self) -> u32 {
        self.slots.len() as u32
    }
}

/// A node. What is cleared with its link says so.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub name: Arc<str>,
    /// Its key.
    pub node_key: u64,
    /// Its highest epoch.
    pub epoch: u64,
    /// The epoch said bye.
    pub over: bool,
    /// The highest connection number of this epoch.
    pub connection: u64,
    /// Its link, or `NONE`.
    pub link: u32,
    /// Its smallest seq without final receipt in this epoch.
    pub low: u64,
    /// What the node can do, of its last hello.
    pub features: u64,
    /// Services, of its last hello.
    pub roles: Vec<Arc<str>>,
    /// It has sent its `last` batch on this link.
    pub registered: bool,
    /// When its players are given up; none while linked or when they were.
    pub grace_until: Option<u64>,
    /// The roster says that it is linked.
    pub linked: bool,
    /// Players that it hosts.
    pub players: Vec<u32>,
    /// Reports of its group sends; cleared with the link.
    pub reports: FixedMap<u64, Report>,
    /// What was answered `busy` and has not come again [36]; cleared with the link.
    pub busy: BusySends,
    /// What was refused by player and seq, until the sender's low says that it knows; ends with the epoch.
    ///
    /// It is refused again when it comes again. Were a later one accepted before that, a resend of the refused one
    /// would stand below the mark and be told `stored`.
    pub refused: BTreeMap<Arc<str>, BTreeMap<u64, Detail>>,
    /// What was told as expired, until the sender's low says that it knows; ends with the epoch.
    ///
    /// It is expired when it comes again, also if the wall clock was set back meanwhile: later ones have gone past it.
    pub expired: ExpiredSends,
    /// Its deferred messages whose marks the store has, by seq: until its low is above.
    pub deferred: BTreeMap<u64, Arc<str>>,
    /// Sends that wait for the end of the hold, from the first group send on; cleared with the link.
    pub held: VecDeque<HeldSend>,
    /// Payload bytes in `held`.
    pub held_bytes: usize,
    /// Joins under way: request, and (operations left, all well); cleared with the link.
    pub joins: BTreeMap<u64, (u32, bool)>,
    /// It wants presence; cleared with the link.
    pub presence: PresenceState,
    /// Its requests under way: its number, the hub's; cleared with the link.
    pub calls: BTreeMap<u64, u64>,
    /// Calls that it is to answer; cleared with the link.
    pub serving: BTreeSet<u64>,
}

/// A send that was read and is not accepted yet: lost with the link, as if it had not been read.
#[derive(Debug, Clone)]
pub struct HeldSend {
    /// The message as it came.
    pub bytes: Vec<u8>,
}

/// What a sender was told `busy` for: until it comes again, nothing later may pass it.
///
/// The first one alone is not enough: it comes back by itself, while later ones of the pair still wait at the sender
/// under another name (a group of which the player is a member).
///
/// By name: the index of a player that is not known yet does not last.
#[derive(Debug, Default)]
pub struct BusySends {
    players: BTreeSet<(Arc<str>, u64)>,
    /// Group sends, refused as a whole: they hold back all of that sender, since members may change.
    groups: BTreeSet<u64>,
}

impl BusySends {
    /// Whether a message to a player has to wait.
    pub fn blocks(&self, player: &Arc<str>, seq: u64) -> bool {
        let earlier = || (Arc::clone(player), 0)..(Arc::clone(player), seq);
        self.groups.first().is_some_and(|first| *first < seq)
            || (!self.players.is_empty() && self.players.range(earlier()).next().is_some())
    }

    /// A message was answered `busy`.
    pub fn insert(&mut self, player: Arc<str>, seq: u64) {
        self.players.insert((player, seq));
    }

    /// A group send was.
    pub fn insert_group(&mut self, seq: u64) {
        self.groups.insert(seq);
    }

    /// It came again and is accepted.
    pub fn remove(&mut self, player: &Arc<str>, seq: u64) {
        if !self.players.is_empty() {
            self.players.remove(&(Arc::clone(player), seq));
        }
    }

    /// Whether any of it was for a player of its own.
    pub fn names_players(&self) -> bool {
        !self.players.is_empty()
    }

    /// It came again and is accepted.
    pub fn remove_group(&mut self, seq: u64) {
        self.groups.remove(&seq);
    }

    /// The sender has final receipts below this.
    pub fn raise_low(&mut self, low: u64) {
        if !self.players.is_empty() {
            self.players.retain(|(_, seq)| *seq >= low);
        }
        if !self.groups.is_empty() {
            self.groups = self.groups.split_off(&low);
        }
    }

    /// The link is gone: all of it comes again, in order.
    pub fn clear(&mut self) {
        self.players.clear();
        self.groups.clear();
    }
}

/// What a sender was told `expired` for, and may send again [34].
///
/// Over [`MAX_EXPIRED`] the oldest is forgotten: with a clock that is not set back it is expired all the same.
#[derive(Debug, Default)]
pub struct ExpiredSends {
    all: BTreeSet<(u64, Arc<str>)>,
}

impl ExpiredSends {
    /// Whether a message to a player is among them.
    pub fn has(&self, player: &Arc<str>, seq: u64) -> bool {
        !self.all.is_empty() && self.all.contains(&(seq, Arc::clone(player)))
    }

    /// A message was answered `expired`.
    pub fn insert(&mut self, player: Arc<str>, seq: u64) {
        self.all.insert((seq, player));
        if self.all.len() > MAX_EXPIRED {
            self.all.pop_first();
        }
    }

    /// The sender has final receipts below this.
    pub fn raise_low(&mut self, low: u64) {
        if !self.all.is_empty() {
            self.all.retain(|(seq, _)| *seq >= low);
        }
    }

    /// A new epoch has begun.
    pub fn clear(&mut self) {
        self.all.clear();
    }
}

/// Where a subscriber stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PresenceState {
    /// Not subscribed.
    #[default]
    Off,
    /// Nodes below this index and no players are told.
    Nodes(u32),
    /// All nodes and players below this index are told.
    Players(u32),
    /// All is told; changes follow.
    Current,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    all: Vec<Session>,
    by_key: FixedMap<u64, u32>,
}

impl Sessions {
    /// The session of a key.
    pub fn find(&self, node_key: u64) -> Option<u32> {
        self.by_key.get(&node_key).copied()
    }

    /// Adds one for a key that has none.
    pub fn add(&mut self, node_key: u64, name: Arc<str>) -> u32 {
        let at = self.all.len() as u32;
        self.by_key.insert(node_key, at);
        self.all.push(Session {
            name,
            node_key,
            epoch: 0,
            over: false,
            connection: 0,
            link: NONE,
            low: 0,
            features: 0,
            roles: Vec::new(),
            registered: false,
            grace_until: None,
            linked: false,
            players: Vec::new(),
            reports: FixedMap::default(),
            busy: BusySends::default(),
            refused: BTreeMap::new(),
            expired: ExpiredSends::default(),
            deferred: BTreeMap::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            joins: BTreeMap::new(),
            presence: PresenceState::Off,
            calls: BTreeMap::new(),
            serving: BTreeSet::new(),
        });
        at
    }

    /// A session.
    pub fn get(&self, at: u32) -> &Session {
        &self.all[at as usize]
    }

    /// A session, to change it.
    pub fn get_mut(&mut self, at: u32) -> &mut Session {
        &mut self.all[at as usize]
    }

    /// All, in the order of their first hello.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.iter()
    }

    /// How many.
    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// Whether its sender can't send again what a mark stands for [24]. `complete`: the roster was read, so
    /// that a node that is not here is retired.
    pub fn is_over(&self, mark: &Mark, complete: bool) -> bool {
        let Some(at) = self.find(mark.node_key) else {
            return complete;
        };
        let session = self.get(at);
        session.epoch > mark.epoch
            || (session.epoch == mark.epoch && (session.over || session.low > mark.seq))
    }
}

impl Session {
    /// What ends with its link.
    pub fn clear_link(&mut self) {
        self.link = NONE;
        self.registered = false;
        self.reports.clear();
        self.busy.clear();
        self.held.clear();
        self.held_bytes = 0;
        self.joins.clear();
        self.presence = PresenceState::Off;
    }
}

#[cfg(test)]
mod tests {
    use super::{ExpiredSends, MAX_EXPIRED};
    use std::sync::Arc;

    #[test]
    fn expired_sends_end_with_low_and_have_a_bound() {
        let name: Arc<str> = "p".into();
        let mut expired = ExpiredSends::default();
        expired.insert(name.clone(), 1);
        expired.insert(name.clone(), 3);
        expired.raise_low(2);
        assert!(!expired.has(&name, 1) && expired.has(&name, 3));
        assert!(!expired.has(&"q".into(), 3));
        for seq in 0..MAX_EXPIRED as u64 {
            expired.insert(name.clone(), 4 + seq);
        }
        assert_eq!(expired.all.len(), MAX_EXPIRED);
        assert!(!expired.has(&name, 3) && expired.has(&name, 4));
    }
}
