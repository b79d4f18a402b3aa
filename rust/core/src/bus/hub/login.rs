//! Who hosts whom: login, register, takeover, logout, lost hosts (BUS.md rules 6, 9, 11 to 14, 31).

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase};
use crate::bus::hub::line::at_or_below;
use crate::bus::hub::mailbox::Purpose;
use crate::bus::message::{Bound, Claim, Mark, Message, Outcome, PresenceKind};
use crate::bus::store::StoreOp;
use crate::bus::wire::List;

impl Hub {
    /// A client came to a node: the newest login wins.
    pub(super) fn login(&mut self, session: u32, claim: &Claim<'_>) {
        let Some(at) = self.players.intern(claim.player, self.config.max_players) else {
            return self.refuse_login(session, claim, "limit of players reached");
        };
        let counter = self.next_counter();
        let login = self.in_epoch(counter).max(self.players.get(at).login + 1);
        self.bind(at, session, login, claim.request);
    }

    fn refuse_login(&mut self, session: u32, claim: &Claim<'_>, why: &str) {
        let link = self.sessions.get(session).link;
        self.control(
            link,
            &Message::Drop {
                player: claim.player,
                login: claim.login,
                why,
            },
        );
    }

    /// A node is back and says whom it hosts; with `last`, that this is all.
    pub(super) fn register(&mut self, session: u32, claims: List<'_, Claim<'_>>, last: bool) {
        for claim in claims.iter() {
            if claim.login == 0 {
                self.login(session, &claim);
                continue;
            }
            let Some(at) = self.players.intern(claim.player, self.config.max_players) else {
                self.refuse_login(session, &claim, "limit of players reached");
                continue;
            };
            let player = self.players.get(at);
            let taken =
                claim.login == player.login && player.host != session && player.host != NONE;
            let older = claim.login < player.login && !self.broken.lacks(Rule::NewestLogin);
            if older || taken {
                self.refuse_login(session, &claim, "a newer login"); // [11, 13]
                continue;
            }
            self.bind(at, session, claim.login, claim.request);
        }
        if last {
            self.end_registration(session);
        }
    }

    /// What the registration did not name is not hosted [6].
    fn end_registration(&mut self, session: u32) {
        for at in self.sessions.get(session).players.clone() {
            if self.players.get(at).phase == Phase::Waiting {
                self.give_up(at);
            }
        }
        self.sessions.get_mut(session).registered = true;
        self.back(session);
    }

    fn bind(&mut self, at: u32, session: u32, login: u64, request: u64) {
        self.counters.bound += 1;
        let counter = if self.broken.lacks(Rule::FreshBinding) {
            at + 1
        } else {
            self.next_counter()
        };
        let player = self.players.get(at);
        let (old, old_login, name) = (player.host, player.login, player.name.clone());
        if old != NONE {
            self.unbind(at);
        }
        if login != old_login {
            self.leave_plain_groups(at);
        }
        if old != session {
            self.replace_host(at, old, old_login);
            let sessions = self.sessions.get_mut(session);
            sessions.players.push(at);
            let host_at = (sessions.players.len() - 1) as u32;
            let player = self.players.get_mut(at);
            (player.host, player.host_at) = (session, host_at);
        }
        self.players.rebind(at, counter);
        self.players.get_mut(at).login = login;
        let (binding, link) = (self.in_epoch(counter), self.sessions.get(session).link);
        self.control(
            link,
            &Message::Bound {
                bound: (&[Bound {
                    player: &name,
                    login,
                    binding,
                    request,
                }])
                    .into(),
            },
        );
        self.know(at);
        if old != session {
            let node = self.sessions.get(session).name.clone();
            self.announce(PresenceKind::Login, &name, &node, (1, at));
        }
        self.start_reading(at);
    }

    /// The host that lost is told, if it can be [13].
    fn replace_host(&mut self, at: u32, old: u32, old_login: u64) {
        if old == NONE {
            return;
        }
        self.counters.dropped_logins += 1;
        self.players.get_mut(at).replaced = true;
        self.detach(at);
        if self.broken.lacks(Rule::DropOfReplaced) {
            return;
        }
        let (name, link) = (
            self.players.get(at).name.clone(),
            self.sessions.get(old).link,
        );
        self.control(
            link,
            &Message::Drop {
                player: &name,
                login: old_login,
                why: "a newer login",
            },
        );
    }

    /// Takes a player out of its host's list.
    fn detach(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        let (host, place) = (player.host, player.host_at as usize);
        player.host = NONE;
        if host == NONE {
            return;
        }
        let list = &mut self.sessions.get_mut(host).players;
        list.swap_remove(place);
        if let Some(moved) = list.get(place).copied() {
            self.players.get_mut(moved).host_at = place as u32;
        }
    }

