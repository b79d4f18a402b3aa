//! The workload: messages to players, groups and everyone, spread over the time of the faults.

use super::what::What;
use super::{CLUB, GROUP, WALL_MS, World};
use crate::loose::Wish;
use zmqgame_core::bus::message::{Content, MessageId, Policy};
use zmqgame_core::bus::node::sender::{Recipient, SendOptions};

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
        let times = self.times(to_one);
        if let Some(key) = self.loose_key() {
            return self.send_one_loose(node, recipient, key.as_deref(), times.deadline_ms);
        }
        let token = self.tokens.to_le_bytes();
        let payload: &[u8] = if times.deliver_at_ms > 0 {
            &token
        } else {
            b"payload"
        };
        let options = SendOptions {
            deadline_ms: times.deadline_ms,
            deliver_at_ms: times.deliver_at_ms,
            ..SendOptions::default()
        };
        let Some(core) = self.nodes[node].core.as_mut() else {
            return;
        };
        // A full window refuses it: it is sent later.
        if self.messages_left > 0
            && let Ok(seq) = core.send_with(recipient, Content::Bytes, payload, &options)
        {
            self.messages_left -= 1;
            let id = self.id(node, seq);
            if self.knobs.keeps_short() {
                self.checker.kept_from(id, WALL_MS + self.now_ms);
            }
            if to_one {
                self.checker.sent(id, &player);
            } else {
                self.checker.sent_to_group(id);
                self.loose.may_be_late(id);
            }
            if times.deadline_ms > 0 {
                self.checker.has_deadline(id, times.deadline_ms);
            }
            if times.deliver_at_ms > 0 {
                self.checker
                    .deferred(self.tokens, id, &player, times.deliver_at_ms);
                self.loose.may_be_late(id);
                self.tokens += 1;
            }
        }
    }

    /// Whether the next message has a policy of its own, and the key of a `latest`.
    fn loose_key(&mut self) -> Option<Option<String>> {
        let (latest, droppable) = (self.knobs.latest_per_mille, self.knobs.droppable_per_mille);
        if latest > 0 && self.prng.chance(latest) {
            let key = self.prng.below(self.knobs.latest_keys);
            return Some(Some(format!("key-{key}")));
        }
        (droppable > 0 && self.prng.chance(droppable)).then_some(None)
    }

    fn send_one_loose(&mut self, node: usize, to: Recipient, key: Option<&str>, deadline_ms: u64) {
        let quiet = self.knobs.quiet_per_mille;
        let wish = Wish {
            key: key.unwrap_or_default(),
            quiet: quiet > 0 && self.prng.chance(quiet),
            deadline_ms,
        };
        if self.messages_left > 0 && self.push_loose(node, to, &wish).is_some() {
            self.messages_left -= 1;
        }
    }

    /// A message of `latest` or `droppable`; none: the sender is down.
    pub(super) fn push_loose(
        &mut self,
        node: usize,
        to: Recipient,
        wish: &Wish<'_>,
    ) -> Option<MessageId> {
        let player = match &to {
            Recipient::Player(player) => Some(player.to_string()),
            _ => None,
        };
        let options = SendOptions {
            policy: if wish.key.is_empty() {
                Policy::Droppable
            } else {
                Policy::Latest
            },
            key: wish.key,
            quiet: wish.quiet,
            deadline_ms: wish.deadline_ms,
            ..SendOptions::default()
        };
        let core = self.nodes[node].core.as_mut()?;
        let seq = core
            .send_with(to, Content::Bytes, b"value", &options)
            .ok()?;
        let id = self.id(node, seq);
        self.loose.sent(id, player.as_deref(), wish);
        Some(id)
    }

    /// When a message is to be delivered, and until when: by the sender's clock, which is right.
    fn times(&mut self, to_one: bool) -> Times {
        let mut times = Times::default();
        let knobs = &self.knobs;
        let (deadline, defer) = (knobs.deadline_per_mille, knobs.defer_per_mille);
        let (deadline_ms, defer_ms) = (knobs.deadline_ms, knobs.defer_ms);
        let unix_ms = WALL_MS + self.now_ms;
        if to_one && defer > 0 && self.prng.chance(defer) {
            times.deliver_at_ms = unix_ms + self.prng.below(defer_ms);
        }
        if deadline > 0 && self.prng.chance(deadline) {
            times.deadline_ms = unix_ms.max(times.deliver_at_ms) + self.prng.below(deadline_ms);
        }
        times
    }
}

#[derive(Default)]
struct Times {
    deliver_at_ms: u64,
    deadline_ms: u64,
}
