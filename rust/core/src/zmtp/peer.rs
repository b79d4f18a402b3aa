//! One end of one connection: bytes in, frames out.
//!
//! | state | what may come | what it leads to |
//! |---|---|---|
//! | greeting | 64 bytes | null, or a side of curve |
//! | null | READY, ERROR | ready |
//! | curve server | HELLO, INITIATE | ready |
//! | curve client | WELCOME, READY, ERROR | ready |
//! | ready | messages of one frame, PING, other commands (skipped) | |
//! | ended | nothing: what comes is not looked at | |

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cipher::{PublicKey, SecretKey};
use super::command::{self, Metadata};
use super::curve::{self, BOXED_COMMAND, BOXED_MORE, MESSAGE_OVERHEAD_BYTES, ServerKeys, Session};
use super::error::ZmtpError;
use super::frame::{COMMAND, Head, push_head};
use super::greeting::{Greeting, mechanism};
use super::limits::{
    GREETING_BYTES, HANDSHAKE_MS, KEEP_PARTIAL_BYTES, MAX_COMMAND_BYTES, MAX_FRAME_BYTES,
    MAX_HANDSHAKE_COMMAND_BYTES, MAX_HANDSHAKE_COMMANDS, OWN_CHUNK_BYTES,
};
use super::out::OutQueue;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes connections: ROUTER.
    Server,
    /// Makes them: DEALER.
    Client,
}

/// The security mechanism, with the keys that it needs on this side.
#[derive(Debug, Clone)]
pub enum Security {
    /// None.
    Null,
    /// CURVE, on the side that takes connections.
    CurveServer {
        /// Its secret key.
        secret: SecretKey,
        /// The public keys it lets in; `None` for any.
        allowed: Option<BTreeSet<PublicKey>>,
    },
    /// CURVE, on the side that connects.
    CurveClient {
        /// The public key that the server must have.
        server: PublicKey,
        /// The client's own key.
        secret: SecretKey,
    },
}

/// What the peers of one socket have in common.
#[derive(Debug, Clone)]
pub struct Config {
    role: Role,
    security: Security,
    public: PublicKey,
    /// A server's key of before: accepted too while its clients learn the new one.
    previous: Option<(SecretKey, PublicKey)>,
    /// Sent in READY.
    pub identity: Vec<u8>,
    /// A message frame may be this long.
    pub max_frame_bytes: usize,
    /// The first one: a stranger's, until it has said who it is.
    pub first_frame_bytes: usize,
    /// From the connection to READY.
    pub handshake_ms: u64,
}

impl Config {
    /// With the usual limits. The role comes from the keys; under NULL it has to be said.
    #[must_use]
    pub fn new(role: Role, security: Security) -> Self {
        let (role, public) = match &security {
            Security::Null => (role, [0; 32]),
            Security::CurveServer { secret, .. } => (Role::Server, secret.public()),
            Security::CurveClient { secret, .. } => (Role::Client, secret.public()),
        };
        Self {
            role,
            security,
            public,
            previous: None,
            identity: Vec::new(),
            max_frame_bytes: MAX_FRAME_BYTES,
            first_frame_bytes: MAX_FRAME_BYTES,
            handshake_ms: HANDSHAKE_MS,
        }
    }

    /// A CURVE server that also answers clients who know it by an older key. Costs one more
    /// multiplication for each of them, and for each HELLO that is for neither.
    #[must_use]
    pub fn with_previous(mut self, secret: SecretKey) -> Self {
        let public = secret.public();
        self.previous = Some((secret, public));
        self
    }

    /// Whether handshakes cost more than bytes.
    #[must_use]
    pub fn is_curve(&self) -> bool {
        !matches!(self.security, Security::Null)
    }

    fn greeting(&self) -> Greeting {
        let (name, as_server) = match self.security {
            Security::Null => (mechanism(b"NULL"), false),
            Security::CurveServer { .. } => (mechanism(b"CURVE"), true),
            Security::CurveClient { .. } => (mechanism(b"CURVE"), false),
        };
        Greeting {
            minor: 1,
            mechanism: name,
            as_server,
        }
    }

