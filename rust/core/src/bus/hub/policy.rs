//! `latest` and `droppable`: live or not at all, never stored, no numbers, no marks (BUS.md rule 33).
//!
//! A message goes out if its player is live, nothing waits in the line ahead of it, and the link has room to spare: it
//! then has the place in order that it would have had in the line. Else a `droppable` is dropped. A `latest` is kept, the
//! newest of each key, until its player is live and the link has room.

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase};
use crate::bus::hub::flow::Blocked;
use crate::bus::hub::receipts::{Detail, Recipient};
use crate::bus::hub::send::target_name;
use crate::bus::hub::trace::HopKind;
use crate::bus::message::{
    Content, Deliver, GroupReport, Message, MessageId, Number, Outcome, POLICY_SEQ, Policy, Send,
    Target, features,
};
use crate::bus::wire::List;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of one player that are kept: a screen of values.
const KEPT_KEYS: usize = 64;
/// Bytes kept for all players, `KEPT_COST` an entry included.
const KEPT_BYTES: usize = 16 << 20;
/// What an entry costs beside key and payload.
const KEPT_COST: usize = 128;
/// Nobody wants the newest value of an hour ago; and what is kept for a player that never comes has an end.
const KEPT_MS: u64 = 3_600_000;

/// A `latest` that waits.
#[derive(Debug)]
struct Kept {
    /// Who waits for the outcome; `NONE`: nobody.
    from: u32,
    id: MessageId,
    key: Box<str>,
    until_ms: u64,
    deadline_ms: u64,
    content: Content,
    trace: bool,
    payload: Arc<[u8]>,
}

impl Kept {
    fn cost(&self) -> usize {
        KEPT_COST + self.key.len() + self.payload.len()
    }
}

/// All that wait, by player, in the order in which they joined.
#[derive(Debug, Default)]
pub struct KeptLatest {
    by_player: BTreeMap<u32, Vec<Kept>>,
    bytes: usize,
}

impl KeptLatest {
    /// Whether something waits for a player.
    pub fn has(&self, player: u32) -> bool {
        !self.by_player.is_empty() && self.by_player.contains_key(&player)
    }
}

/// What becomes of a message for one player.
enum Offered {
    Sent(u32, Number),
    Done(Outcome, Detail),
    Kept,
}

impl Hub {
    /// A send with a policy of its own.
    pub(super) fn send_policy(&mut self, session: u32, link: u32, send: &Send<'_>) {
        if send.seq & POLICY_SEQ == 0 {
            return self.malformed(link, "a policy needs a seq with bit 63");
        }
        self.note_send(session, send.seq, target_name(&send.target), send.trace);
        let payload: Arc<[u8]> = send.payload.into();
        let all = match send.target {
            Target::Player(name) => {
                // A record may be gone or not yet there: that a player is away says nothing of it.
                let at = if send.policy == Policy::Latest || send.trace {
                    self.players.intern(name, self.config.max_players)
                } else {
                    self.players.find(name)
                };
                let Some(at) = at else {
                    return self.policy_outcome(
                        session,
                        send,
                        NONE,
                        Outcome::Dropped,
                        Detail::NotOnline,
                    );
                };
                match self.offer(session, at, send, &payload, !send.quiet) {
                    Offered::Kept => {}
                    Offered::Done(outcome, detail) => {
                        self.policy_outcome(session, send, at, outcome, detail);
                        self.slim(at);
                    }
                    Offered::Sent(to, number) => {
                        let targets = [number];
                        self.write_policy(
                            to,
                            self.policy_id(session, send),
                            send,
                            (&targets).into(),
                        );
                        self.policy_outcome(session, send, at, Outcome::Sent, Detail::None);
                    }
                }
                return;
            }
            Target::Group(name) => {
                let group = self.groups.find(name);
                let members = group.map(|group| self.groups.members(group));
                members.unwrap_or_default()
            }
            Target::Broadcast(scope) => self.online(scope).into(),
        };
        self.policy_many(session, send, &payload, &all);
    }

    fn policy_many(&mut self, session: u32, send: &Send<'_>, payload: &Arc<[u8]>, all: &[u32]) {
        let mut counts = [0u32; 8];
        let mut fan = std::mem::take(&mut self.fan);
        for at in all {
            let (outcome, why) = match self.offer(session, *at, send, payload, false) {
                Offered::Sent(link, number) => {
                    fan.push(link, number);
                    (Outcome::Sent, Some(Detail::None))
                }
                Offered::Done(outcome, why) => (outcome, Some(why)),
                Offered::Kept => (Outcome::Dropped, None), // Weaker than the truth may become.
            };
            self.count_policy(outcome);
            if let Some(why) = why.filter(|_| send.trace) {
                self.note_policy(self.policy_id(session, send), *at, outcome, why);
            }
            counts[outcome as usize - 1] += 1;
        }
        let id = self.policy_id(session, send);
        for (to, targets) in fan.lists() {
            self.write_policy(to, id, send, targets);
        }
        fan.clear();
        self.fan = fan;
        if !send.quiet {
            self.note_report(session, send.seq, &counts);
            let report = GroupReport {
                seq: send.seq,
                last: true,
                wide: true,
                counts,
                omitted: all.len() as u32,
                entries: (&[]).into(),
            };
            let link = self.sessions.get(session).link;
            self.control(link, &Message::GroupReport(report));
        }
    }

