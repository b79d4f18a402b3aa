//! The hub's process and its store: started, killed, fed and emptied.

use super::World;
use super::what::What;
use zmqgame_core::bus::codec::decode;
use zmqgame_core::bus::hub::{Conn, Hub, HubConfig, HubOut};
use zmqgame_core::bus::message::{Message, Outcome};
use zmqgame_core::bus::store::{StoreBatch, StoreDone, StoreError, StoreOp};

impl World {
    pub(super) fn hub_start(&mut self) {
        if self.hub.is_some() {
            return;
        }
        self.hub_incarnation += 1;
        self.note(1, self.hub_incarnation);
        let config = HubConfig {
            hub_epoch: self.hub_incarnation as u32,
            unix_ms: self.wall_ms + self.now_ms,
            hash_seed: self.prng.bits(),
            queue_messages: 16,
            sent_messages: 8,
            cursor_senders: self.knobs.cursor_senders,
            link_bytes: self.knobs.link_bytes,
            store_bytes: self.knobs.store_bytes,
            first_reads: 2,
            window_messages: self.knobs.window,
            keep_ms: self.knobs.keep_ms,
            expire_every_ms: self.knobs.expire_every_ms,
            idle_ms: self.knobs.idle_ms,
            ..HubConfig::default()
        };
        let mut hub = Hub::new(config, self.now_ms);
        self.variant.change_hub(&mut hub);
        self.hub = Some(hub);
        self.store_busy = false;
        self.checker.hub_begins();
        self.hub_timer_at = u64::MAX;
        self.drain_hub();
    }

    pub(super) fn hub_kill(&mut self) {
        if self.hub.take().is_none() {
            return;
        }
        self.note(2, 0);
        let conns: Vec<Conn> = self.links.keys().copied().collect();
        for conn in conns {
            self.sever(conn);
            if let Some(link) = self.links.get_mut(&conn) {
                link.at_hub = false;
            }
        }
        if self.script.is_none() {
            let delay = self.prng.between(5, 6_000);
            self.later(delay, What::HubStart);
        }
    }

