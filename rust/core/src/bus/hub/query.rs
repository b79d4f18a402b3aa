//! What operators see: status, nodes, players, as JSON.

use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase, Player};
use crate::bus::hub::json::Json;
use crate::bus::hub::mailbox::Purpose;
use crate::bus::hub::session::Session;
use crate::bus::message::{AnswerStatus, Content};
use crate::bus::store::StoreOp;
use crate::limits::MAX_PAYLOAD_BYTES;

/// Players listed if the query does not say how many, and at most.
const PLAYERS: usize = 100;
const MAX_PLAYERS: usize = 10_000;

impl Hub {
    pub(super) fn query(&mut self, session: u32, call: u64, what: u8, argument: &str) {
        let json = match what {
            1 => self.status_json(),
            2 => self.nodes_json(),
            3 => self.players_json(argument),
            4 => return self.ask_store(session, call, argument),
            5 => self.metrics_json(),
            _ => {
                return self.answer(
                    session,
                    call,
                    AnswerStatus::Failed,
                    Content::Text,
                    b"no such query",
                );
            }
        };
        self.answer(
            session,
            call,
            AnswerStatus::Ok,
            Content::Json,
            json.as_bytes(),
        );
    }

    /// A question about mailboxes: the store answers it in its turn.
    fn ask_store(&mut self, session: u32, call: u64, question: &str) {
        let json = question.to_string();
        self.mailbox
            .push(StoreOp::Admin { json }, Purpose::Admin { session, call });
    }

    /// The store has answered.
    pub(super) fn store_answered(&mut self, session: u32, call: u64, json: &str) {
        let (status, content, payload) = if json.len() <= MAX_PAYLOAD_BYTES {
            (AnswerStatus::Ok, Content::Json, json)
        } else {
            let text = "the answer is over the limit of a payload: ask for less";
            (AnswerStatus::Failed, Content::Text, text)
        };
        self.answer(session, call, status, content, payload.as_bytes());
    }

    /// The hub in one object: what it is, how much there is, what was counted.
    #[must_use]
    pub fn status_json(&self) -> String {
        let online: usize = self
            .sessions
            .iter()
            .map(|session| session.players.len())
            .sum();
        let linked = self
            .sessions
            .iter()
            .filter(|session| session.link != NONE)
            .count();
        let mut counters = Json::new('{');
        for (name, value) in self.counters.entries() {
            counters.number(name, value);
        }
        let mut store = Json::new('{');
        store
            .truth("opened", self.mailbox.opened)
            .number("backlog_ops", self.mailbox.backlog() as u64)
            .number("backlog_bytes", self.mailbox.bytes as u64)
            .text("failure", self.mailbox.failure.as_deref().unwrap_or(""));
        let mut json = Json::new('{');
        json.text("name", &self.config.name)
            .number("hub_epoch", self.config.hub_epoch)
            .number("uptime_ms", self.now - self.started_ms)
            .truth("hold", self.hold)
            .number("links", self.links.len() as u64)
            .number("nodes", self.sessions.len())
            .number("nodes_linked", linked as u64)
            .number("players", self.players.len() as u64)
            .number("players_online", online as u64)
            .number("groups", self.groups.len() as u64)
            .json("store", &store.end('}'))
            .json("counters", &counters.end('}'))
            .json("process", self.note());
        json.end('}')
    }

    fn nodes_json(&self) -> String {
        let mut json = Json::new('[');
        for session in self.sessions.iter() {
            if json.len() + 4_096 > MAX_PAYLOAD_BYTES {
                break;
            }
            json.item(&self.node_json(session));
        }
        json.end(']')
    }

    fn node_json(&self, session: &Session) -> String {
        let link = self.links.get(session.link);
        let traffic = link.map(|link| link.traffic).unwrap_or_default();
        let mut roles = Json::new('[');
        for role in session.roles.iter().take(16) {
            roles.item_text(role);
        }
        let mut json = Json::new('{');
        json.text("name", &session.name)
            .text("key", &format!("{:016x}", session.node_key))
            .text("epoch", &session.epoch.to_string())
            .truth("linked", link.is_some())
            .truth("registered", session.registered)
            .text("address", link.map_or("", |link| &link.peer.address))
            .number("players", session.players.len() as u64)
            .number(
                "queued_bytes",
                link.map_or(0, |link| {
                    link.out.payload_bytes() + link.out.control_bytes()
                }) as u64,
            )
            .number(
                "waiting_players",
                link.map_or(0, |link| link.stalled.len()) as u64,
            )
            .number("messages_in", traffic.messages_in)
            .number("messages_out", traffic.messages_out)
            .number("bytes_in", traffic.bytes_in)
            .number("bytes_out", traffic.bytes_out)
            .json("roles", &roles.end(']'));
        json.end('}')
    }

    /// `LIMIT PREFIX`: players whose name begins so, those without host included.
    fn players_json(&self, argument: &str) -> String {
        let (limit, prefix) = argument.split_once(' ').unwrap_or((argument, ""));
        let limit = limit.parse().unwrap_or(PLAYERS).min(MAX_PLAYERS);
        let all = (0..self.players.end()).filter_map(|at| self.players.at(at));
        let mut json = Json::new('[');
        for player in all
            .filter(|player| player.name.starts_with(prefix))
            .take(limit)
        {
            if json.len() + 2_048 > MAX_PAYLOAD_BYTES {
                break;
            }
            json.item(&self.player_json(player));
        }
        json.end(']')
    }

    fn player_json(&self, player: &Player) -> String {
        let phase = match player.phase {
            Phase::Offline if self.hold => "hold",
            Phase::Offline => "offline",
            Phase::Waiting => "waiting",
            Phase::Drain => "drain",
            Phase::Live => "live",
        };
        let (queued, sent) = player
            .line
            .as_ref()
            .map_or((0, 0), |line| (line.queue.len(), line.sent.len()));
        let mut json = Json::new('{');
        json.text("name", &player.name)
            .text(
                "node",
                if player.host == NONE {
                    ""
                } else {
                    &self.sessions.get(player.host).name
                },
            )
            .text("phase", phase)
            .text("login", &player.login.to_string())
            .number("queued", queued as u64)
            .number("sent", sent as u64);
        json.end('}')
    }
}
