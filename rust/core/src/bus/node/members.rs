//! Group memberships that this node registers: those that end at logout are told again after each welcome.

use super::event::NodeEvent;
use super::limits::{MAX_CALLS, MAX_MEMBERS};
use super::output::Output;
use crate::bus::message::{Member, Message};
use crate::bus::wire::List;
use crate::limits::MAX_LIST_ITEMS;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Asked {
    join: bool,
    durable: bool,
    group: String,
    player: String,
}

/// What is held, and what was asked and not answered yet.
#[derive(Debug, Default)]
pub struct Members {
    held: BTreeSet<(String, String)>,
    asked: BTreeMap<u64, Asked>,
    last_request: u64,
}

impl Asked {
    fn push(&self, request: u64, out: &mut Output) {
        let members = [Member {
            group: &self.group,
            player: &self.player,
        }];
        let (durable, members) = (self.durable, List::Items(&members[..]));
        out.push_if_up(&if self.join {
            Message::Join {
                request,
                durable,
                members,
            }
        } else {
            Message::Leave {
                request,
                durable,
                members,
            }
        });
    }
}

impl Members {
    /// Joins (or leaves); `None`: over a bound. `NodeEvent::Joined` answers.
    pub fn ask(
        &mut self,
        join: bool,
        durable: bool,
        group: &str,
        player: &str,
        out: &mut Output,
    ) -> Option<u64> {
        if self.asked.len() >= MAX_CALLS || self.held.len() >= MAX_MEMBERS {
            return None;
        }
        if !durable {
            let held = (player.to_owned(), group.to_owned());
            if join {
                self.held.insert(held);
            } else {
                self.held.remove(&held);
            }
        }
        self.last_request += 1;
        let asked = Asked {
            join,
            durable,
            group: group.to_owned(),
            player: player.to_owned(),
        };
        asked.push(self.last_request, out);
        self.asked.insert(self.last_request, asked);
        Some(self.last_request)
    }

    /// The hub's answer.
    pub fn joined(&mut self, request: u64, ok: bool, detail: &str, out: &mut Output) {
        let Some(asked) = self.asked.remove(&request) else {
            return;
        };
        if !ok && asked.join && !asked.durable {
            self.held.remove(&(asked.player, asked.group));
        }
        out.events.push_back(NodeEvent::Joined {
            request,
            ok,
            detail: detail.to_owned(),
        });
    }

    /// The player is logged out or hosted elsewhere: so its memberships are not ours to tell.
    pub fn player_gone(&mut self, player: &str) {
        let first = (player.to_owned(), String::new());
        let of_player = self
            .held
            .range(first..)
            .take_while(|(name, _)| name == player);
        for held in of_player.cloned().collect::<Vec<_>>() {
            self.held.remove(&held);
        }
    }

    /// The link is back: all memberships, then what was not answered, in order.
    pub fn connected(&mut self, out: &mut Output) {
        let all: Vec<Member<'_>> = self
            .held
            .iter()
            .map(|(player, group)| Member { group, player })
            .collect();
        for part in all.chunks(MAX_LIST_ITEMS / 2) {
            out.push(&Message::Join {
                request: 0,
                durable: false,
                members: List::Items(part),
            });
        }
        for (&request, asked) in &self.asked {
            asked.push(request, out);
        }
    }
}
