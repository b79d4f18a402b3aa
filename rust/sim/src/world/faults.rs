//! Faults: when the next of each kind comes, and what it does.

use super::World;
use super::what::{Fault, Said, What};
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
                let conns: Vec<Conn> = self.links.keys().copied().collect();
                if !conns.is_empty() {
                    let conn = conns[self.prng.index(conns.len())];
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
        }
    }

    pub(super) fn heal(&mut self) {
        self.healing = true;
        self.store_fails = false;
        self.busy_at = self.now_ms;
    }
}