    pub(super) fn hub_in(&mut self, conn: Conn, frame: &[u8]) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.held_up {
            link.unread.push(frame.to_vec());
            return;
        }
        if link.severed || !link.at_hub || link.hub_incarnation != self.hub_incarnation {
            return;
        }
        let (node, current) = (link.node, link.node_incarnation);
        self.note(3, frame.len() as u64);
        let watched = self.knobs.has_policies() || self.script.is_some();
        if watched && self.nodes[node].incarnation == current {
            for message in decode(frame).flatten() {
                if let Message::Send(send) = message {
                    self.loose.read(conn, self.id(node, send.seq));
                }
            }
        }
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_frame(self.now_ms, conn, frame);
            self.drain_hub();
        }
    }

    pub(super) fn hub_lost(&mut self, conn: Conn) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.held_up {
            link.lost_late = true;
            return;
        }
        let open = std::mem::replace(&mut link.at_hub, false);
        let ours = link.hub_incarnation == self.hub_incarnation;
        self.tidy_link(conn);
        if let Some(hub) = self.hub.as_mut().filter(|_| open && ours) {
            self.trace ^= conn;
            hub.handle_disconnected(self.now_ms, conn);
            self.drain_hub();
        }
    }

    /// What was held up arrives, in order; then the end of the connection, if that came.
    pub(super) fn hub_reads(&mut self, conn: Conn) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.held_up = false;
        let (unread, lost) = (std::mem::take(&mut link.unread), link.lost_late);
        for frame in unread {
            self.hub_in(conn, &frame);
        }
        if lost {
            self.hub_lost(conn);
        }
    }

    /// The socket of a node is full, or takes frames again.
    pub(super) fn writable(&mut self, conn: Conn, writable: bool) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.stalled |= !writable;
        }
        if let Some(hub) = self.hub.as_mut() {
            hub.set_writable(conn, writable);
            self.drain_hub();
        }
    }

    /// What the hub writes: whom it lets host is promise E, what it has expired must not go out.
    fn check_written(&mut self, conn: Conn, frame: &[u8]) {
        // What waited for a stalled link may be old when it goes out: `drop` follows it there.
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        let (stalled, host) = (link.stalled, (link.node, link.node_incarnation));
        // An older process that the hub still writes to sent other messages under the same numbers.
        let current = self.nodes[host.0].incarnation == host.1;
        for message in decode(frame).flatten() {
            match message {
                Message::Bound { bound } if !stalled => {
                    for bound in bound.iter() {
                        let claim = (bound.login, bound.binding);
                        self.checker.bound(self.now_ms, bound.player, claim, host);
                    }
                }
                Message::Deliver(deliver) if !stalled => {
                    for target in deliver.targets.iter() {
                        self.checker
                            .goes_out(self.now_ms, deliver.id, target.binding);
                    }
                }
                Message::Receipt { receipts } if current => {
                    for receipt in receipts.iter() {
                        let id = self.id(host.0, receipt.seq);
                        if receipt.outcome == Outcome::Busy {
                            self.loose.may_be_late(id);
                        } else if receipt.outcome == Outcome::Expired {
                            for player in self.checker.one_recipient(id) {
                                self.checker.expires(id, &player);
                            }
                        }
                    }
                }
                Message::GroupReport(report) if current => {
                    let id = self.id(host.0, report.seq);
                    for entry in report.entries.iter() {
                        if entry.outcome == Outcome::Expired {
                            self.checker.expires(id, entry.player);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn hub_timer(&mut self, at: u64) {
        if at != self.hub_timer_at {
            return;
        }
        self.hub_timer_at = u64::MAX;
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_timeout(self.now_ms);
            self.drain_hub();
        }
    }

    pub(super) fn drain_hub(&mut self) {
        let Some(mut hub) = self.hub.take() else {
            return;
        };
        while let Some(out) = hub.poll_out() {
            match out {
                HubOut::Frame { conn, bytes } => {
                    self.check_written(conn, &bytes);
                    self.send_to_node(conn, bytes);
                    if self.is_full(conn) {
                        hub.set_writable(conn, false);
                    }
                }
                HubOut::Close { conn, why } => {
                    self.note(4, why.text.len() as u64);
                    self.close_at_hub(conn);
                }
                HubOut::Exit { why } => self.exits.push(why),
            }
        }
        if let Some(batch) = hub.poll_store(64) {
            self.store_busy = true;
            let delay = self.prng.between(1, self.knobs.store_ms);
            let away = self.now_ms < self.store_away_until;
            let fails = std::mem::take(&mut self.store_fails) || away;
            self.later(delay, What::StoreDone(self.hub_incarnation, batch, fails));
        }
        if let Some(at) = hub.poll_timeout() {
            let at = at.max(self.now_ms + 1);
            if at < self.hub_timer_at {
                self.hub_timer_at = at;
                self.agenda.add(at, What::HubTimer(at));
            }
        }
        self.hub = Some(hub);
    }

    /// A script wants the hub dead at this batch.
    fn dies_before_answer(&mut self, incarnation: u64, batch: &StoreBatch) -> bool {
        if incarnation != self.hub_incarnation || self.hub.is_none() {
            return false;
        }
        let Some(gates) = &mut self.script else {
            return false;
        };
        let due = gates.kill_in == Some(0);
        gates.kill_in = gates.kill_in.and_then(|others| others.checked_sub(1));
        if due {
            if gates.late_commit {
                self.commit(batch);
            }
            self.hub_kill();
        }
        due
    }

    /// The hub's driver reads the wall clock.
    pub(super) fn tell_wall_clock(&mut self) {
        let unix_ms = self.wall_ms + self.now_ms;
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_clock(self.now_ms, unix_ms);
            self.drain_hub();
        }
    }

    fn chance_of_late_commit(&mut self) -> bool {
        match &self.script {
            Some(gates) => gates.late_commit,
            None => self.prng.chance(500),
        }
    }

    /// A batch of a killed hub may have been committed before the kill, or not at all.
    pub(super) fn store_done(&mut self, incarnation: u64, batch: &StoreBatch, fails: bool) {
        if let Some(gates) = self.script.as_mut().filter(|gates| gates.store_held) {
            gates.store.push((incarnation, batch.clone(), fails));
            return;
        }
        self.note(5, batch.ops.len() as u64);
        if self.dies_before_answer(incarnation, batch) {
            return;
        }
        let alive = incarnation == self.hub_incarnation && self.hub.is_some();
        let committed = if alive {
            !fails || self.chance_of_late_commit()
        } else {
            incarnation == self.hub_incarnation && self.chance_of_late_commit()
        };
        let mut result: Option<Vec<StoreDone>> = None;
        if committed {
            result = Some(self.commit(batch));
            let looks = |op: &StoreOp| matches!(op, StoreOp::Expire { .. });
            if !batch.ops.iter().all(looks) {
                self.busy_at = self.now_ms;
            }
        }
        if let Some(done) = result.as_ref().filter(|_| alive && !fails) {
            self.note_passed_over(done);
        }
        let Some(hub) = self.hub.as_mut().filter(|_| alive) else {
            return;
        };
        self.store_busy = false;
        let answer = match result {
            Some(done) if !fails => Ok(done),
            _ => Err(StoreError {
                reason: "injected: outcome unknown".into(),
            }),
        };
        let taken = hub.handle_store(self.now_ms, batch.number, answer);
        assert!(taken.is_ok(), "the hub asked for this batch: {taken:?}");
        self.drain_hub();
    }
}
