//! What the hub notes for observers: kinds and outcomes, latencies, hops, sums; and how it gives them away.

use crate::bus::hub::Hub;
use crate::bus::hub::directory::NONE;
use crate::bus::hub::histogram::{Arrivals, BOUNDS_US, Histogram};
use crate::bus::hub::json::Json;
use crate::bus::hub::receipts::{Detail, Recipient};
use crate::bus::hub::trace::{Hop, HopKind, SumKey, Trace};
use crate::bus::message::{MessageId, Outcome};
use crate::bus::store::Moved;
use std::sync::Arc;

/// Kinds on the wire are below this.
const KINDS: usize = 0x60;
/// Outcomes, and 0 for the report of a group send.
const OUTCOMES: [&str; 9] = [
    "report",
    "delivered",
    "stored",
    "expired",
    "refused",
    "busy",
    "sent",
    "dropped",
    "passed",
];
/// In place of an outcome in a sum: acked rows.
const TAKEN: u8 = OUTCOMES.len() as u8;
/// Nodes that are named with what waits for them; the others are one sum.
const QUEUES_NAMED: usize = 20;
/// Bytes of what the process adds to the status: a page of JSON.
const MAX_NOTE_BYTES: usize = 65_536;
/// Bits of seqs that count must-deliver messages.
const SEQ_BITS: u64 = u64::MAX >> 1;

/// Messages and bytes by kind.
#[derive(Debug)]
pub struct Kinds([(u64, u64); KINDS]);

impl Default for Kinds {
    fn default() -> Self {
        Self([(0, 0); KINDS])
    }
}

impl Kinds {
    /// Counts the messages of a frame by their headers; how many there are.
    pub fn count(&mut self, frame: &[u8]) -> u64 {
        let (mut rest, mut found) = (frame, 0);
        while let [a, b, c, d, kind, ..] = *rest {
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            if length < 8 || length > rest.len() {
                break;
            }
            found += 1;
            let (messages, bytes) = &mut self.0[usize::from(kind).min(KINDS - 1)];
            (*messages, *bytes) = (*messages + 1, *bytes + length as u64);
            rest = &rest[length..];
        }
        found
    }

    fn json(&self) -> String {
        let mut json = Json::new('{');
        for (kind, (messages, bytes)) in self.0.iter().enumerate() {
            if *messages > 0 {
                let mut pair = Json::new('{');
                pair.number("messages", *messages).number("bytes", *bytes);
                json.json(kind_name(kind as u8), &pair.end('}'));
            }
        }
        json.end('}')
    }
}

const fn kind_name(kind: u8) -> &'static str {
    match kind {
        0x01 => "hello",
        0x02 => "send",
        0x03 => "send_group",
        0x04 => "broadcast",
        0x05 => "request",
        0x06 => "reply",
        0x07 => "cancel",
        0x08 => "login",
        0x09 => "register",
        0x0a => "logout",
        0x0b => "ack",
        0x0c => "join",
        0x0d => "leave",
        0x0e => "subscribe",
        0x0f => "ping",
        0x10 => "pong",
        0x11 => "bye",
        0x12 => "query",
        0x13 => "send_later",
        0x14 => "seen",
        0x41 => "welcome",
        0x42 => "receipt",
        0x43 => "group_receipt",
        0x44 => "bound",
        0x45 => "deliver",
        0x46 => "logout_done",
        0x47 => "drop",
        0x48 => "forget",
        0x49 => "presence",
        0x4a => "call",
        0x4b => "answer",
        0x4c => "cancelled",
        0x4d => "error",
        0x4e => "joined",
        _ => "other",
    }
}

/// What went over one link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Messages read.
    pub messages_in: u64,
    /// Messages written.
    pub messages_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// Everything that is noted.
#[derive(Debug, Default)]
pub struct Observed {
    /// The driver's clock, finer than the hub's own; 0 if it has none.
    fine_us: u64,
    /// Read.
    pub kinds_in: Kinds,
    /// Written.
    pub kinds_out: Kinds,
    outcomes: [u64; OUTCOMES.len()],
    latencies: [Histogram; OUTCOMES.len()],
    /// By the sender's session.
    arrivals: Vec<Arrivals>,
    trace: Trace,
    /// JSON of the process around the hub.
    note: String,
}

