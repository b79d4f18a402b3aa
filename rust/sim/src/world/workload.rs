//! The workload: messages to players, groups and everyone, spread over the time of the faults.

use super::what::What;
use super::{CLUB, GROUP, World};
use zmqgame_core::bus::message::Content;
use zmqgame_core::bus::node::sender::Recipient;

impl World {
    pub(super) fn send(&mut self) {
        if self.messages_left == 0 {
            return;
        }
        let node = self.prng.index(self.knobs.senders);
        let burst = self.knobs.burst;
        for _ in 0..burst {
            self.send_one(node);
        }
        self.drain_node(node);
        let span = 2 * burst * self.knobs.faults_until_ms * 3 / 4 / self.knobs.messages.max(1);
        let delay = self.prng.below(span.max(1) + 1);
        self.later(delay, What::Send);
    }

    fn send_one(&mut self, node: usize) {
        let player = self.prng.index(self.clients.len());
        let player = self.clients[player].player.clone();
        let knobs = &self.knobs;
        let kind = self.prng.below(1_000);
        let (group, club) = (knobs.group_per_mille, knobs.club_per_mille);
        let to_all = club + knobs.broadcast_per_mille;
        let recipient = if kind < group {
            Recipient::Group(GROUP.into())
        } else if kind < group + club {
            Recipient::Group(CLUB.into())
        } else if kind < group + to_all {
            Recipient::AllPlayers
        } else {
            Recipient::Player(player.as_str().into())
        };
        let to_one = matches!(recipient, Recipient::Player(_));
        let Some(core) = self.nodes[node].core.as_mut() else {
            return;
        };
        // A full window refuses it: it is sent later.
        if self.messages_left > 0
            && let Ok(seq) = core.send(recipient, Content::Bytes, b"payload", None)
        {
            self.messages_left -= 1;
            let id = self.id(node, seq);
            if to_one {
                self.checker.sent(id, &player);
            } else {
                self.checker.sent_to_group(id);
            }
        }
    }
}
