//! The players that this node hosts: the machine "hosting node, per player" of BUS.md section 6.
//!
//! | state | event | do, next |
//! |---|---|---|
//! | absent | attach | cursor from the client, new request, login; login pending |
//! | login pending | bound with my request | pending empty; hosted |
//! | login pending | link back, another attach | new request, login; login pending |
//! | hosted | deliver of my binding | dedupe, to the owner in order, ack what is handled; hosted |
//! | hosted | link back | new request, register; hosted (bound: pending empty, the cursor stays) |
//! | hosted | attach that names my login / any other | resume from its cursor; hosted / as absent |
//! | hosted | client gone for the grace time, or leaves | logout with cursor; logout pending |
//! | hosted, logout pending | drop of my login | discard all; absent |
//! | logout pending | logout_done / link back | absent / logout again |
//! | logout pending | attach | waits for the end of the logout; then as absent |

use super::cursor::Cursor;
use super::event::NodeEvent;
use super::limits::{CLIENT_GRACE_MS, MAX_PENDING, MAX_PLAYERS};
use super::output::Output;
use super::players::{Place, Players};
use crate::bus::broken::{Broken, Rule};
use crate::bus::message::{
    Ack, Bound, Claim, Content, Deliver, Mark, Message, MessageId, POLICY_SEQ, Policy,
};
use crate::bus::wire::List;
use crate::limits::MAX_LIST_ITEMS;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    LoginPending,
    Hosted,
    LogoutPending,
}

/// A message that was delivered and is not acked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: MessageId,
    /// How to read the payload.
    pub content: Content,
    /// Every hop of it is recorded.
    pub traced: bool,
    /// The payload.
    pub payload: Arc<[u8]>,
}

impl Delivery {
    /// For one player.
    pub(super) fn event(&self, player: &Arc<str>) -> NodeEvent {
        NodeEvent::Message {
            player: Arc::clone(player),
            id: self.id,
            content: self.content,
            traced: self.traced,
            payload: Arc::clone(&self.payload),
        }
    }
}

#[derive(Debug)]
struct Pending {
    number: u32,
    handled: bool,
    /// Shared with the others to whom it was delivered here.
    delivery: Arc<Delivery>,
}

#[derive(Debug)]
struct Player {
    phase: Phase,
    /// 0 until the first answer.
    login: u64,
    /// 0: none on this link; nothing may be acked.
    binding: u64,
    request: u64,
    cursor: Cursor,
    /// What the owner was given and did not yet handle: not given again after a new binding.
    shown: Cursor,
    pending: VecDeque<Pending>,
    last_number: u32,
    /// Where its ack waits.
    ack_at: u32,
    gone_at_ms: Option<u64>,
    leave_when_bound: bool,
    /// An attach that waits for the logout.
    next: Option<Cursor>,
}

/// What became of an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// The session goes on; these messages are not acked yet.
    Resumed(Vec<Delivery>),
    /// A new login; `NodeEvent::Bound` tells when it holds.
    LoginPending,
    /// Refused: the node hosts as many players as it may.
    Full,
}

/// A hub that does not keep the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// Slots by binding. Never iterated.
type Bindings = HashMap<u64, u32, FxBuildHasher>;

/// All hosted players.
#[derive(Debug)]
pub struct Hosting {
    players: Players<Player>,
    by_binding: Bindings,
    gone: BTreeSet<(u64, String)>,
    next_request: u64,
    pub(super) broken: Broken,
}

impl Player {
    fn new(cursor: Cursor) -> Self {
        Self {
            phase: Phase::LoginPending,
            login: 0,
            binding: 0,
            request: 0,
            shown: cursor.clone(),
            cursor,
            pending: VecDeque::new(),
            last_number: 0,
            ack_at: 0,
            gone_at_ms: None,
            leave_when_bound: false,
            next: None,
        }
    }

    /// Acks the longest handled beginning of what is pending [25].
    fn ack(&mut self, out: &mut Output) {
        let mut up_to = None;
        while let Some(first) = self.pending.front().filter(|first| first.handled) {
            up_to = Some(first.number);
            self.pending.pop_front();
        }
        if let Some(up_to) = up_to.filter(|_| self.binding != 0) {
            let binding = self.binding;
            out.ack(Ack { binding, up_to }, &mut self.ack_at);
        }
    }

    /// Whether a later one of its sender was shown, and this one was not: the client will not see it, and the ack of
    /// the later one covers it. (What was shown in an earlier binding can't be told apart from it.)
    fn is_jumped(&self, id: MessageId) -> bool {
        let same = |pending: &Pending| pending.delivery.id == id;
        self.shown.covers(id)
            && !self.shown.marks().any(|mark| mark == id)
            && !self.pending.iter().any(same)
    }

