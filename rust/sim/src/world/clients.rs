//! Players' clients and their connections to hosts.

use super::World;
use super::what::{Heard, Said, What};
use crate::client::Place;
use zmqgame_core::bus::message::{MessageId, POLICY_SEQ};
use zmqgame_core::bus::node::cursor::Cursor;
use zmqgame_core::bus::node::hosting::Attached;
use zmqgame_core::bus::store::DEFERRED_KEY;

impl World {
    pub(super) fn tell_client(&mut self, node: usize, player: &str, heard: Heard) {
        let Some(client) = self
            .clients
            .iter()
            .position(|client| client.player == player)
        else {
            return;
        };
        if self.clients[client].is_at(node) {
            let arrives = self.now_ms + self.way();
            let at = self.clients[client].hears_at(arrives);
            let visit = self.clients[client].visit;
            self.agenda.add(at, What::ClientHears(client, visit, heard));
        }
    }

    pub(super) fn tell_host(&mut self, client: usize, said: Said) {
        let Place::At { node, incarnation } = self.clients[client].place else {
            return;
        };
        let arrives = self.now_ms + self.way();
        let at = self.clients[client].speaks_at(arrives);
        let visit = self.clients[client].visit;
        self.agenda
            .add(at, What::HostHears(client, visit, node, incarnation, said));
    }

    pub(super) fn attach(&mut self, client: usize, visit: u64) {
        if self.clients[client].visit != visit || self.clients[client].place != Place::Away {
            return;
        }
        let node = self.knobs.senders + self.prng.index(self.knobs.hosts);
        self.attach_at(client, node);
    }

    pub(super) fn attach_at(&mut self, client: usize, node: usize) {
        let incarnation = self.nodes[node].incarnation;
        let state = &self.clients[client];
        let (player, login) = (state.player.clone(), state.login);
        let cursor = if self.variant.client_brings_nothing() {
            Cursor::default()
        } else {
            state.cursor.clone()
        };
        let attached = self.nodes[node]
            .core
            .as_mut()
            .map(|core| core.attach(&player, login, cursor));
        self.note(9, node as u64);
        let now_ms = self.now_ms;
        let Some(Ok(attached)) = attached else {
            return self.come_back_after(client, 20, 400);
        };
        self.clients[client].arrive(now_ms, node, incarnation);
        if self.knobs.has_policies() {
            self.busy_at = now_ms; // What was kept for it comes now.
        }
        if let Attached::Resumed(pending) = attached {
            for delivery in pending {
                if delivery.id.node_key == DEFERRED_KEY {
                    self.checker
                        .promoted(now_ms, delivery.id, &delivery.payload);
                }
                self.tell_client(node, &player, Heard::Message(delivery.id));
            }
        }
        if self.clients[client].leaving {
            self.tell_host(client, Said::Leave);
        }
        self.drain_node(node);
    }

    /// What the host's game does: it hears only the connection that the player has now.
    pub(super) fn host_hears(
        &mut self,
        client: usize,
        visit: u64,
        node: usize,
        incarnation: u64,
        said: Said,
    ) {
        if self.nodes[node].incarnation != incarnation {
            return;
        }
        // A newer visit to the same node replaced the connection; to another node, the old host can't know.
        let state = &self.clients[client];
        if state.is_at(node) && state.visit != visit {
            return;
        }
        let (player, now_ms) = (state.player.clone(), self.now_ms);
        let Some(core) = self.nodes[node].core.as_mut() else {
            return;
        };
        match said {
            Said::Handled(id) => core.handled(&player, id),
            Said::Gone => core.detach(now_ms, &player),
            Said::Leave => {
                core.leave_player(&player);
            }
        }
        self.drain_node(node);
    }

    pub(super) fn client_hears(&mut self, client: usize, visit: u64, heard: Heard) {
        if self.clients[client].visit != visit {
            return;
        }
        match heard {
            Heard::Bound(login) => self.clients[client].login = login,
            // Who has asked to leave handles nothing more: the logout carries the cursor of that moment [30, 31].
            Heard::Message(_) if self.clients[client].leaving => {}
            Heard::Message(id) if id.seq & POLICY_SEQ != 0 => self.handle_loose(client, id),
            Heard::Message(id) => {
                let new = !self.clients[client].cursor.covers(id);
                if new || self.variant.client_is_forgetful() {
                    self.clients[client].cursor.raise(id);
                    self.note(10, id.seq);
                    self.busy_at = self.now_ms;
                    let player = self.clients[client].player.clone();
                    self.checker.handled(self.now_ms, &player, id);
                    self.loose.handled_must(&player, id);
                    self.tell_loose();
                    if let Some(gates) = &mut self.script {
                        gates.handled.push((client, id));
                    }
                }
                let wait = self.prng.between(0, self.knobs.ack_ms);
                self.clients[client].waits(self.now_ms + wait);
                if let Some(gates) = &mut self.script
                    && gates.mute.contains(&client)
                {
                    return gates.unsaid.push((client, id));
                }
                self.tell_host(client, Said::Handled(id));
            }
            Heard::Forget(up_to) => self.clients[client].cursor.forget(up_to),
            Heard::LoggedOut => self.logged_out(client),
            Heard::Closed => {
                self.clients[client].depart();
                self.come_back(client, 500);
            }
        }
    }

    /// A message of `latest` or `droppable`: no cursor, no ack [33].
    fn handle_loose(&mut self, client: usize, id: MessageId) {
        self.note(12, id.seq);
        let player = &self.clients[client].player;
        self.loose.handled(player, id);
        if let Some(gates) = &mut self.script {
            gates.handled.push((client, id));
        }
        self.tell_loose();
    }

    pub(super) fn logged_out(&mut self, client: usize) {
        if self.clients[client].leaving {
            let player = self.clients[client].player.clone();
            self.checker.session_left(&player);
            self.checker.session_begins(&player);
            self.clients[client].forget_everything();
        }
        self.clients[client].depart();
        self.come_back(client, 2_000);
    }

    pub(super) fn come_back(&mut self, client: usize, within_ms: u64) {
        self.come_back_after(client, 1, within_ms);
    }

    fn come_back_after(&mut self, client: usize, least_ms: u64, within_ms: u64) {
        if self.script.is_some() {
            return;
        }
        let delay = self.prng.between(least_ms, within_ms);
        let visit = self.clients[client].visit;
        self.later(delay, What::Attach(client, visit));
    }
}
