//! Links and the store of a world by hand: what is on its way is held, let through, or lost.

use super::Script;
use crate::world::what::What;
use zmqgame_core::bus::hub::Conn;

impl Script {
    // --- links ---------------------------------------------------------------------------------------------------

    /// A node's connection.
    #[must_use]
    pub fn conn(&self, node: usize) -> Option<Conn> {
        self.world.nodes[node].conn
    }

    /// A node's link breaks; both ends notice.
    pub fn cut(&mut self, node: usize) {
        if let Some(conn) = self.conn(node) {
            self.world.sever(conn);
        }
    }

    /// A node's link breaks, and neither end notices.
    pub fn cut_silently(&mut self, node: usize) {
        let conn = self.conn(node);
        if let Some(link) = conn.and_then(|conn| self.world.links.get_mut(&conn)) {
            link.severed = true;
        }
    }

    /// The node gives its connection up; what it has written is still read by the hub.
    pub fn lose_at_node(&mut self, node: usize) {
        if let Some(conn) = self.conn(node) {
            self.world.later(0, What::NodeLost(conn));
        }
    }

    /// Nothing of the node's connection reaches the hub until it is released.
    pub fn hold_to_hub(&mut self, node: usize) -> Conn {
        let conn = self.conn(node).expect("the node has a connection");
        if let Some(link) = self.world.links.get_mut(&conn) {
            link.held_up = true;
        }
        conn
    }

    /// What was held arrives, in order.
    pub fn release_to_hub(&mut self, conn: Conn) {
        self.world.hub_reads(conn);
    }

    /// Nothing of the hub reaches the node on this connection until it is released.
    pub fn hold_to_node(&mut self, node: usize) -> Conn {
        let conn = self.conn(node).expect("the node has a connection");
        if let Some(link) = self.world.links.get_mut(&conn) {
            link.held_to_node = true;
        }
        conn
    }

    /// What was held arrives, in order.
    pub fn release_to_node(&mut self, conn: Conn) {
        let Some(link) = self.world.links.get_mut(&conn) else {
            return;
        };
        link.held_to_node = false;
        for frame in std::mem::take(&mut link.unread_by_node) {
            self.world.node_in(conn, &frame);
        }
    }

    // --- store ---------------------------------------------------------------------------------------------------

    /// Batches wait.
    pub fn hold_store(&mut self) {
        self.gates_mut().store_held = true;
    }

    /// Batches that wait.
    #[must_use]
    pub fn held_batches(&self) -> usize {
        self.gates().store.len()
    }

    /// Those that wait are done, in order, and no more wait.
    pub fn release_store(&mut self) {
        self.gates_mut().store_held = false;
        for (incarnation, batch, fails) in std::mem::take(&mut self.gates_mut().store) {
            self.world.store_done(incarnation, &batch, fails);
        }
    }

    /// What is under way when its hub dies, or fails, is committed, or not; not is how it begins.
    pub fn commit_late(&mut self, committed: bool) {
        self.gates_mut().late_commit = committed;
    }

    /// The hub is killed as its store is about to answer the batch after so many others.
    pub fn kill_hub_at_batch(&mut self, others: u64, committed: bool) {
        self.gates_mut().kill_in = Some(others);
        self.commit_late(committed);
    }

    /// The next batch has an unknown outcome.
    pub fn fail_store(&mut self) {
        self.world.store_fails = true;
    }

    /// All batches fail for a while.
    pub fn store_away(&mut self, ms: u64) {
        self.world.store_away_until = self.world.now_ms + ms;
    }
}
