//! A send is accepted or answered: to one player, to a group, to those online [35, 36, 39].

use crate::bus::broken::Rule;
use crate::bus::codec::decode;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::NONE;
use crate::bus::hub::flow::Entered;
use crate::bus::hub::line::{Accepted, Entry};
use crate::bus::hub::mailbox::Purpose;
use crate::bus::hub::receipts::{Detail, Report};
use crate::bus::hub::session::HeldSend;
use crate::bus::message::{Message, MessageId, Outcome, Policy, Scope, Send, Target};
use crate::bus::store::StoreOp;
use std::sync::Arc;

/// Names of nodes' own addresses begin so; a broadcast to players leaves them out.
pub const NODE_PREFIX: &str = "node:";

/// For people.
pub(super) const fn target_name<'a>(target: &Target<'a>) -> &'a str {
    match target {
        Target::Player(name) | Target::Group(name) => name,
        Target::Broadcast(Scope::Players) => "*players",
        Target::Broadcast(Scope::Nodes) => "*nodes",
    }
}

impl Hub {
    pub(super) fn send(&mut self, session: u32, send: &Send<'_>) {
        self.raise_low(session, send.low);
        self.counters.sends += 1;
        self.counters.resends += u64::from(send.resend);
        self.note_send(session, send.seq, target_name(&send.target), send.trace);
        if send.policy != Policy::MustDeliver {
            return self.answer_send(session, send.seq, Outcome::Refused, Detail::Policy);
        }
        let late = self.broken.lacks(Rule::GroupInOneStep);
        let held = !self.sessions.get(session).held.is_empty() && !late;
        let waits = match send.target {
            Target::Player(_) => false,
            Target::Group(_) if late => true,
            Target::Group(_) => self.hold || !self.mailbox.opened,
            Target::Broadcast(_) => self.hold,
        };
        if held || waits {
            return self.keep_held(session, send);
        }
        self.accept(session, send);
    }

    fn answer_send(&mut self, session: u32, seq: u64, outcome: Outcome, detail: Detail) {
        match outcome {
            Outcome::Refused => self.counters.refused += 1,
            Outcome::Busy => self.counters.busy += 1,
            _ => {}
        }
        self.note_receipt(session, seq, outcome, NONE);
        let link = self.sessions.get(session).link;
        self.receipt(link, seq, outcome, detail);
    }

    /// Membership is not whole before the hold ends and the store has told its groups: a group send waits, and all
    /// of that sender behind it.
    ///
    /// Over the window nothing is kept and nothing answered: the node breaks its own window, so its link goes.
    fn keep_held(&mut self, session: u32, send: &Send<'_>) {
        let mut bytes = Vec::new();
        if Message::Send(*send).encode(&mut bytes).is_err() {
            return;
        }
        let entry = self.sessions.get_mut(session);
        entry.held_bytes += bytes.len();
        entry.held.push_back(HeldSend { bytes });
        let over = entry.held.len() > self.config.window_messages as usize
            || entry.held_bytes > 2 * self.config.window_bytes as usize;
        if over {
            let link = entry.link;
            self.close_link(
                link,
                crate::bus::message::ErrorCode::Limit,
                "more sends than the window",
            );
        }
    }

    /// The hold is over and the store is open: what waited for both goes on.
    pub(super) fn send_all_held(&mut self) {
        if !self.hold && self.mailbox.opened {
            for session in 0..self.sessions.len() {
                self.send_held(session);
            }
            self.send_all_kept();
        }
    }

    pub(super) fn send_held(&mut self, session: u32) {
        let entry = self.sessions.get_mut(session);
        entry.held_bytes = 0;
        for held in std::mem::take(&mut entry.held) {
            for message in decode(&held.bytes) {
                if let Ok(Message::Send(send)) = message {
                    self.accept(session, &send);
                }
            }
        }
    }

    fn accept(&mut self, session: u32, send: &Send<'_>) {
        match send.target {
            Target::Player(name) => self.send_player(session, send, name),
            Target::Group(name) => {
                let Some(group) = self.groups.find(name) else {
                    self.sessions.get_mut(session).busy.remove_group(send.seq);
                    return self.answer_send(
                        session,
                        send.seq,
                        Outcome::Refused,
                        Detail::UnknownGroup,
                    );
                };
                let members = self.groups.members(group);
                self.send_many(session, send, &members, false);
            }
            Target::Broadcast(scope) => {
                let online = self.online(scope).into();
                self.send_many(session, send, &online, true);
            }
        }
    }

    /// Those who are hosted now, in order.
    pub(super) fn online(&self, scope: Scope) -> Vec<u32> {
        let nodes = scope == Scope::Nodes;
        let mut all: Vec<u32> = self
            .sessions
            .iter()
            .flat_map(|session| session.players.iter().copied())
            .collect();
        all.retain(|at| self.players.get(*at).name.starts_with(NODE_PREFIX) == nodes);
        all.sort_unstable();
        all
    }

