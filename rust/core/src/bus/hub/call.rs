//! Requests to services: at most once. On any doubt the caller gets `unknown`, never a second execution.

use crate::bus::codec::decode;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::NONE;
use crate::bus::message::{AnswerStatus, Content, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The longest deadline: a request is no queue.
const MAX_DEADLINE_MS: u64 = 3_600_000;

#[derive(Debug)]
struct Call {
    caller: u32,
    number: u64,
    /// The session that serves it; `NONE` while it waits for one.
    target: u32,
    deadline: u64,
}

/// A request that came while the hub holds, for a service of which no node is back yet.
#[derive(Debug)]
struct Waiting {
    service: Arc<str>,
    /// The call as it goes to the service.
    message: Vec<u8>,
}

/// Requests under way, and who serves what.
#[derive(Debug, Default)]
pub struct Calls {
    calls: BTreeMap<u64, Call>,
    deadlines: BTreeSet<(u64, u64)>,
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// By service: sessions, and whose turn it is.
    services: BTreeMap<Arc<str>, (Vec<u32>, usize)>,
}

impl Calls {
    /// A node serves these and nothing else.
    pub fn serve(&mut self, session: u32, roles: &[Arc<str>]) {
        self.services.retain(|role, (sessions, _)| {
            if !roles.contains(role) {
                sessions.retain(|other| *other != session);
            }
            !sessions.is_empty()
        });
        for role in roles {
            let (sessions, _) = self.services.entry(role.clone()).or_default();
            if !sessions.contains(&session) {
                sessions.push(session);
            }
        }
    }

    /// When the next request is too late.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn remove(&mut self, call: u64) -> Option<Call> {
        let found = self.calls.remove(&call)?;
        self.deadlines.remove(&(found.deadline, call));
        self.take_waiting(call);
        Some(found)
    }

    fn take_waiting(&mut self, call: u64) -> Option<Waiting> {
        let found = self.waiting.remove(&call)?;
        self.waiting_bytes -= found.message.len();
        Some(found)
    }

    /// Who serves a service, beginning with whose turn it is.
    fn candidates(&mut self, service: &str) -> Vec<u32> {
        let Some((sessions, turn)) = self.services.get_mut(service) else {
            return Vec::new();
        };
        *turn = (*turn + 1) % sessions.len();
        let (late, early) = sessions.split_at(*turn);
        early.iter().chain(late).copied().collect()
    }
}

impl Hub {
    pub(super) fn request(
        &mut self,
        caller: u32,
        number: u64,
        deadline_ms: u32,
        service: &str,
        content: Content,
        payload: &[u8],
    ) {
        let target = match self.server_for(caller, number, service) {
            Ok(target) => target,
            Err((AnswerStatus::NoSuchService, _)) if self.may_wait(payload) => NONE,
            Err((status, why)) => return self.refuse_call(caller, number, status, why),
        };
        let wait = match u64::from(deadline_ms) {
            0 => self.config.call_ms,
            asked => asked.min(MAX_DEADLINE_MS),
        };
        let call = self.begin_call(Call {
            caller,
            number,
            target,
            deadline: self.now + wait,
        });
        let from = self.sessions.get(caller).name.clone();
        let message = Message::Call {
            call,
            deadline_ms: wait as u32,
            from: &from,
            service,
            content,
            payload,
        };
        if target == NONE {
            self.keep_waiting(call, service, &message);
        } else {
            self.queue_call(target, &message);
        }
    }

    fn refuse_call(&mut self, caller: u32, number: u64, status: AnswerStatus, why: &'static str) {
        let content = if why.is_empty() {
            Content::Bytes
        } else {
            Content::Text
        };
        self.answer(caller, number, status, content, why.as_bytes());
    }

    /// While the hub holds, a service without a node may be one whose nodes are on their way back.
    fn may_wait(&self, payload: &[u8]) -> bool {
        self.hold && self.calls.waiting_bytes + payload.len() < self.config.link_bytes
    }

    fn keep_waiting(&mut self, call: u64, service: &str, message: &Message<'_>) {
        let mut bytes = Vec::new();
        if message.encode(&mut bytes).is_err() {
            return; // Its deadline answers it; its fields came in a message, so they fit one.
        }
        self.calls.waiting_bytes += bytes.len();
        let (service, message) = (service.into(), bytes);
        self.calls
            .waiting
            .insert(call, Waiting { service, message });
    }

    /// A node came, or the hold is over: requests that wait are handed out, and after the hold none waits on.
    pub(super) fn hand_out_calls(&mut self) {
        let all: Vec<u64> = self.calls.waiting.keys().copied().collect();
        for call in all {
            let service = self.calls.waiting[&call].service.clone();
            match self.free_server(&service) {
                Ok(target) => self.hand_out(call, target),
                Err(_) if self.hold => {}
                Err((status, why)) => {
                    if let Some(found) = self.end_call(call) {
                        self.refuse_call(found.caller, found.number, status, why);
                    }
                }
            }
        }
    }

    fn hand_out(&mut self, call: u64, target: u32) {
        let Some(waited) = self.calls.take_waiting(call) else {
            return;
        };
        let Some(begun) = self.calls.calls.get_mut(&call) else {
            return;
        };
        begun.target = target;
        let left_ms = begun.deadline.saturating_sub(self.now) as u32;
        self.sessions.get_mut(target).serving.insert(call);
        for mut message in decode(&waited.message).flatten() {
            if let Message::Call { deadline_ms, .. } = &mut message {
                *deadline_ms = left_ms;
            }
            self.queue_call(target, &message);
        }
    }

