//! Membership: plain (of the player's login, given by its host) and durable (kept in the store) [40].

use crate::bus::hub::Hub;
use crate::bus::hub::directory::Membership;
use crate::bus::hub::mailbox::Purpose;
use crate::bus::message::{Member, Message};
use crate::bus::store::StoreOp;
use crate::bus::wire::List;
use std::sync::Arc;

impl Hub {
    pub(super) fn join(
        &mut self,
        session: u32,
        request: u64,
        durable: bool,
        members: List<'_, Member<'_>>,
    ) {
        if durable {
            return self.change_durable(session, request, members, true);
        }
        let mut failed = "";
        for member in members.iter() {
            match self.join_plain(session, &member) {
                Ok(()) => {}
                Err(why) => failed = why,
            }
        }
        self.joined(session, request, failed);
    }

    fn join_plain(&mut self, session: u32, member: &Member<'_>) -> Result<(), &'static str> {
        let hosted = self
            .players
            .find(member.player)
            .filter(|at| self.players.get(*at).host == session);
        let at = hosted.ok_or("a player is not hosted by this node")?;
        self.add(
            at,
            member.group,
            Membership {
                plain: true,
                durable: false,
            },
        )
    }

    /// Adds to what a player is in a group.
    pub(super) fn add(
        &mut self,
        at: u32,
        group: &str,
        more: Membership,
    ) -> Result<(), &'static str> {
        let known = self
            .groups
            .find(group)
            .is_some_and(|group| self.players.get(at).groups.as_slice().contains(&group));
        if !known
            && self.players.get(at).groups.as_slice().len() >= self.config.max_groups_per_player
        {
            return Err("limit of groups of a player reached");
        }
        let group = self
            .groups
            .intern(group, self.config.max_groups)
            .ok_or("limit of groups reached")?;
        let now = self.groups.membership(group, at);
        let (plain, durable) = (now.plain || more.plain, now.durable || more.durable);
        self.groups.set(group, at, Membership { plain, durable });
        if !known {
            self.players.get_mut(at).groups.push(group);
        }
        Ok(())
    }

    /// Takes from what a player is in a group.
    fn take(&mut self, at: u32, group: u32, less: Membership) {
        let now = self.groups.membership(group, at);
        let left = Membership {
            plain: now.plain && !less.plain,
            durable: now.durable && !less.durable,
        };
        self.groups.set(group, at, left);
        if left == Membership::default() {
            self.players.get_mut(at).groups.remove(group);
        }
    }

    pub(super) fn leave(
        &mut self,
        session: u32,
        request: u64,
        durable: bool,
        members: List<'_, Member<'_>>,
    ) {
        if durable {
            return self.change_durable(session, request, members, false);
        }
        for member in members.iter() {
            let hosted = self
                .players
                .find(member.player)
                .filter(|at| self.players.get(*at).host == session);
            if let (Some(at), Some(group)) = (hosted, self.groups.find(member.group)) {
                self.take(
                    at,
                    group,
                    Membership {
                        plain: true,
                        durable: false,
                    },
                );
            }
        }
        self.joined(session, request, "");
    }

    fn joined(&mut self, session: u32, request: u64, failed: &str) {
        if request != 0 {
            let link = self.sessions.get(session).link;
            self.control(
                link,
                &Message::Joined {
                    request,
                    ok: failed.is_empty(),
                    detail: failed,
                },
            );
        }
    }

    /// A login ended: memberships that were of it end too.
    pub(super) fn leave_plain_groups(&mut self, at: u32) {
        for group in self.players.get(at).groups.as_slice().to_vec() {
            self.take(
                at,
                group,
                Membership {
                    plain: true,
                    durable: false,
                },
            );
        }
    }

    /// Goes to the store first; holds from its commit on.
    fn change_durable(
        &mut self,
        session: u32,
        request: u64,
        members: List<'_, Member<'_>>,
        join: bool,
    ) {
        let mut count = 0;
        for member in members.iter() {
            let Some(at) = self.players.intern(member.player, self.config.max_players) else {
                continue;
            };
            let player = self.players.get_mut(at);
            player.line().ops += 1;
            let (group, player): (Arc<str>, _) = (member.group.into(), player.name.clone());
            let op = if join {
                StoreOp::Join { group, player }
            } else {
                StoreOp::Leave { group, player }
            };
            self.mailbox.push(
                op,
                Purpose::Member {
                    player: at,
                    session,
                    request,
                },
            );
            count += 1;
        }
        if count == 0 {
            self.joined(
                session,
                request,
                if members.is_empty() {
                    ""
                } else {
                    "limit of players reached"
                },
            );
        } else if request != 0 {
            self.sessions
                .get_mut(session)
                .joins
                .insert(request, (count, true));
        }
    }

    /// Does what the store has committed; whether the membership is as it was asked for.
    pub(super) fn member_committed(&mut self, at: u32, op: &StoreOp, known: bool) -> bool {
        let durable = Membership {
            plain: false,
            durable: true,
        };
        match op {
            StoreOp::Join { group, .. } => known && self.add(at, group, durable).is_ok(),
            StoreOp::Leave { group, .. } => {
                if let Some(group) = self.groups.find(group) {
                    self.take(at, group, durable);
                }
                true
            }
            _ => false,
        }
    }

    /// The store has committed a durable change, or does not know the player.
    pub(super) fn member_done(&mut self, session: u32, request: u64, well: bool) {
        let Some(left) = self.sessions.get_mut(session).joins.get_mut(&request) else {
            return;
        };
        *left = (left.0 - 1, left.1 && well);
        if let (0, all_well) = *left {
            self.sessions.get_mut(session).joins.remove(&request);
            self.joined(
                session,
                request,
                if all_well {
                    ""
                } else {
                    "unknown player, or a limit of groups reached"
                },
            );
        }
    }
}
