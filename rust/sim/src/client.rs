//! A player's client: its own memory survives everything but its own logout.

use zmqgame_core::bus::node::cursor::Cursor;

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// With no host.
    Away,
    /// At a node of this incarnation.
    At {
        /// The node.
        node: usize,
        /// Which start of it.
        incarnation: u64,
    },
}

/// One player's client.
#[derive(Debug)]
pub struct Client {
    /// The player.
    pub player: String,
    /// What it has handled.
    pub cursor: Cursor,
    /// The login that serves it; 0: none that it knows.
    pub login: u64,
    /// Where it is.
    pub place: Place,
    /// Counts connections: what belongs to an older one is not heard.
    pub visit: u64,
    /// It has asked to leave for good.
    pub leaving: bool,
    hears_at: u64,
    speaks_at: u64,
}

impl Client {
    /// Away, with an empty memory.
    #[must_use]
    pub fn new(player: String) -> Self {
        Self {
            player,
            cursor: Cursor::default(),
            login: 0,
            place: Place::Away,
            visit: 0,
            leaving: false,
            hears_at: 0,
            speaks_at: 0,
        }
    }

    /// Whether its connection ends at this node.
    #[must_use]
    pub fn is_at(&self, node: usize) -> bool {
        matches!(self.place, Place::At { node: at, .. } if at == node)
    }

    /// A connection is made.
    pub fn arrive(&mut self, now_ms: u64, node: usize, incarnation: u64) {
        self.place = Place::At { node, incarnation };
        self.visit += 1;
        self.hears_at = now_ms;
        self.speaks_at = now_ms;
    }

    /// The connection is gone.
    pub fn depart(&mut self) {
        self.place = Place::Away;
        self.visit += 1;
    }

    /// After a confirmed logout.
    pub fn forget_everything(&mut self) {
        self.cursor = Cursor::default();
        self.login = 0;
        self.leaving = false;
    }

    /// When something that arrives then is heard: the connection keeps the order.
    pub fn hears_at(&mut self, arrives: u64) -> u64 {
        self.hears_at = self.hears_at.max(arrives);
        self.hears_at
    }

    /// The same in the other direction.
    pub fn speaks_at(&mut self, arrives: u64) -> u64 {
        self.speaks_at = self.speaks_at.max(arrives);
        self.speaks_at
    }

    /// Says nothing before then.
    pub fn waits(&mut self, until_ms: u64) {
        self.speaks_at = self.speaks_at.max(until_ms);
    }
}