/// A sum as it is given away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Unix time.
    pub second: u64,
    /// `delivered`, `stored` or `passed`: told to the sender. `taken`: a row that its host has acked.
    pub outcome: &'static str,
    /// The sender's node.
    pub sender: Arc<str>,
    /// The player's host, if there was one.
    pub host: Arc<str>,
    /// Messages, per recipient.
    pub messages: u64,
    /// The wrapping sum of their ids' hashes.
    pub id_sum: u64,
}

impl Hub {
    /// The driver's clock in microseconds, beginning with the hub's start; between calls it stands still.
    pub const fn set_clock_us(&mut self, now_us: u64) {
        self.observed.fine_us = now_us;
    }

    fn now_us(&self) -> u64 {
        match self.observed.fine_us {
            0 => self.now * 1_000,
            fine => fine,
        }
    }

    /// What the process around the hub has to say, as a JSON object, for status and metrics.
    pub fn set_note(&mut self, json: String) {
        if json.len() <= MAX_NOTE_BYTES {
            self.observed.note = json;
        }
    }

    pub(super) fn note(&self) -> &str {
        match self.observed.note.as_str() {
            "" => "{}",
            note => note,
        }
    }

    /// A send came; only must-deliver ones are timed.
    pub(super) fn note_send(&mut self, session: u32, seq: u64, target: &str, traced: bool) {
        let now_us = self.now_us();
        let sender = self.sessions.get(session);
        let (node_key, epoch, node) = (sender.node_key, sender.epoch, &sender.name);
        if seq <= SEQ_BITS {
            let all = &mut self.observed.arrivals;
            if all.len() <= session as usize {
                all.resize_with(session as usize + 1, Arrivals::default);
            }
            all[session as usize].came(epoch, seq, now_us, self.config.window_messages as usize);
        }
        let id = MessageId {
            node_key,
            epoch,
            seq,
        };
        if traced {
            self.observed.trace.flag(id);
        }
        if self.observed.trace.wants(id) && self.observed.trace.has_room(id) {
            let (player, node) = (target.into(), node.clone());
            self.observed.trace.push(Hop {
                at_us: now_us,
                kind: HopKind::Accepted,
                id,
                player,
                node,
                row: 0,
                detail: "".into(),
            });
        }
    }

    /// Whether its sender wants every hop of a message.
    pub(super) fn is_flagged(&self, id: MessageId) -> bool {
        self.observed.trace.is_flagged(id)
    }

    /// A message moves on; rows are always recorded, as what went through the mailbox is.
    pub(super) fn note_hop(
        &mut self,
        kind: HopKind,
        id: MessageId,
        player: u32,
        row: u64,
        detail: &'static str,
    ) {
        let always = matches!(kind, HopKind::Stored | HopKind::Refused | HopKind::Expired);
        let wanted = row > 0 || always || self.observed.trace.wants(id);
        if !wanted || !self.observed.trace.has_room(id) {
            return;
        }
        let Some(found) = self.players.at(player) else {
            return;
        };
        let host = if found.host == NONE {
            "".into()
        } else {
            self.sessions.get(found.host).name.clone()
        };
        let (at_us, player) = (self.now_us(), found.name.clone());
        self.observed.trace.push(Hop {
            at_us,
            kind,
            id,
            player,
            node: host,
            row,
            detail: detail.into(),
        });
    }

    /// A deferred message is a row under another id from now on [37]: who follows it must learn that id.
    pub(super) fn note_due(&mut self, moved: &Moved) {
        let (id, now) = (moved.id, moved.row_id());
        if self.observed.trace.has_room(id) {
            let (key, epoch, seq) = (now.node_key, now.epoch, now.seq);
            self.observed.trace.push(Hop {
                at_us: self.now_us(),
                kind: HopKind::Due,
                id,
                player: moved.player.clone(),
                node: "".into(),
                row: 0,
                detail: format!("0x{key:016x}/{epoch}/{seq}").into(),
            });
        }
        if self.is_flagged(id) {
            self.observed.trace.flag(now);
        }
    }

