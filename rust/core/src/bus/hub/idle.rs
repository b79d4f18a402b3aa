//! Records of players who are away and of whom nothing waits: a hub that lives long does not keep them all.
//!
//! What a record knows beside the line: that the store knows the player, that its mailbox is empty, and the highest login.
//! The first two are asked of the store again. The login is needed to refuse a registration with an older one [11, 13], and
//! only a node that lost the player to another can come with one:
//!
//! - A new login needs no record to win: counters of an epoch only grow, and the epoch is their high part [12].
//! - A node that was never replaced comes back with the highest login there is, and is right to.
//! - A node that was replaced was told so by `drop`, unless its link was down or broke on the way. It is told when it
//!   registers again, so the record stays for `REPLACED_MS`. A node that is cut off for longer and still has the client
//!   of a login that was replaced a day before hosts it again, if nobody else does: as after a restart of the hub, where
//!   no record is left of logins that have ended. What later logins have handled stays settled and marked.

use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase};
use std::collections::VecDeque;

/// As `HubConfig::idle_ms`, for a player whose host was replaced: longer than any partition that nobody repairs.
const REPLACED_MS: u64 = 86_400_000;
/// Records looked at in one tick.
const AT_A_TIME: usize = 4_096;
/// With more reports open, records stay: each may name its player.
const MAX_REPORTS: usize = 1_000;

/// Players that are to be looked at, with the time since when they are idle; each once, as its record says.
#[derive(Debug, Default)]
pub struct Idle {
    soon: VecDeque<(u64, u32)>,
    late: VecDeque<(u64, u32)>,
}

impl Hub {
    /// Whether nothing but the record is left of a player.
    fn is_bare(&self, at: u32) -> bool {
        self.players.at(at).is_some_and(|player| {
            let alone = player.host == NONE && player.phase == Phase::Offline;
            let empty = player.line.is_none() && player.groups.as_slice().is_empty();
            alone && empty && !self.kept.has(at)
        })
    }

    /// Notes a player of whom only the record is left.
    pub(super) fn note_idle(&mut self, at: u32) {
        if self.is_bare(at) && !self.players.get(at).idle {
            self.players.get_mut(at).idle = true;
            self.idle.soon.push_back((self.now, at));
        }
    }

    /// Forgets records of players who stayed away.
    pub(super) fn check_idle(&mut self) {
        let reports: usize = self
            .sessions
            .iter()
            .map(|session| session.reports.len())
            .sum();
        if reports > MAX_REPORTS || self.hold {
            return;
        }
        for _ in 0..AT_A_TIME {
            let due = |list: &VecDeque<(u64, u32)>, ms| {
                let front = list.front();
                front.is_some_and(|(since, _)| self.now >= since + ms)
            };
            if due(&self.idle.soon, self.config.idle_ms) {
                let Some((since, at)) = self.idle.soon.pop_front() else {
                    return;
                };
                if self.players.at(at).is_some_and(|player| player.replaced) {
                    self.idle.late.push_back((since, at));
                } else {
                    self.forget_idle(at);
                }
            } else if due(&self.idle.late, REPLACED_MS) {
                let Some((_, at)) = self.idle.late.pop_front() else {
                    return;
                };
                self.forget_idle(at);
            } else {
                return;
            }
        }
    }

    fn forget_idle(&mut self, at: u32) {
        if self.players.at(at).is_none_or(|player| !player.idle) {
            return;
        }
        self.players.get_mut(at).idle = false;
        if !self.is_bare(at) {
            return; // Back since; it is noted again when it goes.
        }
        let reports = self.sessions.iter().map(|session| session.reports.values());
        let named = reports.flatten().any(|report| report.names(at));
        if named {
            return self.note_idle(at);
        }
        self.counters.players_forgotten += 1;
        self.players.remove(at);
    }
}
