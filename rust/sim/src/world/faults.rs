//! Faults: when the next of each kind comes, and what it does.

use super::what::{Fault, Said, What};
use super::{WALL_MS, World};
use crate::client::Place;
use zmqgame_core::bus::hub::Conn;

impl World {
    pub(super) fn mean_ms(&self, fault: Fault) -> u64 {
        let knobs = &self.knobs;
        match fault {
            Fault::HubKill => knobs.hub_kill_ms,
            Fault::NodeKill => knobs.node_kill_ms,
            Fault::SenderKill => knobs.sender_kill_ms,
            Fault::Cut => knobs.cut_ms,
            Fault::Move => knobs.move_ms,
            Fault::Vanish => knobs.vanish_ms,
            Fault::Leave => knobs.leave_ms,
            Fault::StoreFail => knobs.store_fail_ms,
            Fault::StoreAway => knobs.store_away_ms,
            Fault::NotWritable => knobs.not_writable_ms,
            Fault::HoldUp => knobs.hold_up_ms,
            Fault::Partition => knobs.partition_ms,
            Fault::SlowNode => knobs.slow_node_ms,
            Fault::WallJump => knobs.wall_jump_ms,
            Fault::HubStop => knobs.hub_stop_ms,
        }
    }

    pub(super) fn plan(&mut self, fault: Fault) {
        let mean = self.mean_ms(fault);
        if mean > 0 {
            let delay = self.prng.between(1, 2 * mean);
            self.later(delay, What::Fault(fault));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if self.healing {
            return;
        }
        self.plan(fault);
        self.note(11, fault as u64);
        let client = self.prng.index(self.clients.len());
        match fault {
            Fault::HubKill => self.hub_kill(),
            Fault::NodeKill => {
                let node = self.knobs.senders + self.prng.index(self.knobs.hosts);
                self.node_kill(node);
            }
            Fault::SenderKill => {
                let node = self.prng.index(self.knobs.senders);
                self.node_kill(node);
            }
            Fault::Cut => {
                if let Some(conn) = self.some_link() {
                    self.sever(conn);
                }
            }
            Fault::Move | Fault::Vanish => {
                if self.clients[client].place == Place::Away {
                    return;
                }
                // The old host learns of it late, if it lives.
                self.tell_host(client, Said::Gone);
                self.clients[client].depart();
                let within_ms = if fault == Fault::Move { 20 } else { 90_000 };
                self.come_back(client, within_ms);
            }
            Fault::Leave => {
                if self.clients[client].place != Place::Away && !self.clients[client].leaving {
                    self.clients[client].leaving = true;
                    self.tell_host(client, Said::Leave);
                }
            }
            Fault::StoreFail => self.store_fails = true,
            Fault::StoreAway => {
                self.store_away_until = self.now_ms + self.prng.between(500, 8_000);
            }
            Fault::NotWritable => {
                if let Some(conn) = self.some_link() {
                    self.writable(conn, false);
                    let delay = self.prng.between(1, 6_000);
                    self.later(delay, What::Writable(conn));
                }
            }
            Fault::HoldUp => self.hold_up(),
            Fault::Partition => self.partition(),
            Fault::SlowNode => self.slow_node(),
            Fault::WallJump => self.wall_jump(),
            Fault::HubStop => self.hub_stop(),
        }
    }

    fn some_link(&mut self) -> Option<Conn> {
        let conns: Vec<Conn> = self.links.keys().copied().collect();
        if conns.is_empty() {
            return None;
        }
        Some(conns[self.prng.index(conns.len())])
    }

    /// A link's way to the hub takes long; often its node has given it up and connected again meanwhile.
    fn hold_up(&mut self) {
        let Some(conn) = self.some_link() else {
            return;
        };
        let long_ms = self.prng.between(1, 5_000);
        let given_up = self.prng.chance(600).then(|| self.prng.below(long_ms));
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.held_up) else {
            return;
        };
        link.held_up = true;
        self.later(long_ms, What::HubReads(conn));
        if let Some(delay) = given_up {
            self.later(delay, What::NodeLost(conn));
        }
    }

    /// A part of the nodes loses its links, and makes none for a while; clients still move between all of them.
    fn partition(&mut self) {
        let until_ms = self.now_ms + self.prng.between(100, 12_000);
        for node in 0..self.nodes.len() {
            if self.prng.chance(500) {
                self.nodes[node].cut_off_until_ms = until_ms;
                if let Some(conn) = self.nodes[node].conn {
                    self.sever(conn);
                }
            }
        }
    }

    /// What goes to a node takes long for a while; the hub may write a few frames ahead.
    fn slow_node(&mut self) {
        let Some(conn) = self.some_link() else {
            return;
        };
        let slow_ms = self.prng.between(20, 800);
        let until_ms = self.now_ms + self.prng.between(500, 8_000);
        if let Some(link) = self.links.get_mut(&conn) {
            (link.slow_ms, link.slow_until_ms) = (slow_ms, until_ms);
        }
    }

    /// The hub's wall clock is set, forward or back.
    fn wall_jump(&mut self) {
        let off_ms = self.prng.below(2 * self.knobs.wall_off_ms + 1);
        self.wall_ms = WALL_MS + off_ms - self.knobs.wall_off_ms;
        self.tell_wall_clock();
    }

    pub(super) fn heal(&mut self) {
        self.healing = true;
        for node in &mut self.nodes {
            node.cut_off_until_ms = 0;
        }
        for link in self.links.values_mut() {
            link.slow_until_ms = 0;
        }
        self.store_fails = false;
        self.store_away_until = 0;
        if self.wall_ms != WALL_MS {
            self.wall_ms = WALL_MS;
            self.tell_wall_clock();
        }
        self.busy_at = self.now_ms;
    }
}