    fn mark_handled(&mut self) {
        for pending in &mut self.pending {
            pending.handled |= self.cursor.covers(pending.delivery.id);
        }
    }

    /// As `mark_handled` after the cursor was moved to `id`: what stands behind a later one of that sender can't be
    /// acked before that is handled, and is looked at then.
    fn mark_up_to(&mut self, id: MessageId) {
        for pending in &mut self.pending {
            let other = pending.delivery.id;
            pending.handled |= self.cursor.covers(other);
            if other.node_key == id.node_key && !pending.handled {
                return;
            }
        }
    }

    /// The client has handled the message, and all before it of that sender [25, 26].
    fn handled(&mut self, id: MessageId, out: &mut Output) {
        if self.phase == Phase::LogoutPending {
            return; // [30] no ack after it, and its cursor is on the way
        }
        if id.seq & POLICY_SEQ != 0 {
            return; // [33] no number, no cursor entry
        }
        self.cursor.raise(id);
        self.mark_up_to(id);
        self.ack(out);
    }

    fn unbind(&mut self, by_binding: &mut Bindings, out: &mut Output) {
        by_binding.remove(&self.binding);
        out.void(self.binding);
        self.binding = 0;
        self.pending.clear();
        self.last_number = 0;
    }
}

impl Hosting {
    /// Nobody yet.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            players: Players::new(seed),
            by_binding: Bindings::with_hasher(FxBuildHasher),
            gone: BTreeSet::new(),
            next_request: 1,
            broken: Broken::NONE,
        }
    }

    /// How many players are hosted, or about to be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.players.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.players.is_empty()
    }

    /// Whether the player is hosted here under a login.
    #[must_use]
    pub fn login_of(&self, name: &str) -> Option<u64> {
        self.players
            .get(name)
            .filter(|player| player.phase == Phase::Hosted)
            .map(|player| player.login)
    }

    /// A client came; `login` is the one that its last server told it, 0 for none [28].
    pub fn attach(&mut self, name: &str, login: u64, cursor: Cursor, out: &mut Output) -> Attached {
        let Some(player) = self.players.get_mut(name) else {
            if self.players.len() >= MAX_PLAYERS {
                return Attached::Full;
            }
            self.players.insert(name, Player::new(cursor));
            self.login(name, out);
            return Attached::LoginPending;
        };
        if let Some(gone_at_ms) = player.gone_at_ms.take() {
            self.gone.remove(&(gone_at_ms, name.to_owned()));
        }
        match player.phase {
            Phase::Hosted
                if (login != 0 && login == player.login)
                    || self.broken.lacks(Rule::ResumeByLogin) =>
            {
                player.leave_when_bound = false;
                return Attached::Resumed(self.resume(name, &cursor, out));
            }
            Phase::LogoutPending => player.next = Some(cursor),
            Phase::Hosted | Phase::LoginPending => {
                player.unbind(&mut self.by_binding, out);
                *player = Player::new(cursor);
                self.login(name, out);
            }
        }
        Attached::LoginPending
    }

    fn resume(&mut self, name: &str, cursor: &Cursor, out: &mut Output) -> Vec<Delivery> {
        let Some(player) = self.players.get_mut(name) else {
            return Vec::new();
        };
        player.cursor.join(cursor); // [27]
        player.mark_handled();
        player.ack(out);
        player.shown = player.cursor.clone();
        let open = player.pending.iter().filter(|pending| !pending.handled);
        let open: Vec<Delivery> = open.map(|pending| (*pending.delivery).clone()).collect();
        for delivery in &open {
            player.shown.raise(delivery.id);
        }
        open
    }

    fn new_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request - 1
    }

    fn login(&mut self, name: &str, out: &mut Output) {
        let request = self.new_request();
        let Some(player) = self.players.get_mut(name) else {
            return;
        };
        player.request = request;
        player.phase = Phase::LoginPending;
        out.push_if_up(&Message::Login {
            claims: List::Items(&[Claim {
                player: name,
                login: 0,
                request,
            }]),
        });
    }

    /// The client (or the owner's handler) has handled the message, and all before it of that sender [25, 26].
    pub fn handled(&mut self, name: &str, id: MessageId, out: &mut Output) {
        if let Some(player) = self.players.get_mut(name) {
            player.handled(id, out);
        }
    }

    /// The same for a place; who is gone has handled nothing.
    pub fn handled_at(&mut self, place: Place, id: MessageId, out: &mut Output) {
        if let Some((_, player)) = self.players.find_mut(place) {
            player.handled(id, out);
        }
    }

    /// The player of a place, if it is still hosted.
    #[must_use]
    pub fn name_at(&self, place: Place) -> Option<&Arc<str>> {
        self.players.name(place)
    }

    /// The client is gone: its player stays for the grace time.
    pub fn detach(&mut self, now_ms: u64, name: &str) {
        let Some(player) = self.players.get_mut(name) else {
            return;
        };
        if player.phase != Phase::LogoutPending && player.gone_at_ms.is_none() {
            player.gone_at_ms = Some(now_ms);
            self.gone.insert((now_ms, name.to_owned()));
        }
        player.next = None;
    }

    /// The client asks to leave. False: the player is not here.
    pub fn leave(&mut self, name: &str, out: &mut Output) -> bool {
        let Some(player) = self.players.get_mut(name) else {
            return false;
        };
        player.next = None;
        match player.phase {
            Phase::LoginPending => player.leave_when_bound = true,
            Phase::Hosted => self.logout(name, out),
            Phase::LogoutPending => {}
        }
        true
    }

    fn logout(&mut self, name: &str, out: &mut Output) {
        let Some(player) = self.players.get_mut(name) else {
            return;
        };
        if let Some(gone_at_ms) = player.gone_at_ms.take() {
            self.gone.remove(&(gone_at_ms, name.to_owned()));
        }
        player.unbind(&mut self.by_binding, out);
        player.phase = Phase::LogoutPending;
        if out.up {
            Self::push_logout(name, player, out);
        }
    }

    fn push_logout(name: &str, player: &Player, out: &mut Output) {
        let cursor: Vec<Mark> = player.cursor.marks().take(MAX_LIST_ITEMS).collect();
        out.push(&Message::Logout {
            player: name,
            login: player.login,
            cursor: List::Items(&cursor),
        });
    }

    /// When the first absent client's grace time is over.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        self.gone
            .first()
            .map(|(gone_at_ms, _)| gone_at_ms + CLIENT_GRACE_MS)
    }

    /// Logs out whose clients were gone for the grace time.
    pub fn handle_timeout(&mut self, now_ms: u64, out: &mut Output) {
        while let Some((gone_at_ms, name)) = self.gone.first().cloned() {
            if gone_at_ms + CLIENT_GRACE_MS > now_ms {
                break;
            }
            self.gone.pop_first();
            if let Some(player) = self.players.get_mut(&name) {
                player.gone_at_ms = None;
            }
            self.leave(&name, out);
        }
    }

    /// The link is back: logouts again, then every hosted player is registered, then pending logins.
    pub fn connected(&mut self, out: &mut Output) {
        let mut registers: Vec<Claim<'_>> = Vec::new();
        let mut logins: Vec<Claim<'_>> = Vec::new();
        for (name, player) in self.players.iter_mut() {
            let request = self.next_request;
            self.next_request += 1;
            player.request = request;
            match player.phase {
                Phase::LogoutPending => Self::push_logout(name, player, out),
                Phase::Hosted => registers.push(Claim {
                    player: name,
                    login: player.login,
                    request,
                }),
                Phase::LoginPending => logins.push(Claim {
                    player: name,
                    login: 0,
                    request,
                }),
            }
        }
        for part in registers.chunks(MAX_LIST_ITEMS) {
            out.push(&Message::Register {
                claims: List::Items(part),
                last: false,
            });
        }
        for part in logins.chunks(MAX_LIST_ITEMS) {
            out.push(&Message::Login {
                claims: List::Items(part),
            });
        }
    }

    /// The link is gone: bindings are void; what was shown is still being handled.
    pub fn disconnected(&mut self) {
        self.by_binding.clear();
        for (_, player) in self.players.iter_mut() {
            player.binding = 0;
        }
    }

    /// The answer to a login or registration; only to the last request [29].
    pub fn bound(&mut self, bound: &Bound<'_>, out: &mut Output) {
        let found = self.players.slot(bound.player);
        let Some((slot, (_, player))) =
            found.and_then(|slot| Some((slot, self.players.at_mut(slot)?)))
        else {
            return;
        };
        let asked = player.request == bound.request || self.broken.lacks(Rule::LastRequest);
        if player.phase == Phase::LogoutPending || !asked {
            return;
        }
        player.unbind(&mut self.by_binding, out);
        player.login = bound.login;
        player.binding = bound.binding;
        self.by_binding.insert(bound.binding, slot);
        if player.phase == Phase::LoginPending {
            player.phase = Phase::Hosted;
            out.events.push_back(NodeEvent::Bound {
                player: bound.player.to_owned(),
                login: bound.login,
            });
        }
        if std::mem::take(&mut player.leave_when_bound) {
            self.logout(bound.player, out);
        }
    }

    /// A message for players of this node.
    ///
    /// # Errors
    /// When the hub breaks its numbering or its bound: the link has to be made anew.
    pub fn deliver(&mut self, deliver: &Deliver<'_>, out: &mut Output) -> Result<(), Violation> {
        let delivery = Arc::new(Delivery {
            id: deliver.id,
            content: deliver.content,
            traced: deliver.trace,
            payload: deliver.payload.into(),
        });
        let mut to = Vec::with_capacity(deliver.targets.len());
        let kept = self.keep(deliver, &delivery, &mut to, out);
        self.show(to, delivery, out);
        kept
    }

    /// Notes a message as pending for each target; who is to be shown it.
    fn keep(
        &mut self,
        deliver: &Deliver<'_>,
        delivery: &Arc<Delivery>,
        to: &mut Vec<Place>,
        out: &mut Output,
    ) -> Result<(), Violation> {
        for target in deliver.targets {
            // A binding that was replaced or logged out meanwhile [14].
            let Some(&slot) = self.by_binding.get(&target.binding) else {
                continue;
            };
            let place = self.players.place(slot);
            let Some((_, player)) = self.players.at_mut(slot) else {
                continue;
            };
            if deliver.policy != Policy::MustDeliver {
                if self.broken.lacks(Rule::PolicyHasNoMark) {
                    player.cursor.raise(delivery.id);
                }
                if player.gone_at_ms.is_none() {
                    to.push(place); // [33] no number, no cursor, no ack
                }
                continue;
            }
            if target.number <= player.last_number {
                continue;
            }
            if target.number != player.last_number + 1 {
                return Err(Violation("a gap in the numbers of a binding"));
            }
            if player.pending.len() >= MAX_PENDING {
                return Err(Violation(
                    "more unacked messages for a player than a node keeps",
                ));
            }
            player.last_number = target.number;
            let forgetful = self.broken.lacks(Rule::CursorHolds);
            let covered = player.cursor.covers(delivery.id) && !forgetful;
            if covered && self.broken.lacks(Rule::CoveredIsAcked) {
                continue;
            }
            let handled = covered || self.broken.lacks(Rule::AckAfterHandling);
            let jumped = !covered && player.is_jumped(delivery.id);
            player.pending.push_back(Pending {
                number: target.number,
                handled,
                delivery: Arc::clone(delivery),
            });
            if covered || jumped {
                out.seen(target);
            }
            if handled {
                player.ack(out); // [26] not handled again, but acked
            }
            let shown = covered || (player.shown.covers(delivery.id) && !forgetful);
            if player.gone_at_ms.is_none() && !shown {
                player.shown.raise(delivery.id);
                to.push(place);
            }
        }
        Ok(())
    }

    fn show(&self, to: Vec<Place>, delivery: Arc<Delivery>, out: &mut Output) {
        match *to {
            [] => {}
            [one] => {
                if let Some(player) = self.players.name(one) {
                    out.events.push_back(delivery.event(player));
                }
            }
            _ => out.events.push_back(NodeEvent::Messages { to, delivery }),
        }
    }

    /// The hub has done the logout. True: the player is gone from here.
    pub fn logout_done(&mut self, name: &str, login: u64, out: &mut Output) -> bool {
        let pending =
            |player: &&mut Player| player.phase == Phase::LogoutPending && player.login == login;
        if self.players.get_mut(name).filter(pending).is_none() {
            return false;
        }
        out.events.push_back(NodeEvent::LoggedOut {
            player: name.to_owned(),
        });
        self.end(name, out)
    }

    /// A newer login won, or the hub refuses this one. True: the player is gone from here.
    pub fn drop(&mut self, name: &str, login: u64, why: &str, out: &mut Output) -> bool {
        let Some(player) = self.players.get_mut(name) else {
            return false;
        };
        if player.login != login {
            return false; // of a login that this node gave up itself
        }
        // Also when a logout was under way: what it said was not committed, so the client may not forget.
        out.events.push_back(NodeEvent::Dropped {
            player: name.to_owned(),
            why: why.to_owned(),
        });
        self.end(name, out)
    }

    fn end(&mut self, name: &str, out: &mut Output) -> bool {
        let Some(mut player) = self.players.remove(name) else {
            return false;
        };
        player.unbind(&mut self.by_binding, out);
        if let Some(gone_at_ms) = player.gone_at_ms {
            self.gone.remove(&(gone_at_ms, name.to_owned()));
        }
        let Some(cursor) = player.next else {
            return true;
        };
        self.players.insert(name, Player::new(cursor));
        self.login(name, out);
        false
    }

    /// A mark may go, here and at the client [32].
    pub fn forget(&mut self, name: &str, binding: u64, up_to: Mark, out: &mut Output) {
        let Some(player) = self.players.get_mut(name) else {
            return;
        };
        if player.binding == binding && binding != 0 {
            player.cursor.forget(up_to);
            player.shown.forget(up_to);
            out.events.push_back(NodeEvent::Forget {
                player: name.to_owned(),
                up_to,
            });
        }
    }
}
