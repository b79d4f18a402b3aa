//! The workload: messages to players and to the group, spread over the time of the faults.

use super::what::What;
use super::{GROUP, World};
use zmqgame_core::bus::message::Content;
use zmqgame_core::bus::node::sender::Recipient;

impl World {
    pub(super) fn send(&mut self) {
        if self.messages_left == 0 {
            return;
        }
        let node = self.prng.index(self.knobs.senders);
        let player = self.prng.index(self.clients.len());
        let to_group = self.prng.chance(self.knobs.group_per_mille);
        if let Some(core) = self.nodes[node].core.as_mut() {
            let player = self.clients[player].player.clone();
            let recipient = if to_group {
                Recipient::Group(GROUP.into())
            } else {
                Recipient::Player(player.clone())
            };
            if let Ok(seq) = core.send(recipient, Content::Bytes, b"payload", None) {
                self.messages_left -= 1;
                let id = self.id(node, seq);
                if to_group {
                    self.checker.sent_to_group(id);
                } else {
                    self.checker.sent(id, &player);
                }
            }
            self.drain_node(node);
        }
        let span = 2 * self.knobs.faults_until_ms * 3 / 4 / self.knobs.messages.max(1);
        let delay = self.prng.below(span.max(1) + 1);
        self.later(delay, What::Send);
    }
}
