//! What senders of a world by hand send, and what they are told.

use super::Script;
use crate::loose::Wish;
use zmqgame_core::bus::message::{Content, MessageId, Outcome};
use zmqgame_core::bus::node::sender::{Recipient, SendOptions};

impl Script {
    /// A message to a client's player.
    ///
    /// # Panics
    /// If the sender is down or its window is full.
    pub fn send(&mut self, sender: usize, client: usize) -> MessageId {
        let player = self.world.clients[client].player.clone();
        let id = self.push(sender, Recipient::Player(player.as_str().into()));
        self.world.checker.sent(id, &player);
        self.world.drain_node(sender);
        id
    }

    /// A message to a client's player, to be delivered so much later.
    ///
    /// # Panics
    /// If the sender is down or its window is full.
    pub fn send_later(&mut self, sender: usize, client: usize, delay_ms: u64) -> MessageId {
        let player = self.world.clients[client].player.clone();
        let token = self.world.tokens;
        self.world.tokens += 1;
        let deliver_at_ms = super::super::WALL_MS + self.world.now_ms + delay_ms;
        let options = SendOptions {
            deliver_at_ms,
            ..SendOptions::default()
        };
        let core = self.world.nodes[sender].core.as_mut();
        let seq = core
            .expect("the sender lives")
            .send_with(
                Recipient::Player(player.as_str().into()),
                Content::Bytes,
                &token.to_le_bytes(),
                &options,
            )
            .expect("the window has room");
        let id = self.world.id(sender, seq);
        self.world.checker.sent(id, &player);
        self.world
            .checker
            .deferred(token, id, &player, deliver_at_ms);
        self.world.loose.may_be_late(id);
        self.world.drain_node(sender);
        id
    }

    /// A message to the group of all who are hosted.
    pub fn send_to_all(&mut self, sender: usize) -> MessageId {
        let id = self.push(sender, Recipient::Group(super::super::GROUP.into()));
        self.world.checker.sent_to_group(id);
        self.world.loose.may_be_late(id);
        self.world.drain_node(sender);
        id
    }

    fn push(&mut self, sender: usize, recipient: Recipient) -> MessageId {
        let core = self.world.nodes[sender]
            .core
            .as_mut()
            .expect("the sender lives");
        let seq = core
            .send(recipient, Content::Bytes, b"payload", None)
            .expect("the window has room");
        self.world.id(sender, seq)
    }

    /// A message to a player of any name.
    pub fn send_to_name(&mut self, sender: usize, player: &str) -> MessageId {
        let id = self.push(sender, Recipient::Player(player.into()));
        self.world.checker.sent(id, player);
        self.world.drain_node(sender);
        id
    }

    /// The last receipt for a message to a player of any name.
    #[must_use]
    pub fn receipt_of(&self, id: MessageId, player: &str) -> Option<Outcome> {
        self.world.checker.outcome(id, player)
    }

    /// Senders in a client's cursor.
    #[must_use]
    pub fn cursor_len(&self, client: usize) -> usize {
        self.world.clients[client].cursor.marks().count()
    }

    /// A message, until its receipt is there.
    pub fn sent(&mut self, sender: usize, client: usize) -> (MessageId, Outcome) {
        let id = self.send(sender, client);
        self.until("the message has a receipt", |script| {
            script.receipt(id, client).is_some()
        });
        let outcome = self.receipt(id, client).expect("it was waited for");
        (id, outcome)
    }

    /// A message to a client's player that is not delivered after so long.
    ///
    /// # Panics
    /// If the sender is down or its window is full.
    pub fn send_until(&mut self, sender: usize, client: usize, ttl_ms: u64) -> MessageId {
        let player = self.world.clients[client].player.clone();
        let deadline_ms = super::super::WALL_MS + self.world.now_ms + ttl_ms;
        let options = SendOptions {
            deadline_ms,
            ..SendOptions::default()
        };
        let core = self.world.nodes[sender].core.as_mut();
        let to = Recipient::Player(player.as_str().into());
        let seq = core
            .expect("the sender lives")
            .send_with(to, Content::Bytes, b"payload", &options)
            .expect("the window has room");
        let id = self.world.id(sender, seq);
        self.world.checker.sent(id, &player);
        self.world.checker.has_deadline(id, deadline_ms);
        self.world.drain_node(sender);
        id
    }

    /// A message of `latest`, by its key, or a `droppable`, without one.
    ///
    /// # Panics
    /// If the sender is down.
    pub fn send_loose(&mut self, sender: usize, client: usize, key: &str) -> MessageId {
        let player = self.world.clients[client].player.clone();
        let to = Recipient::Player(player.as_str().into());
        let wish = Wish {
            key,
            ..Wish::default()
        };
        let id = self.world.push_loose(sender, to, &wish);
        self.world.drain_node(sender);
        id.expect("the sender lives")
    }

    /// What the sender was told of a message of `latest` or `droppable`.
    #[must_use]
    pub fn loose_receipt(&self, id: MessageId) -> Option<Outcome> {
        self.world.loose.outcome(id)
    }
}