    fn metadata(&self) -> Metadata {
        let socket_type = match self.role {
            Role::Server => "ROUTER",
            Role::Client => "DEALER",
        };
        Metadata {
            socket_type: socket_type.into(),
            identity: self.identity.clone(),
        }
    }

    /// ROUTER speaks to DEALER here, and to nothing else: REQ sends an empty frame first, and other
    /// ROUTERs would not know where our messages come from.
    fn check_type(&self, theirs: &Metadata) -> Result<(), ZmtpError> {
        let wanted = match self.role {
            Role::Server => "DEALER",
            Role::Client => "ROUTER",
        };
        if theirs.socket_type == wanted {
            Ok(())
        } else {
            Err(ZmtpError::SocketType(theirs.socket_type.clone()))
        }
    }
}

/// Random bytes for one connection, from the driver. Under NULL they are not looked at.
pub type Entropy = [u8; 96];

/// What the handshake has shown of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    /// The routing id it asks for; may be empty, and is unique to nobody.
    pub identity: Vec<u8>,
    /// Its long-term public key, proven; `None` under NULL (a client knows its server's key).
    pub key: Option<PublicKey>,
    /// The minor version of ZMTP 3 that it speaks.
    pub minor: u8,
}

/// What came out of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The handshake is done; comes once and first.
    Ready(&'a Established),
    /// One message.
    Frame(&'a [u8]),
}

enum State {
    Greeting,
    Null,
    CurveServer(Box<curve::Server>),
    CurveClient(Box<curve::Client>),
    Ready(Option<Box<Session>>),
    Ended,
}

/// One end of one connection.
pub struct Peer {
    config: Arc<Config>,
    state: State,
    entropy: Entropy,
    /// The start of a greeting or frame whose end has not come yet.
    partial: Vec<u8>,
    out: OutQueue,
    minor: u8,
    commands: u32,
    /// A message has come whole.
    heard_message: bool,
    started_ms: u64,
    heard_ms: u64,
    /// From the last PING: it wants to be taken for dead after this silence. 0: never.
    ttl_ms: u64,
}

impl Peer {
    /// A new connection; its greeting is already in the output.
    #[must_use]
    pub fn new(config: Arc<Config>, now_ms: u64, entropy: Entropy) -> Self {
        let mut out = OutQueue::default();
        let greeting = config.greeting().encode(config.identity.len());
        out.append(|out| out.extend_from_slice(&greeting));
        Self {
            config,
            state: State::Greeting,
            entropy,
            partial: Vec::new(),
            out,
            minor: 0,
            commands: 0,
            heard_message: false,
            started_ms: now_ms,
            heard_ms: now_ms,
            ttl_ms: 0,
        }
    }

    /// What waits to be written.
    pub fn out(&mut self) -> &mut OutQueue {
        &mut self.out
    }

    /// How many bytes wait to be written.
    #[must_use]
    pub fn out_bytes(&self) -> usize {
        self.out.len()
    }

    /// What it holds of a frame that is not whole yet.
    #[must_use]
    pub fn in_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Whether a message has come: before that the other side has shown nothing but the handshake.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.heard_message
    }

    /// Whether the handshake is done and nothing has gone wrong.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// When [`Peer::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::Ended => None,
            State::Ready(_) if self.ttl_ms == 0 => None,
            State::Ready(_) => Some(self.heard_ms.saturating_add(self.ttl_ms)),
            _ => Some(self.started_ms.saturating_add(self.config.handshake_ms)),
        }
    }

    /// Looks whether time has run out.
    ///
    /// # Errors
    /// It has: the connection is over.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), ZmtpError> {
        if self.poll_timeout().is_none_or(|at_ms| now_ms < at_ms) {
            return Ok(());
        }
        let error = if self.is_ready() {
            ZmtpError::Silent {
                ttl_ms: self.ttl_ms,
            }
        } else {
            ZmtpError::HandshakeTimeout {
                limit_ms: self.config.handshake_ms,
            }
        };
        self.state = State::Ended;
        Err(error)
    }

    /// Takes bytes in, which boxes are opened in, and tells the sink what they mean.
    ///
    /// # Errors
    /// The connection is over. Write what is in the output (it may tell the peer why), then close.
    pub fn handle_input(
        &mut self,
        now_ms: u64,
        bytes: &mut [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ZmtpError> {
        let result = self.input(now_ms, bytes, sink);
        if let Err(error) = &result {
            self.refuse(error);
        }
        result
    }

    /// Queues one message. False, and nothing is queued, unless the handshake is done.
    pub fn send(&mut self, payload: &[u8]) -> bool {
        match &mut self.state {
            State::Ready(None) => self.out.append(|out| {
                push_head(out, 0, payload.len());
                out.extend_from_slice(payload);
            }),
            State::Ready(Some(session)) => self.out.append(|out| session.push(out, 0, payload)),
            _ => return false,
        }
        true
    }

    /// Queues one message without copying it where that pays.
    pub fn send_owned(&mut self, payload: Vec<u8>) -> bool {
        if payload.len() < OWN_CHUNK_BYTES || !matches!(self.state, State::Ready(None)) {
            return self.send(&payload);
        }
        self.out.append(|out| push_head(out, 0, payload.len()));
        self.out.append_owned(payload);
        true
    }

    /// Queues a PING; any answer counts as life.
    pub fn ping(&mut self) {
        self.push_command(&command::ping());
    }

    fn input(
        &mut self,
        now_ms: u64,
        mut bytes: &mut [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ZmtpError> {
        self.heard_ms = now_ms;
        while !bytes.is_empty() && !matches!(self.state, State::Ended) {
            if self.partial.is_empty() {
                let (need, head) = self.need(bytes)?;
                if bytes.len() < need {
                    self.partial.extend_from_slice(bytes);
                    break;
                }
                let (unit, rest) = bytes.split_at_mut(need);
                self.unit(head, unit, sink)?;
                bytes = rest;
            } else {
                let (need, _) = self.need(&self.partial)?;
                let (part, rest) = bytes.split_at_mut(bytes.len().min(need - self.partial.len()));
                self.partial.extend_from_slice(part);
                bytes = rest;
                let (need, head) = self.need(&self.partial)?;
                if self.partial.len() == need {
                    let mut unit = std::mem::take(&mut self.partial);
                    self.unit(head, &mut unit, sink)?;
                    if unit.capacity() <= KEEP_PARTIAL_BYTES {
                        unit.clear();
                        self.partial = unit;
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes are needed, as far as `prefix` tells, to go on; with these there, the head of
    /// the frame that they are (`None` for the greeting).
    fn need(&self, prefix: &[u8]) -> Result<(usize, Option<Head>), ZmtpError> {
        let (max_message, max_command) = match &self.state {
            State::Greeting => {
                Greeting::decode(prefix)?;
                return Ok((GREETING_BYTES, None));
            }
            State::Ready(None) => (self.frame_limit(), MAX_COMMAND_BYTES),
            State::Ready(Some(_)) => {
                let limit = self.frame_limit() + MESSAGE_OVERHEAD_BYTES;
                (limit, limit)
            }
            _ => (MAX_HANDSHAKE_COMMAND_BYTES, MAX_HANDSHAKE_COMMAND_BYTES),
        };
        match Head::decode(prefix, max_message, max_command)? {
            Some(head) if head.more => Err(ZmtpError::Multipart),
            Some(head) => Ok((head.head_bytes + head.body_bytes, Some(head))),
            None => Ok((Head::need(prefix), None)),
        }
    }

    fn frame_limit(&self) -> usize {
        if self.heard_message {
            self.config.max_frame_bytes
        } else {
            self.config
                .first_frame_bytes
                .min(self.config.max_frame_bytes)
        }
    }

    /// One whole greeting or frame.
    fn unit(
        &mut self,
        head: Option<Head>,
        unit: &mut [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ZmtpError> {
        let Some(head) = head else {
            return self.greeted(unit);
        };
        let body = &mut unit[head.head_bytes..];
        match &mut self.state {
            State::Ready(None) if !head.command => {
                self.heard_message = true;
                sink(Event::Frame(body));
            }
            State::Ready(None) => self.traffic_command(body)?,
            State::Ready(Some(session)) => match session.open(body)? {
                (0, payload) => {
                    self.heard_message = true;
                    sink(Event::Frame(payload));
                }
                (flags, _) if flags & BOXED_MORE != 0 => return Err(ZmtpError::Multipart),
                (BOXED_COMMAND, payload) => self.traffic_command(payload)?,
                (flags, _) => return Err(ZmtpError::BadFlags(flags)),
            },
            State::Ended => {}
            _ if !head.command => {
                return Err(ZmtpError::Unexpected("message before the handshake".into()));
            }
            _ => {
                if let Some(established) = self.handshake(body)? {
                    sink(Event::Ready(&established));
                }
            }
        }
        Ok(())
    }

    fn greeted(&mut self, bytes: &[u8]) -> Result<(), ZmtpError> {
        let Some(theirs) = Greeting::decode(bytes)? else {
            return Err(ZmtpError::Malformed("greeting"));
        };
        if theirs.mechanism != self.config.greeting().mechanism {
            return Err(ZmtpError::Mechanism(theirs.mechanism_name()));
        }
        self.minor = theirs.minor.min(1);
        let entropy = std::mem::replace(&mut self.entropy, [0; 96]);
        match &self.config.security {
            Security::Null => {
                // A server answers READY with READY, so that it can answer with ERROR instead.
                if self.config.role == Role::Client {
                    let ours = self.config.metadata();
                    self.out.append(|out| command::push_ready(out, &ours));
                }
                self.state = State::Null;
            }
            Security::CurveServer { .. } => {
                if theirs.as_server {
                    return Err(ZmtpError::BothSameRole);
                }
                self.state =
                    State::CurveServer(Box::new(curve::Server::new(server_random(&entropy))));
            }
            Security::CurveClient { server, .. } => {
                // libzmq's server does not say that it is one (RFC 37 wants it to), so a missing claim
                // proves nothing; another client will not answer HELLO.
                let client = curve::Client::new(part(&entropy, 0), part(&entropy, 32), server)?;
                self.out.append(|out| client.hello(out));
                self.state = State::CurveClient(Box::new(client));
            }
        }
        Ok(())
    }

    /// One command before READY; what is known of the peer once it was the last.
    fn handshake(&mut self, body: &mut [u8]) -> Result<Option<Established>, ZmtpError> {
        self.commands += 1;
        if self.commands > MAX_HANDSHAKE_COMMANDS {
            return Err(ZmtpError::HandshakeTooLong);
        }
        let name_bytes = command::split_name(body)?.0.len();
        let (name, data) = body[1..].split_at_mut(name_bytes);
        if name == b"ERROR" {
            return Err(command::decode_error(data));
        }
        let config = Arc::clone(&self.config);
        match (&mut self.state, &config.security, &*name) {
            (State::Null, _, b"READY") => {
                let theirs = Metadata::decode(data)?;
                config.check_type(&theirs)?;
                if config.role == Role::Server {
                    self.out
                        .append(|out| command::push_ready(out, &config.metadata()));
                }
                Ok(Some(self.established(theirs, None, None)))
            }
            (State::CurveServer(server), Security::CurveServer { secret, .. }, b"HELLO") => {
                let mut result = Ok(());
                let keys = ServerKeys {
                    current: (secret, &config.public),
                    previous: config
                        .previous
                        .as_ref()
                        .map(|(secret, public)| (secret, public)),
                };
                self.out
                    .append(|out| result = server.hello(data, &keys, out));
                result.map(|()| None)
            }
            (State::CurveServer(server), Security::CurveServer { allowed, .. }, b"INITIATE") => {
                let initiated = server.initiate(data)?;
                let (key, theirs) = (initiated.client, initiated.metadata.clone());
                if allowed
                    .as_ref()
                    .is_some_and(|allowed| !allowed.contains(&key))
                {
                    return Err(ZmtpError::KeyNotAllowed(key));
                }
                config.check_type(&theirs)?;
                let mut session = None;
                self.out
                    .append(|out| session = Some(initiated.ready(&config.metadata(), out)));
                Ok(Some(self.established(theirs, Some(key), session)))
            }
            (State::CurveClient(client), Security::CurveClient { server, secret }, b"WELCOME") => {
                let mut result = Ok(());
                let ours = config.metadata();
                self.out
                    .append(|out| result = client.welcome(data, server, secret, &ours, out));
                result.map(|()| None)
            }
            (State::CurveClient(client), _, b"READY") => {
                let (session, theirs) = client.ready(data)?;
                config.check_type(&theirs)?;
                Ok(Some(self.established(theirs, None, Some(session))))
            }
            (_, _, name) => Err(ZmtpError::Unexpected(printable(name))),
        }
    }

    fn established(
        &mut self,
        theirs: Metadata,
        key: Option<PublicKey>,
        session: Option<Session>,
    ) -> Established {
        self.state = State::Ready(session.map(Box::new));
        Established {
            identity: theirs.identity,
            key,
            minor: self.minor,
        }
    }

    /// A command after READY: PING is answered, the rest has no meaning here (RFC 37 lets a peer
    /// ignore what it does not know).
    fn traffic_command(&mut self, body: &[u8]) -> Result<(), ZmtpError> {
        let (name, data) = command::split_name(body)?;
        match name {
            b"PING" => {
                let (ttl_ms, context) = command::decode_ping(data)?;
                self.ttl_ms = ttl_ms;
                let pong = command::pong(context);
                self.push_command(&pong);
                Ok(())
            }
            b"ERROR" => Err(command::decode_error(data)),
            _ => Ok(()),
        }
    }

    fn push_command(&mut self, body: &[u8]) {
        match &mut self.state {
            State::Ready(None) => self.out.append(|out| {
                push_head(out, COMMAND, body.len());
                out.extend_from_slice(body);
            }),
            State::Ready(Some(session)) => self
                .out
                .append(|out| session.push(out, BOXED_COMMAND, body)),
            _ => {}
        }
    }

    /// Ends it, and tells the peer why where the protocol has words for it.
    fn refuse(&mut self, error: &ZmtpError) {
        let in_handshake = !matches!(self.state, State::Greeting | State::Ready(_) | State::Ended);
        self.state = State::Ended;
        self.partial = Vec::new();
        let reason = match error {
            // What ZAP says for "access denied"; libzmq knows it by this number.
            ZmtpError::KeyNotAllowed(_) => "400".to_owned(),
            ZmtpError::SocketType(_) | ZmtpError::Malformed(_) => error.to_string(),
            _ => return,
        };
        if in_handshake {
            self.out.append(|out| command::push_error(out, &reason));
        }
    }
}

fn part<const N: usize>(entropy: &Entropy, from: usize) -> [u8; N] {
    entropy[from..from + N]
        .try_into()
        .expect("inside of the entropy")
}

fn server_random(entropy: &Entropy) -> curve::ServerRandom {
    curve::ServerRandom {
        transient: part(entropy, 0),
        cookie_key: part(entropy, 32),
        welcome_nonce: part(entropy, 64),
        cookie_nonce: part(entropy, 80),
    }
}

fn printable(name: &[u8]) -> String {
    let name = &name[..name.len().min(32)];
    format!("command {}", name.escape_ascii())
}