    /// The store learns of a player at its first login in this hub epoch [4c]. Its record stays: it is `known`.
    fn know(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        if !player.known {
            player.known = true;
            let name = player.name.clone();
            self.mailbox
                .push(StoreOp::Know { player: name }, Purpose::Nothing);
        }
    }

    /// A session ended, and its client says what it has handled [31].
    pub(super) fn logout(&mut self, session: u32, name: &str, login: u64, cursor: List<'_, Mark>) {
        let link = self.sessions.get(session).link;
        let Some(at) = self.players.intern(name, self.config.max_players) else {
            return;
        };
        let player = self.players.get(at);
        if login < player.login || (player.host != NONE && player.host != session) {
            self.control(
                link,
                &Message::Drop {
                    player: name,
                    login,
                    why: "a newer login",
                },
            );
            return;
        }
        let mut cursor: Vec<Mark> = cursor.iter().collect();
        if self.broken.lacks(Rule::LogoutCursor) {
            cursor.clear();
        }
        self.players.get_mut(at).login = login;
        self.unhost(at);
        self.drop_handled(at, &cursor);
        self.flush(at);
        let complete = self.mailbox.opened;
        let player = self.players.get(at);
        let clean = !player.rows_left && player.marks_known;
        // A mark that its sender can't ask for is written only if a row may be at or below it.
        let marks: Vec<_> = cursor
            .into_iter()
            .filter(|mark| !clean || !self.sessions.is_over(mark, complete))
            .collect();
        if marks.is_empty() && clean {
            self.logout_done(at, login, session);
        } else {
            let player = self.players.get_mut(at);
            player.marks_known = false;
            let name = player.name.clone();
            let line = player.line();
            (line.ops, line.behind_marks) = (line.ops + 1, true);
            let mut purpose = Purpose::Logout {
                player: at,
                login,
                session,
            };
            if self.broken.lacks(Rule::LogoutAtCommit) {
                self.logout_done(at, login, session);
                purpose = Purpose::Player { player: at };
            }
            self.mailbox.push(
                StoreOp::Logout {
                    player: name,
                    cursor: marks,
                },
                purpose,
            );
        }
    }

    /// Ids that the client handled and that its node did not ack in time.
    fn drop_handled(&mut self, at: u32, cursor: &[Mark]) {
        let Some(line) = &mut self.players.get_mut(at).line else {
            return;
        };
        line.marks.clear();
        let handled = line.take_where(|entry| at_or_below(entry, cursor));
        self.answer_marked(at, handled, Outcome::Delivered);
    }

    pub(super) fn logout_done(&mut self, at: u32, login: u64, session: u32) {
        self.counters.logouts += 1;
        let (name, link) = (
            self.players.get(at).name.clone(),
            self.sessions.get(session).link,
        );
        self.control(
            link,
            &Message::LogoutDone {
                player: &name,
                login,
            },
        );
        self.slim(at);
    }

    /// A player without host: its binding, plain groups and presence end. Its memory is the caller's.
    fn unhost(&mut self, at: u32) {
        let host = self.players.get(at).host;
        self.unbind(at);
        self.players.get_mut(at).phase = Phase::Offline;
        if host != NONE {
            self.detach(at);
            self.leave_plain_groups(at);
            let (name, node) = (
                self.players.get(at).name.clone(),
                self.sessions.get(host).name.clone(),
            );
            self.announce(PresenceKind::Logout, &name, &node, (1, at));
        }
    }

    /// The host is lost for good: what waits goes to the mailbox [9].
    fn give_up(&mut self, at: u32) {
        self.counters.hosts_lost += 1;
        self.unhost(at);
        if self.broken.lacks(Rule::AppendOfLost) {
            self.players.get_mut(at).line().take_memory(at);
        }
        self.flush(at);
        self.slim(at);
    }

    /// All players of a node.
    pub(super) fn give_up_players(&mut self, session: u32) {
        while let Some(at) = self.sessions.get(session).players.last().copied() {
            self.give_up(at);
        }
    }

    /// Nodes had their time to come back: what waited for them goes to the mailbox, and group sends go on.
    pub(super) fn end_hold(&mut self) {
        self.hold = false;
        self.awaited.clear();
        for at in 0..self.players.end() {
            if self
                .players
                .at(at)
                .is_some_and(|player| player.phase == Phase::Offline)
            {
                self.flush(at);
            }
        }
        self.send_all_held();
        self.hand_out_calls();
    }

    /// Frees what says nothing: the line, and the record of a name that nobody ever logged in with.
    pub(super) fn slim(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        if player.line.as_ref().is_some_and(|line| line.is_void()) {
            player.line = None;
        }
        let nobody = player.login == 0 && !player.known && player.host == NONE;
        if nobody
            && !self.kept.has(at)
            && player.line.is_none()
            && player.groups.as_slice().is_empty()
        {
            self.players.remove(at);
        } else {
            self.note_idle(at);
        }
    }
}