    fn policy_id(&self, session: u32, send: &Send<'_>) -> MessageId {
        let sender = self.sessions.get(session);
        MessageId {
            node_key: sender.node_key,
            epoch: sender.epoch,
            seq: send.seq,
        }
    }

    /// The hop of a message without a receipt of its own.
    fn note_policy(&mut self, id: MessageId, player: u32, outcome: Outcome, detail: Detail) {
        let kind = match outcome {
            Outcome::Sent => HopKind::Sent,
            Outcome::Expired => HopKind::Expired,
            _ => HopKind::Dropped,
        };
        self.note_hop(kind, id, player, 0, detail.name());
    }

    const fn count_policy(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sent => self.counters.sent += 1,
            Outcome::Expired => self.counters.expired += 1,
            _ => self.counters.dropped += 1,
        }
    }

    fn policy_outcome(
        &mut self,
        session: u32,
        send: &Send<'_>,
        player: u32,
        outcome: Outcome,
        detail: Detail,
    ) {
        let id = self.policy_id(session, send);
        if send.quiet {
            self.note_policy(id, player, outcome, detail);
            return self.count_policy(outcome);
        }
        let to = Recipient {
            from: session,
            id,
            grouped: false,
            place: 0,
            player,
        };
        self.outcome(to, outcome, detail);
    }

    /// Whether something may go out to a player now; the link has half of its room to spare, so that a slow one drops
    /// these first.
    fn policy_way(&self, at: u32) -> Result<u32, Detail> {
        let player = self.players.get(at);
        if player.phase != Phase::Live {
            return Err(Detail::NotOnline);
        }
        let host = self.sessions.get(player.host);
        if host.features & features::POLICIES == 0 {
            return Err(Detail::OldNode);
        }
        let waits = player
            .line
            .as_ref()
            .is_some_and(|line| !line.queue.is_empty())
            && !self.broken.lacks(Rule::PolicyKeepsPlace);
        let link = self
            .links
            .get(host.link)
            .filter(|link| link.closing.is_none());
        match link {
            Some(link) if link.out.payload_bytes() * 2 <= self.config.link_bytes && !waits => {
                Ok(host.link)
            }
            _ => Err(Detail::SlowNode),
        }
    }

    fn offer(
        &mut self,
        session: u32,
        at: u32,
        send: &Send<'_>,
        payload: &Arc<[u8]>,
        told: bool,
    ) -> Offered {
        if self.is_past(send.deadline_ms) {
            return Offered::Done(Outcome::Expired, Detail::None);
        }
        // What waits for the end of the hold is ahead of it.
        let behind = !self.sessions.get(session).held.is_empty();
        let way = match self.policy_way(at) {
            Ok(_) if behind => Err(Detail::Starting),
            way => way,
        };
        if let Ok(link) = way
            && !self.kept.has(at)
        {
            let binding = self.in_epoch(self.players.get(at).binding);
            return Offered::Sent(link, Number { binding, number: 0 });
        }
        let why = way.err().unwrap_or(Detail::SlowNode);
        if send.policy == Policy::Droppable || why == Detail::OldNode {
            return Offered::Done(Outcome::Dropped, why);
        }
        let kept = Kept {
            from: if told { session } else { NONE },
            id: self.policy_id(session, send),
            key: send.key.into(),
            until_ms: self.now + KEPT_MS,
            deadline_ms: send.deadline_ms,
            content: send.content,
            trace: send.trace,
            payload: payload.clone(),
        };
        self.keep(at, kept)
    }

    /// The newest of a key takes its place at the tail.
    fn keep(&mut self, at: u32, kept: Kept) -> Offered {
        let of_player = self.kept.by_player.get_mut(&at);
        if let Some(all) = of_player.filter(|_| !self.broken.lacks(Rule::LatestReplaces))
            && let Some(place) = all.iter().position(|other| other.key == kept.key)
        {
            let old = all.remove(place);
            self.kept.bytes -= old.cost();
            self.end_kept(at, &old, Outcome::Dropped, Detail::Replaced);
        }
        let keys = self.kept.by_player.get(&at).map_or(0, Vec::len);
        if keys >= KEPT_KEYS || self.kept.bytes + kept.cost() > KEPT_BYTES {
            self.forget_kept(at);
            return Offered::Done(Outcome::Dropped, Detail::KeptLimit);
        }
        self.kept.bytes += kept.cost();
        self.kept.by_player.entry(at).or_default().push(kept);
        self.send_kept(at);
        Offered::Kept
    }

    fn forget_kept(&mut self, at: u32) {
        if self.kept.by_player.get(&at).is_some_and(Vec::is_empty) {
            self.kept.by_player.remove(&at);
        }
    }

    fn end_kept(&mut self, player: u32, kept: &Kept, outcome: Outcome, detail: Detail) {
        let Kept { from, id, .. } = *kept;
        if from == NONE {
            self.note_policy(id, player, outcome, detail);
            return self.count_policy(outcome);
        }
        let to = Recipient {
            from,
            id,
            grouped: false,
            place: 0,
            player,
        };
        self.outcome(to, outcome, detail);
    }

    /// What is kept for a player goes out, if it may.
    pub(super) fn send_kept(&mut self, at: u32) {
        while self.kept.has(at) {
            let link = match self.policy_way(at) {
                Ok(link) => link,
                Err(Detail::SlowNode) => return self.wait(at, Blocked::Link),
                Err(_) => return,
            };
            let Some(all) = self
                .kept
                .by_player
                .get_mut(&at)
                .filter(|all| !all.is_empty())
            else {
                return self.forget_kept(at);
            };
            let sender = self.sessions.find(all[0].id.node_key);
            if sender.is_some_and(|sender| !self.sessions.get(sender).held.is_empty()) {
                return; // Its turn comes at the end of the hold.
            }
            let kept = all.remove(0);
            self.kept.bytes -= kept.cost();
            self.forget_kept(at);
            if self.is_past(kept.deadline_ms) {
                self.end_kept(at, &kept, Outcome::Expired, Detail::None);
                continue;
            }
            let binding = self.in_epoch(self.players.get(at).binding);
            let targets = [Number { binding, number: 0 }];
            let deliver = Deliver {
                id: kept.id,
                policy: Policy::Latest,
                trace: kept.trace,
                content: kept.content,
                targets: (&targets).into(),
                payload: &kept.payload,
            };
            self.put_payload(link, &Message::Deliver(deliver));
            self.end_kept(at, &kept, Outcome::Sent, Detail::None);
        }
    }

    /// The hold is over: what was kept behind held sends may go on.
    pub(super) fn send_all_kept(&mut self) {
        let all: Vec<u32> = self.kept.by_player.keys().copied().collect();
        for at in all {
            self.send_kept(at);
        }
    }

    /// Held sends are lost with their link, and come again: what is kept behind them would pass them. Its sender knows
    /// that it is lost, as all without receipt.
    pub(super) fn drop_behind_held(&mut self, session: u32) {
        let sender = self.sessions.get(session);
        if sender.held.is_empty() {
            return;
        }
        let node_key = sender.node_key;
        let mut freed = 0;
        let mut bare = Vec::new();
        self.kept.by_player.retain(|at, all| {
            for kept in all.extract_if(.., |kept| kept.id.node_key == node_key) {
                freed += kept.cost();
                self.counters.dropped += 1;
            }
            if all.is_empty() {
                bare.push(*at);
            }
            !all.is_empty()
        });
        self.kept.bytes -= freed;
        for at in bare {
            self.slim(at);
        }
    }

    /// What was kept too long, or is past its deadline.
    pub(super) fn check_kept(&mut self) {
        let (now, unix_ms) = (self.now, self.unix_ms());
        let past = |kept: &Kept| {
            now >= kept.until_ms || (kept.deadline_ms != 0 && unix_ms > kept.deadline_ms)
        };
        let mut ended = Vec::new();
        for (at, all) in &mut self.kept.by_player {
            ended.extend(
                all.extract_if(.., |kept| past(kept))
                    .map(|kept| (*at, kept)),
            );
        }
        for (at, kept) in &ended {
            self.kept.bytes -= kept.cost();
            self.end_kept(*at, kept, Outcome::Expired, Detail::None);
            self.forget_kept(*at);
        }
        ended.dedup_by_key(|(at, _)| *at);
        for (at, _) in ended {
            self.slim(at); // Once: with the last of them the record may go.
        }
    }

    fn write_policy(
        &mut self,
        link: u32,
        id: MessageId,
        send: &Send<'_>,
        targets: List<'_, Number>,
    ) {
        let deliver = Deliver {
            id,
            policy: send.policy,
            trace: send.trace,
            content: send.content,
            targets,
            payload: send.payload,
        };
        self.put_payload(link, &Message::Deliver(deliver));
    }

    fn put_payload(&mut self, link: u32, message: &Message<'_>) {
        if let Some(found) = self
            .links
            .get_mut(link)
            .filter(|link| link.closing.is_none())
        {
            found.out.payload(message);
            self.make_ready(link);
        }
    }
}