    /// A single receipt goes to its sender. `host`: who handled it, if somebody did.
    pub(super) fn note_receipt(&mut self, session: u32, seq: u64, outcome: Outcome, host: u32) {
        self.observed.outcomes[outcome as usize] += 1;
        if seq > SEQ_BITS {
            return;
        }
        let now_us = self.now_us();
        let sender = self.sessions.get(session);
        let id = MessageId {
            node_key: sender.node_key,
            epoch: sender.epoch,
            seq,
        };
        let Some(arrivals) = self.observed.arrivals.get_mut(session as usize) else {
            return;
        };
        let Some(us) = arrivals.answered(id.epoch, seq, now_us, outcome != Outcome::Busy) else {
            return;
        };
        self.observed.latencies[outcome as usize].add(us);
        self.note_sum(session, id, outcome, host);
    }

    /// What becomes of a message for a recipient, also if its sender was told before.
    pub(super) fn note_end(&mut self, to: Recipient, outcome: Outcome, detail: Detail) {
        let kind = match outcome {
            Outcome::Delivered => HopKind::Acked,
            Outcome::Stored => HopKind::Stored,
            Outcome::Expired => HopKind::Expired,
            Outcome::Refused => HopKind::Refused,
            Outcome::Busy => HopKind::Busy,
            Outcome::Sent => HopKind::Sent,
            Outcome::Passed => HopKind::Passed,
            Outcome::Dropped => HopKind::Dropped,
        };
        self.note_hop(kind, to.id, to.player, 0, detail.name());
    }

    /// Its sender is told, or its place in the report is filled.
    pub(super) fn note_outcome(&mut self, to: Recipient, outcome: Outcome) {
        let host = match outcome {
            Outcome::Delivered => self
                .players
                .at(to.player)
                .map_or(NONE, |player| player.host),
            _ => NONE,
        };
        if to.grouped {
            self.note_sum(to.from, to.id, outcome, host);
        } else {
            self.note_receipt(to.from, to.id.seq, outcome, host);
        }
    }

    /// A recipient's outcome is told: once for each. What was deferred will be handled under another id.
    fn note_sum(&mut self, from: u32, id: MessageId, outcome: Outcome, host: u32) {
        let counts = matches!(
            outcome,
            Outcome::Delivered | Outcome::Stored | Outcome::Passed
        );
        if counts && !self.sessions.get(from).deferred.contains_key(&id.seq) {
            let key = SumKey {
                second: self.second(self.now_us()),
                outcome: outcome as u8,
                from,
                host,
            };
            self.observed.trace.add(key, id);
        }
    }

    /// A row was acked by a host: what was `stored` has left the mailbox.
    pub(super) fn note_taken(&mut self, id: MessageId, host: u32) {
        if let Some(from) = self.sessions.find(id.node_key) {
            let key = SumKey {
                second: self.second(self.now_us()),
                outcome: TAKEN,
                from,
                host,
            };
            self.observed.trace.add(key, id);
        }
    }

    /// The report of a group send goes to its sender.
    pub(super) fn note_report(&mut self, session: u32, seq: u64, counts: &[u32]) {
        self.observed.outcomes[0] += 1;
        for (index, count) in counts.iter().enumerate() {
            self.observed.outcomes[index + 1] += u64::from(*count);
        }
        let now_us = self.now_us();
        let sender = self.sessions.get(session);
        let id = MessageId {
            node_key: sender.node_key,
            epoch: sender.epoch,
            seq,
        };
        let Some(arrivals) = self.observed.arrivals.get_mut(session as usize) else {
            return;
        };
        let Some(us) = arrivals.answered(id.epoch, seq, now_us, true) else {
            return;
        };
        self.observed.latencies[0].add(us);
    }

    /// Unix time of a time of the hub's clock.
    const fn second(&self, us: u64) -> u64 {
        (self.config.unix_ms + (us / 1_000).saturating_sub(self.started_ms)) / 1_000
    }

    /// The oldest hops that were recorded; their time is unix time in microseconds, as `unix_us` is that of now.
    pub fn take_hops(&mut self, most: usize, unix_us: u64) -> Vec<Hop> {
        let now_us = self.now_us();
        let mut hops = self.observed.trace.take_hops(most);
        for hop in &mut hops {
            hop.at_us = unix_us.saturating_sub(now_us.saturating_sub(hop.at_us));
        }
        hops
    }

