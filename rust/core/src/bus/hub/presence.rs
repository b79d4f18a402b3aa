//! Who is up and online: a snapshot that is sent as the link takes it, then changes.

use crate::bus::hub::Hub;
use crate::bus::hub::directory::NONE;
use crate::bus::hub::session::PresenceState;
use crate::bus::message::{Message, Presence, PresenceKind};
use std::sync::Arc;

/// Entries of one snapshot message: 40 KiB or so, so that receipts are not behind more.
const CHUNK: usize = 1_024;

impl Hub {
    pub(super) fn subscribe(&mut self, session: u32, topics: u8) {
        let on = topics & 1 != 0;
        if !matches!(
            self.sessions.get(session).presence,
            PresenceState::Off | PresenceState::Current
        ) {
            self.end_snapshot(session); // The one under way; the next message begins another.
        }
        self.sessions.get_mut(session).presence = if on {
            PresenceState::Nodes(0)
        } else {
            PresenceState::Off
        };
        if on {
            self.subscribers.insert(session);
            self.presence_chunk(session);
        } else {
            self.subscribers.remove(&session);
        }
    }

    /// Tells subscribers of a change. `place`: (0, session) for a node, (1, player) for a player; what their
    /// snapshot has not reached yet, it will show.
    pub(super) fn announce(
        &mut self,
        event: PresenceKind,
        name: &str,
        node: &str,
        place: (u8, u32),
    ) {
        for session in self.subscribers.clone() {
            let told = match self.sessions.get(session).presence {
                PresenceState::Off => false,
                PresenceState::Nodes(below) => place.0 == 0 && place.1 < below,
                PresenceState::Players(below) => place.0 == 0 || place.1 < below,
                PresenceState::Current => true,
            };
            if told {
                self.tell(session, &[Presence { event, name, node }]);
            }
        }
    }

    fn tell(&mut self, session: u32, events: &[Presence<'_>]) {
        let link = self.sessions.get(session).link;
        let waiting = self
            .links
            .get(link)
            .map_or(0, |link| link.out.control_bytes());
        if waiting * 2 > self.config.control_bytes {
            // Too slow for changes: it gets a new snapshot when it has read what waits.
            self.control(
                link,
                &Message::Presence {
                    snapshot: true,
                    events: (&[]).into(),
                },
            );
            self.sessions.get_mut(session).presence = PresenceState::Nodes(0);
        } else {
            self.control(
                link,
                &Message::Presence {
                    snapshot: false,
                    events: events.into(),
                },
            );
        }
    }

    fn end_snapshot(&mut self, session: u32) {
        let link = self.sessions.get(session).link;
        self.control(
            link,
            &Message::Presence {
                snapshot: true,
                events: (&[]).into(),
            },
        );
    }

    /// The next part of a snapshot, if one is under way.
    pub(super) fn presence_chunk(&mut self, session: u32) {
        let (events, next) = match self.sessions.get(session).presence {
            PresenceState::Off | PresenceState::Current => return,
            PresenceState::Nodes(from) => self.node_events(from),
            PresenceState::Players(from) => self.player_events(from),
        };
        let link = self.sessions.get(session).link;
        let list: Vec<_> = events
            .iter()
            .map(|(event, name, node)| Presence {
                event: *event,
                name,
                node,
            })
            .collect();
        if !list.is_empty() {
            self.control(
                link,
                &Message::Presence {
                    snapshot: true,
                    events: (&list).into(),
                },
            );
        }
        if next == PresenceState::Current {
            self.control(
                link,
                &Message::Presence {
                    snapshot: true,
                    events: (&[]).into(),
                },
            );
        }
        self.sessions.get_mut(session).presence = next;
        if list.is_empty() {
            self.presence_chunk(session);
        }
    }

    fn node_events(&self, from: u32) -> (Vec<Event>, PresenceState) {
        let end = self.sessions.len().min(from.saturating_add(CHUNK as u32));
        let events = (from..end)
            .map(|at| self.sessions.get(at))
            .filter(|session| session.linked)
            .map(|session| {
                (
                    PresenceKind::NodeUp,
                    session.name.clone(),
                    session.name.clone(),
                )
            })
            .collect();
        (
            events,
            if end == self.sessions.len() {
                PresenceState::Players(0)
            } else {
                PresenceState::Nodes(end)
            },
        )
    }

    fn player_events(&self, from: u32) -> (Vec<Event>, PresenceState) {
        let mut events = Vec::new();
        let mut at = from;
        while at < self.players.end() && events.len() < CHUNK {
            if let Some(player) = self.players.at(at).filter(|player| player.host != NONE) {
                events.push((
                    PresenceKind::Login,
                    player.name.clone(),
                    self.sessions.get(player.host).name.clone(),
                ));
            }
            at += 1;
        }
        (
            events,
            if at == self.players.end() {
                PresenceState::Current
            } else {
                PresenceState::Players(at)
            },
        )
    }
}

type Event = (PresenceKind, Arc<str>, Arc<str>);