    fn entry(&self, session: u32, send: &Send<'_>, grouped: bool) -> Entry {
        let sender = self.sessions.get(session);
        let id = MessageId {
            node_key: sender.node_key,
            epoch: sender.epoch,
            seq: send.seq,
        };
        Entry::from(Accepted {
            id,
            from: session,
            grouped,
            resend: send.resend,
            deadline_ms: send.deadline_ms,
            trace: send.trace,
            content: send.content,
            payload: send.payload.into(),
        })
    }

    fn send_player(&mut self, session: u32, send: &Send<'_>, name: &str) {
        let Some(at) = self.players.intern(name, self.config.max_players) else {
            return self.answer_send(session, send.seq, Outcome::Refused, Detail::Players);
        };
        let room = if send.deliver_at_ms != 0 && self.store_full(send.payload.len()) {
            Err(Detail::StoreBusy)
        } else {
            self.may_enter(session, at, send)
        };
        if let Err(detail) = room {
            let name = self.players.get(at).name.clone();
            self.sessions.get_mut(session).busy.insert(name, send.seq);
            self.slim(at);
            return self.answer_send(session, send.seq, Outcome::Busy, detail);
        }
        let name = &self.players.get(at).name;
        self.sessions.get_mut(session).busy.remove(name, send.seq);
        let entry = self.entry(session, send, false);
        if send.deliver_at_ms != 0 {
            return self.defer(at, entry, send.deliver_at_ms);
        }
        match self.enter(at, entry.clone()) {
            Entered::Open => {}
            Entered::Done(outcome, detail) => self.outcome(entry.recipient(at), outcome, detail),
            Entered::Live(link, number) => self.write_deliver(link, &entry, (&[number]).into()),
        }
    }

    /// Goes to the deferred list, also if its time has come: sent again, it must not take another way [37].
    fn defer(&mut self, at: u32, entry: Entry, deliver_at_ms: u64) {
        match self.known_before(at, &entry) {
            None => {}
            Some(Entered::Done(outcome, detail)) => {
                return self.outcome(entry.recipient(at), outcome, detail);
            }
            Some(_) => return,
        }
        let player = self.players.get_mut(at);
        let line = player.line();
        line.ops += 1;
        line.appends.push_back(entry.id);
        let op = StoreOp::Defer {
            player: player.name.clone(),
            id: entry.id,
            deliver_at_ms,
            deadline_ms: match entry.deadline_ms {
                0 => deliver_at_ms.saturating_add(self.config.keep_ms),
                of_sender => of_sender,
            },
            content: entry.content,
            payload: entry.payload.to_shared(),
            first: !entry.resend,
        };
        let purpose = Purpose::Append {
            player: at,
            id: entry.id,
            from: entry.from,
            grouped: false,
            place: 0,
            flush: false,
            again: false,
            deferred: deliver_at_ms,
        };
        self.mailbox.push(op, purpose);
    }

    /// Whether no earlier message of the pair was `busy` [36], and there is room.
    fn may_enter(&mut self, session: u32, at: u32, send: &Send<'_>) -> Result<(), Detail> {
        let (sender, name) = (self.sessions.get(session), &self.players.get(at).name);
        if sender.busy.blocks(name, send.seq) && !self.broken.lacks(Rule::BusyHolds) {
            return Err(Detail::BehindBusy);
        }
        if let Some(refused) = sender.refused.get(name) {
            if refused.contains_key(&send.seq) {
                return Ok(()); // It is refused again.
            }
            if refused.range(..send.seq).next().is_some() {
                return Err(Detail::BehindRefused);
            }
        }
        self.room(at, send.payload.len())?;
        Ok(())
    }

    /// Each recipient's line is entered in the same step; one frame goes to each node [39].
    fn send_many(&mut self, session: u32, send: &Send<'_>, recipients: &Arc<[u32]>, brief: bool) {
        let blocked = recipients
            .iter()
            .find_map(|at| self.may_enter(session, *at, send).err());
        if let Some(detail) = blocked {
            // None of it is accepted: so for every recipient the later ones wait for it.
            self.sessions.get_mut(session).busy.insert_group(send.seq);
            return self.answer_send(session, send.seq, Outcome::Busy, detail);
        }
        let entry = self.entry(session, send, true);
        let report = Report::new(Arc::clone(recipients), brief);
        self.sessions
            .get_mut(session)
            .reports
            .insert(send.seq, report);
        let busy = &mut self.sessions.get_mut(session).busy;
        busy.remove_group(send.seq);
        if busy.names_players() {
            let names = recipients.iter().map(|at| &self.players.get(*at).name);
            names.for_each(|name| busy.remove(name, send.seq));
        }
        let mut fan = std::mem::take(&mut self.fan);
        for (place, at) in recipients.iter().enumerate() {
            let own = entry.at_place(place);
            let to = own.recipient(*at);
            match self.enter(*at, own) {
                Entered::Open => {}
                Entered::Done(outcome, detail) => self.outcome(to, outcome, detail),
                Entered::Live(link, number) => fan.push(link, number),
            }
        }
        for (link, targets) in fan.lists() {
            self.write_deliver(link, &entry, targets);
        }
        fan.clear();
        self.fan = fan;
        if recipients.is_empty() {
            self.finish_report(session, send.seq);
        }
    }
}