    /// The session that is to serve this call, or why there is none.
    fn server_for(
        &mut self,
        caller: u32,
        number: u64,
        service: &str,
    ) -> Result<u32, (AnswerStatus, &'static str)> {
        let calls = &self.sessions.get(caller).calls;
        if calls.contains_key(&number) {
            return Err((AnswerStatus::Failed, "call number in use"));
        }
        if calls.len() >= self.config.max_calls {
            return Err((AnswerStatus::Failed, "too many requests under way"));
        }
        self.free_server(service)
    }

    /// A linked node of the service that reads what it is sent.
    fn free_server(&mut self, service: &str) -> Result<u32, (AnswerStatus, &'static str)> {
        let mut linked = false;
        for at in self.calls.candidates(service) {
            let Some(link) = self.links.get(self.sessions.get(at).link) else {
                continue;
            };
            linked = true;
            if link.out.payload_bytes() < self.config.link_bytes {
                return Ok(at);
            }
        }
        Err(if linked {
            (AnswerStatus::Failed, "the service does not read")
        } else {
            (AnswerStatus::NoSuchService, "")
        })
    }

    /// Puts a call into all tables; its number.
    fn begin_call(&mut self, begun: Call) -> u64 {
        self.calls.last += 1;
        let call = self.calls.last;
        self.sessions
            .get_mut(begun.caller)
            .calls
            .insert(begun.number, call);
        if begun.target != NONE {
            self.sessions.get_mut(begun.target).serving.insert(call);
        }
        self.calls.deadlines.insert((begun.deadline, call));
        self.calls.calls.insert(call, begun);
        self.counters.calls += 1;
        call
    }

    /// Calls, what cancels one (which may not overtake it) and answers carry payload: they wait behind receipts.
    fn queue_call(&mut self, session: u32, message: &Message<'_>) {
        if session == NONE {
            return; // It waits here: nobody has heard of it.
        }
        let at = self.sessions.get(session).link;
        if let Some(link) = self.links.get_mut(at).filter(|link| link.closing.is_none()) {
            link.out.payload(message);
            self.make_ready(at);
        }
    }

    pub(super) fn answer(
        &mut self,
        caller: u32,
        call: u64,
        status: AnswerStatus,
        content: Content,
        payload: &[u8],
    ) {
        if status != AnswerStatus::Ok {
            self.counters.calls_failed += 1;
        }
        self.queue_call(
            caller,
            &Message::Answer {
                call,
                status,
                content,
                payload,
            },
        );
    }

    /// Takes a call out of all tables.
    fn end_call(&mut self, call: u64) -> Option<Call> {
        let found = self.calls.remove(call)?;
        self.sessions
            .get_mut(found.caller)
            .calls
            .remove(&found.number);
        if found.target != NONE {
            self.sessions.get_mut(found.target).serving.remove(&call);
        }
        Some(found)
    }

    pub(super) fn reply(
        &mut self,
        session: u32,
        call: u64,
        ok: bool,
        content: Content,
        payload: &[u8],
    ) {
        if !self.sessions.get(session).serving.contains(&call) {
            return; // Too late, or never asked.
        }
        if let Some(found) = self.end_call(call) {
            let status = if ok {
                AnswerStatus::Ok
            } else {
                AnswerStatus::Failed
            };
            self.answer(found.caller, found.number, status, content, payload);
        }
    }

    pub(super) fn cancel(&mut self, caller: u32, number: u64) {
        let call = self.sessions.get(caller).calls.get(&number).copied();
        if let Some((call, found)) = call.and_then(|call| Some((call, self.end_call(call)?))) {
            self.queue_call(found.target, &Message::Cancelled { call });
            self.answer(caller, number, AnswerStatus::Cancelled, Content::Bytes, b"");
        }
    }

    /// A node's link is gone: nobody waits for its calls, and what it was asked may have run or not.
    pub(super) fn fail_calls_of(&mut self, session: u32) {
        let own: Vec<u64> = self.sessions.get(session).calls.values().copied().collect();
        for call in own {
            if let Some(found) = self.end_call(call) {
                self.queue_call(found.target, &Message::Cancelled { call });
            }
        }
        let serving: Vec<u64> = self.sessions.get(session).serving.iter().copied().collect();
        for call in serving {
            if let Some(found) = self.end_call(call) {
                self.answer(
                    found.caller,
                    found.number,
                    AnswerStatus::Unknown,
                    Content::Bytes,
                    b"",
                );
            }
        }
    }

    pub(super) fn expire_calls(&mut self) {
        while let Some((_, call)) = self
            .calls
            .deadlines
            .first()
            .copied()
            .filter(|(at, _)| *at <= self.now)
        {
            let Some(found) = self.end_call(call) else {
                return;
            };
            self.queue_call(found.target, &Message::Cancelled { call });
            self.answer(
                found.caller,
                found.number,
                AnswerStatus::Deadline,
                Content::Bytes,
                b"",
            );
        }
    }
}

#[cfg(test)]
impl Calls {
    /// Whether no request is under way or kept.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.waiting.is_empty() && self.waiting_bytes == 0
    }
}