    /// The sums of the seconds that are over; with `all`, of the one under way too.
    pub fn take_sums(&mut self, most: usize, all: bool) -> Vec<Sum> {
        let second = if all {
            u64::MAX
        } else {
            self.second(self.now_us())
        };
        let taken = self.observed.trace.take_sums(second, most);
        let name = |session: u32| {
            if session == NONE {
                "".into()
            } else {
                self.sessions.get(session).name.clone()
            }
        };
        let sum = |(key, messages, id_sum): (SumKey, u64, u64)| Sum {
            second: key.second,
            outcome: OUTCOMES
                .get(usize::from(key.outcome))
                .copied()
                .unwrap_or("taken"),
            sender: name(key.from),
            host: name(key.host),
            messages,
            id_sum,
        };
        taken.into_iter().map(sum).collect()
    }

    /// Everything that monitoring wants, as JSON: numbers since the start, and what waits now.
    #[must_use]
    pub fn metrics_json(&self) -> String {
        let observed = &self.observed;
        let mut messages = Json::new('{');
        messages
            .json("in", &observed.kinds_in.json())
            .json("out", &observed.kinds_out.json());
        let mut outcomes = Json::new('{');
        let mut latencies = Json::new('{');
        for (at, name) in OUTCOMES.iter().enumerate() {
            outcomes.number(name, observed.outcomes[at]);
            if observed.latencies[at].total() > 0 {
                latencies.json(name, &histogram_json(&observed.latencies[at]));
            }
        }
        let mut bounds = Json::new('[');
        BOUNDS_US
            .iter()
            .for_each(|bound| bounds.item(&bound.to_string()));
        let mut trace = Json::new('{');
        trace
            .number("hops_lost", observed.trace.hops_lost)
            .number("sums_lost", observed.trace.sums_lost());
        let mut json = Json::new('{');
        json.json("status", &self.status_json())
            .json("messages", &messages.end('}'))
            .json("outcomes", &outcomes.end('}'))
            .json("bounds_us", &bounds.end(']'))
            .json("latency", &latencies.end('}'))
            .json("queues", &self.queues_json())
            .json("trace", &trace.end('}'));
        json.end('}')
    }

    /// The links for which most waits, by name, and the sum of the others.
    fn queues_json(&self) -> String {
        let waiting = |link: u32| {
            let link = self.links.get(link)?;
            Some((
                link.out.payload_bytes() + link.out.control_bytes(),
                link.stalled.len(),
            ))
        };
        let mut all: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|session| {
                waiting(session.link).map(|(bytes, players)| (bytes, players, &session.name))
            })
            .collect();
        all.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then_with(|| a.2.cmp(b.2)));
        let is_slow = |bytes: usize, players: usize| players > 0 || bytes >= self.config.link_bytes;
        let (named, others) = all.split_at(all.len().min(QUEUES_NAMED));
        let mut nodes = Json::new('[');
        for (bytes, players, name) in named {
            let mut node = Json::new('{');
            node.text("name", name)
                .number("bytes", *bytes as u64)
                .number("players", *players as u64)
                .json(
                    "slow",
                    if is_slow(*bytes, *players) {
                        "true"
                    } else {
                        "false"
                    },
                );
            nodes.item(&node.end('}'));
        }
        let slow = all.iter().filter(|each| is_slow(each.0, each.1));
        let mut json = Json::new('{');
        json.json("nodes", &nodes.end(']'))
            .number(
                "other_bytes",
                others.iter().map(|each| each.0 as u64).sum::<u64>(),
            )
            .number("slow_nodes", slow.count() as u64);
        json.end('}')
    }
}

fn histogram_json(histogram: &Histogram) -> String {
    let mut counts = Json::new('[');
    histogram
        .counts
        .iter()
        .for_each(|count| counts.item(&count.to_string()));
    let mut json = Json::new('{');
    json.json("counts", &counts.end(']'))
        .number("sum_us", histogram.sum_us);
    json.end('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_by_their_headers() {
        let mut kinds = Kinds::default();
        let mut frame = Vec::new();
        for (length, kind) in [(8u32, 0x0f), (12, 0x42), (8, 0x0f), (9, 0xff)] {
            let start = frame.len();
            frame.extend(length.to_le_bytes());
            frame.extend([kind, 0, 0, 0]);
            frame.resize(start + length as usize, 0);
        }
        frame.extend([99, 0, 0, 0, 1]); // cut off
        kinds.count(&frame);
        assert_eq!(
            kinds.json(),
            r#"{"ping":{"messages":2,"bytes":16},"receipt":{"messages":1,"bytes":12},"other":{"messages":1,"bytes":9}}"#
        );
        kinds.count(&[0; 64]);
    }
}
