//! Requests to services and calls from others: at most once; on any doubt the caller gets `unknown`.

use super::event::NodeEvent;
use super::limits::MAX_CALLS;
use super::output::Output;
use crate::bus::message::{AnswerStatus, Content, Message};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Request {
        service: String,
        content: Content,
        payload: Vec<u8>,
    },
    Query {
        what: u8,
        argument: String,
    },
    /// On its way: a second copy would be a second execution.
    Sent,
}

#[derive(Debug)]
struct Outgoing {
    deadline_ms: u64,
    what: What,
}

/// Both directions.
#[derive(Debug, Default)]
pub struct Requests {
    outgoing: BTreeMap<u64, Outgoing>,
    deadlines: BTreeSet<(u64, u64)>,
    last_call: u64,
    /// Ours to the hub's number; of this link only.
    incoming: BTreeMap<u64, u64>,
    last_incoming: u64,
}

impl Requests {
    /// Asks a service. `None`: over a bound. `NodeEvent::Answer` answers.
    pub fn request(
        &mut self,
        now_ms: u64,
        service: &str,
        content: Content,
        payload: &[u8],
        timeout_ms: u32,
        out: &mut Output,
    ) -> Option<u64> {
        let what = What::Request {
            service: service.to_owned(),
            content,
            payload: payload.to_vec(),
        };
        self.start(now_ms, what, timeout_ms, out)
    }

    /// Asks the hub itself.
    pub fn query(
        &mut self,
        now_ms: u64,
        what: u8,
        argument: &str,
        timeout_ms: u32,
        out: &mut Output,
    ) -> Option<u64> {
        self.start(
            now_ms,
            What::Query {
                what,
                argument: argument.to_owned(),
            },
            timeout_ms,
            out,
        )
    }

    fn start(&mut self, now_ms: u64, what: What, timeout_ms: u32, out: &mut Output) -> Option<u64> {
        if self.outgoing.len() >= MAX_CALLS || !out.has_room() {
            return None;
        }
        self.last_call += 1;
        let call = self.last_call;
        let deadline_ms = now_ms + u64::from(timeout_ms);
        let mut outgoing = Outgoing { deadline_ms, what };
        outgoing.send(now_ms, call, out);
        self.outgoing.insert(call, outgoing);
        self.deadlines.insert((deadline_ms, call));
        Some(call)
    }

    /// Nobody waits for the answer any more.
    pub fn cancel(&mut self, call: u64, out: &mut Output) {
        if self
            .take(call)
            .is_some_and(|outgoing| outgoing.what == What::Sent)
        {
            out.push_if_up(&Message::Cancel { call });
        }
    }

    fn take(&mut self, call: u64) -> Option<Outgoing> {
        let outgoing = self.outgoing.remove(&call)?;
        self.deadlines.remove(&(outgoing.deadline_ms, call));
        Some(outgoing)
    }

    /// The hub's answer; late ones are ignored.
    pub fn answer(
        &mut self,
        call: u64,
        status: AnswerStatus,
        content: Content,
        payload: &[u8],
        out: &mut Output,
    ) {
        if self.take(call).is_some() {
            out.events.push_back(NodeEvent::Answer {
                call,
                status,
                content,
                payload: payload.to_vec(),
            });
        }
    }

    /// When the first deadline passes.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms)
    }

    /// Ends what is over its deadline.
    pub fn handle_timeout(&mut self, now_ms: u64, out: &mut Output) {
        while let Some(&(deadline_ms, call)) = self
            .deadlines
            .first()
            .filter(|(deadline_ms, _)| *deadline_ms <= now_ms)
        {
            self.deadlines.remove(&(deadline_ms, call));
            self.cancel(call, out);
            self.end(call, AnswerStatus::Deadline, out);
        }
    }

    fn end(&mut self, call: u64, status: AnswerStatus, out: &mut Output) {
        self.take(call);
        out.events.push_back(NodeEvent::Answer {
            call,
            status,
            content: Content::Text,
            payload: Vec::new(),
        });
    }

    /// The link is back: what was not sent goes out now.
    pub fn connected(&mut self, now_ms: u64, out: &mut Output) {
        for (&call, outgoing) in &mut self.outgoing {
            outgoing.send(now_ms, call, out);
        }
    }

    /// The link is gone: what was sent may have been carried out or not; calls have nobody to answer to.
    pub fn disconnected(&mut self, out: &mut Output) {
        let sent: Vec<u64> = self
            .outgoing
            .iter()
            .filter(|(_, outgoing)| outgoing.what == What::Sent)
            .map(|(&call, _)| call)
            .collect();
        for call in sent {
            self.end(call, AnswerStatus::Unknown, out);
        }
        for (call, _) in std::mem::take(&mut self.incoming) {
            out.events.push_back(NodeEvent::CallCancelled { call });
        }
    }

    /// A request for a service of this node. Gives our number of it; `None`: over the bound.
    pub fn call(&mut self, hub_call: u64) -> Option<u64> {
        if self.incoming.len() >= MAX_CALLS {
            return None;
        }
        self.last_incoming += 1;
        self.incoming.insert(self.last_incoming, hub_call);
        Some(self.last_incoming)
    }

    /// The reply to a call. False: nobody waits for it, or there is no room.
    pub fn reply(
        &mut self,
        call: u64,
        ok: bool,
        content: Content,
        payload: &[u8],
        out: &mut Output,
    ) -> bool {
        if !out.has_room() {
            return false;
        }
        let Some(hub_call) = self.incoming.remove(&call) else {
            return false;
        };
        out.push(&Message::Reply {
            call: hub_call,
            ok,
            content,
            payload,
        })
    }

    /// The caller gave up.
    pub fn cancelled(&mut self, hub_call: u64, out: &mut Output) {
        let ours = self
            .incoming
            .iter()
            .find(|(_, hub)| **hub == hub_call)
            .map(|(&call, _)| call);
        if let Some(call) = ours {
            self.incoming.remove(&call);
            out.events.push_back(NodeEvent::CallCancelled { call });
        }
    }
}

impl Outgoing {
    fn send(&mut self, now_ms: u64, call: u64, out: &mut Output) {
        if !out.up {
            return;
        }
        let left_ms = self
            .deadline_ms
            .saturating_sub(now_ms)
            .clamp(1, u64::from(u32::MAX)) as u32;
        match &self.what {
            What::Request {
                service,
                content,
                payload,
            } => {
                out.push(&Message::Request {
                    call,
                    deadline_ms: left_ms,
                    service,
                    content: *content,
                    payload,
                });
            }
            What::Query { what, argument } => {
                out.push(&Message::Query {
                    call,
                    what: *what,
                    argument,
                });
            }
            What::Sent => return,
        }
        self.what = What::Sent;
    }
}
