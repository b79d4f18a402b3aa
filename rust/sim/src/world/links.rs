//! Links: two FIFO lanes each. A cut loses what is under way in both.

use super::World;
use super::what::What;
use zmqgame_core::bus::hub::Conn;

/// Frames that a socket takes ahead of a slow node.
pub(super) const AHEAD: usize = 4;

/// One connection, as both its ends see it.
pub(super) struct Link {
    pub(super) node: usize,
    pub(super) node_incarnation: u64,
    pub(super) hub_incarnation: u64,
    pub(super) to_hub_at: u64,
    pub(super) to_node_at: u64,
    pub(super) at_hub: bool,
    pub(super) at_node: bool,
    pub(super) severed: bool,
    /// Nothing reaches the hub for a while; it is not lost.
    pub(super) held_up: bool,
    pub(super) unread: Vec<Vec<u8>>,
    pub(super) lost_late: bool,
    /// A script holds what is on its way to the node.
    pub(super) held_to_node: bool,
    pub(super) unread_by_node: Vec<Vec<u8>>,
    /// Each frame to the node takes so long, until then.
    pub(super) slow_ms: u64,
    pub(super) slow_until_ms: u64,
    /// Frames on their way to the node.
    pub(super) on_way: usize,
    /// The hub was told to wait for a slow node.
    pub(super) full: bool,
    /// The hub could not write to it for a while: what it says then is old.
    pub(super) stalled: bool,
}

impl World {
    pub(super) fn way(&mut self) -> u64 {
        self.prng.between(1, self.knobs.latency_ms)
    }

    pub(super) fn send_to_node(&mut self, conn: Conn, bytes: Vec<u8>) {
        let arrives = self.now_ms + self.way();
        let now_ms = self.now_ms;
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.to_node_at = link.to_node_at.max(arrives);
        link.on_way += 1;
        if now_ms < link.slow_until_ms {
            link.to_node_at += link.slow_ms;
        }
        let at = link.to_node_at;
        self.agenda.add(at, What::NodeIn(conn, bytes));
    }

    /// Whether the socket to a slow node takes no more for now.
    pub(super) fn is_full(&mut self, conn: Conn) -> bool {
        let now_ms = self.now_ms;
        let slow = |link: &&mut Link| now_ms < link.slow_until_ms && link.on_way >= AHEAD;
        let link = self.links.get_mut(&conn).filter(slow);
        link.is_some_and(|link| {
            (link.stalled, link.full) = (true, true);
            true
        })
    }

    pub(super) fn send_to_hub(&mut self, conn: Conn, bytes: Vec<u8>) {
        let arrives = self.now_ms + self.way();
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.to_hub_at = link.to_hub_at.max(arrives);
        let at = link.to_hub_at;
        self.agenda.add(at, What::HubIn(conn, bytes));
    }

    /// Loses what is under way in both lanes; each end notices when it notices.
    pub(super) fn sever(&mut self, conn: Conn) {
        let (hub_ms, node_ms) = (
            self.prng.below(self.knobs.notice_ms),
            self.prng.below(self.knobs.notice_ms),
        );
        if let Some(link) = self.links.get_mut(&conn).filter(|link| !link.severed) {
            link.severed = true;
            if !self.knobs.silent_cuts {
                self.later(hub_ms, What::HubLost(conn));
                self.later(node_ms, What::NodeLost(conn));
            }
        }
    }

    pub(super) fn close_at_hub(&mut self, conn: Conn) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.at_hub = false;
            let at = link.to_node_at.max(self.now_ms);
            if !link.severed {
                self.agenda.add(at, What::NodeLost(conn));
            }
        }
        self.tidy_link(conn);
    }

    pub(super) fn close_at_node(&mut self, conn: Conn) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.at_node = false;
            let at = link.to_hub_at.max(self.now_ms);
            if !link.severed {
                self.agenda.add(at, What::HubLost(conn));
            }
        }
        self.tidy_link(conn);
    }

    pub(super) fn tidy_link(&mut self, conn: Conn) {
        if self
            .links
            .get(&conn)
            .is_some_and(|link| !link.at_hub && !link.at_node)
        {
            self.links.remove(&conn);
        }
    }
}
