//! CurveZMQ (RFC 26): the handshake of both sides and the boxes of the traffic after it.
//!
//! ```text
//! client C, c, C', c'                      server S, s, S', s'
//! HELLO     C', box of zeros (C'->S)  ──>
//!                                     <──  WELCOME   box S', cookie (S->C')
//! INITIATE  cookie, box C, vouch, metadata (C'->S')  ──>
//!                                     <──  READY     box metadata (S'->C')
//! MESSAGE   box flags, payload        <─>  MESSAGE
//! ```
//! The vouch is a box of C' and S (C->S'): the proof that who holds c wants this connection.

use super::cipher::{BoxKey, MAC_BYTES, PublicKey, SecretKey, counted, long};
use super::command::Metadata;
use super::error::ZmtpError;
use super::frame::{COMMAND, push_head};

const HELLO_BYTES: usize = 194;
const WELCOME_BYTES: usize = 160;
const COOKIE_BYTES: usize = 96;
const VOUCH_BYTES: usize = 96;
/// What MESSAGE puts before its box: name, counter.
const MESSAGE_HEAD_BYTES: usize = 16;
/// What MESSAGE adds to a payload: its head, the MAC, the flags.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = MESSAGE_HEAD_BYTES + MAC_BYTES + 1;

/// In a MESSAGE's flags: more frames follow.
pub(super) const BOXED_MORE: u8 = 0x01;
/// In a MESSAGE's flags: the payload is a command.
pub(super) const BOXED_COMMAND: u8 = 0x02;

/// Traffic after the handshake.
pub(super) struct Session {
    key: BoxKey,
    send_prefix: &'static [u8; 16],
    receive_prefix: &'static [u8; 16],
    sent: u64,
    received: u64,
}

const FROM_CLIENT: &[u8; 16] = b"CurveZMQMESSAGEC";
const FROM_SERVER: &[u8; 16] = b"CurveZMQMESSAGES";

impl Session {
    /// Appends one frame with the payload boxed. Like libzmq, as a message, not as a command.
    pub fn push(&mut self, out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
        self.sent += 1;
        push_head(out, 0, MESSAGE_OVERHEAD_BYTES + payload.len());
        out.extend_from_slice(b"\x07MESSAGE");
        out.extend_from_slice(&self.sent.to_be_bytes());
        let boxed = out.len();
        out.extend_from_slice(&[0; MAC_BYTES]);
        out.push(flags);
        out.extend_from_slice(payload);
        self.key
            .seal(&counted(self.send_prefix, self.sent), &mut out[boxed..]);
    }

    /// Opens a frame's body in place: flags and payload.
    pub fn open<'a>(&mut self, body: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), ZmtpError> {
        let counter = body
            .strip_prefix(b"\x07MESSAGE")
            .and_then(|rest| rest.first_chunk::<8>());
        let counter = u64::from_be_bytes(*counter.ok_or(ZmtpError::Malformed("MESSAGE"))?);
        if counter <= self.received {
            return Err(ZmtpError::Replay);
        }
        let nonce = counted(self.receive_prefix, counter);
        let plain = self
            .key
            .open(&nonce, &mut body[MESSAGE_HEAD_BYTES..], "MESSAGE")?;
        self.received = counter;
        match plain.split_first_mut() {
            Some((&mut flags, payload)) => Ok((flags, payload)),
            None => Err(ZmtpError::Malformed("MESSAGE")),
        }
    }
}

/// What the server has to draw: nobody may guess it.
pub(super) struct ServerRandom {
    pub transient: [u8; 32],
    pub welcome_nonce: [u8; 16],
    pub cookie_nonce: [u8; 16],
    pub cookie_key: [u8; 32],
}

/// The keys under which clients may know a server, each with its public half.
pub(super) struct ServerKeys<'a> {
    pub current: (&'a SecretKey, &'a PublicKey),
    /// During a rotation.
    pub previous: Option<(&'a SecretKey, &'a PublicKey)>,
}

/// What a HELLO has told the server.
struct Greeted {
    /// C'.
    client: PublicKey,
    /// S, of the key with which the HELLO opened: the vouch names it.
    server: PublicKey,
    cookie: [u8; COOKIE_BYTES],
    counter: u64,
}

/// The server's side until READY.
pub(super) struct Server {
    transient: SecretKey,
    random: ServerRandom,
    greeted: Option<Greeted>,
}

impl Server {
    pub fn new(random: ServerRandom) -> Self {
        let transient = SecretKey::new(random.transient);
        Self {
            transient,
            random,
            greeted: None,
        }
    }

    /// HELLO in, WELCOME out.
    pub fn hello(
        &mut self,
        data: &mut [u8],
        keys: &ServerKeys<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ZmtpError> {
        if self.greeted.is_some() {
            return Err(ZmtpError::Unexpected("HELLO".into()));
        }
        if data.len() != HELLO_BYTES || data[0] != 1 {
            return Err(ZmtpError::Malformed("HELLO"));
        }
        let client: PublicKey = data[74..106].try_into().expect("the length was checked");
        let counter =
            u64::from_be_bytes(data[106..114].try_into().expect("the length was checked"));
        let (key, server) = open_hello(keys, &client, counter, &data[114..])?;
        let cookie = self.bake(&client);
        let mut boxed = [0; MAC_BYTES + 32 + COOKIE_BYTES];
        boxed[MAC_BYTES..MAC_BYTES + 32].copy_from_slice(&self.transient.public());
        boxed[MAC_BYTES + 32..].copy_from_slice(&cookie);
        key.seal(&long(b"WELCOME-", &self.random.welcome_nonce), &mut boxed);
        push_head(out, COMMAND, 8 + 16 + boxed.len());
        out.extend_from_slice(b"\x07WELCOME");
        out.extend_from_slice(&self.random.welcome_nonce);
        out.extend_from_slice(&boxed);
        self.greeted = Some(Greeted {
            client,
            server,
            cookie,
            counter,
        });
        Ok(())
    }

    /// C' and s' under a key that only this connection knows.
    fn bake(&self, client: &PublicKey) -> [u8; COOKIE_BYTES] {
        let mut cookie = [0; COOKIE_BYTES];
        cookie[..16].copy_from_slice(&self.random.cookie_nonce);
        cookie[32..64].copy_from_slice(client);
        cookie[64..].copy_from_slice(self.transient.bytes());
        let key = BoxKey::secret(self.random.cookie_key);
        key.seal(
            &long(b"COOKIE--", &self.random.cookie_nonce),
            &mut cookie[16..],
        );
        cookie
    }

    /// INITIATE in: the client's long-term key, proven to be its own, and its metadata. Whether the
    /// key is welcome is for the caller to say, before [`Server::ready`].
    pub fn initiate(&mut self, data: &mut [u8]) -> Result<Initiated, ZmtpError> {
        let Some(greeted) = self.greeted.take() else {
            return Err(ZmtpError::Unexpected("INITIATE".into()));
        };
        let Greeted {
            client,
            server,
            cookie,
            counter: last,
        } = greeted;
        if data.len() < COOKIE_BYTES + 8 + MAC_BYTES + 32 + VOUCH_BYTES {
            return Err(ZmtpError::Malformed("INITIATE"));
        }
        if data[..COOKIE_BYTES] != cookie {
            return Err(ZmtpError::Authentication("cookie"));
        }
        let counter = u64::from_be_bytes(data[96..104].try_into().expect("the length was checked"));
        if counter <= last {
            return Err(ZmtpError::Replay);
        }
        let key = BoxKey::new(&client, &self.transient)?;
        let plain = key.open(
            &counted(b"CurveZMQINITIATE", counter),
            &mut data[104..],
            "INITIATE",
        )?;
        let (identity, rest) = plain
            .split_first_chunk_mut::<32>()
            .expect("the length was checked");
        let (vouch, metadata) = rest.split_at_mut(VOUCH_BYTES);
        let (nonce, vouch) = vouch
            .split_first_chunk_mut::<16>()
            .expect("its length is fixed");
        let vouched = BoxKey::new(identity, &self.transient)?.open(
            &long(b"VOUCH---", nonce),
            vouch,
            "vouch",
        )?;
        if vouched[..32] != client || vouched[32..] != server {
            return Err(ZmtpError::Authentication("vouch"));
        }
        Ok(Initiated {
            client: *identity,
            metadata: Metadata::decode(metadata)?,
            session: Session {
                key,
                send_prefix: FROM_SERVER,
                receive_prefix: FROM_CLIENT,
                sent: 0,
                received: counter,
            },
        })
    }
}

/// The shared key under which the box of a HELLO opens, and for which of our public keys it was made.
fn open_hello(
    keys: &ServerKeys<'_>,
    client: &PublicKey,
    counter: u64,
    boxed: &[u8],
) -> Result<(BoxKey, PublicKey), ZmtpError> {
    let nonce = counted(b"CurveZMQHELLO---", counter);
    let mut result = Err(ZmtpError::Authentication("HELLO"));
    for (secret, public) in std::iter::once(keys.current).chain(keys.previous) {
        let key = BoxKey::new(client, secret)?;
        // A copy: a try that fails may leave anything.
        let mut copy = boxed.to_vec();
        match key.open(&nonce, &mut copy, "HELLO") {
            Ok(_) => return Ok((key, *public)),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// A client that has proven its key.
pub(super) struct Initiated {
    pub client: PublicKey,
    pub metadata: Metadata,
    session: Session,
}

impl Initiated {
    /// READY out; from here on there is only traffic.
    pub fn ready(mut self, ours: &Metadata, out: &mut Vec<u8>) -> Session {
        let mut boxed = vec![0; MAC_BYTES];
        ours.encode(&mut boxed);
        self.session.sent += 1;
        let counter = self.session.sent;
        self.session
            .key
            .seal(&counted(b"CurveZMQREADY---", counter), &mut boxed);
        push_head(out, COMMAND, 6 + 8 + boxed.len());
        out.extend_from_slice(b"\x05READY");
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&boxed);
        self.session
    }
}

/// The client's side until READY.
pub(super) struct Client {
    transient: SecretKey,
    vouch_nonce: [u8; 16],
    hello_key: BoxKey,
    /// What the server's READY will be boxed with, once WELCOME is in.
    welcomed: Option<BoxKey>,
}

impl Client {
    pub fn new(
        transient: [u8; 32],
        vouch_nonce: [u8; 16],
        server: &PublicKey,
    ) -> Result<Self, ZmtpError> {
        let transient = SecretKey::new(transient);
        Ok(Self {
            hello_key: BoxKey::new(server, &transient)?,
            transient,
            vouch_nonce,
            welcomed: None,
        })
    }

    /// HELLO out.
    pub fn hello(&self, out: &mut Vec<u8>) {
        push_head(out, COMMAND, 6 + HELLO_BYTES);
        out.extend_from_slice(b"\x05HELLO\x01\x00");
        out.extend_from_slice(&[0; 72]);
        out.extend_from_slice(&self.transient.public());
        out.extend_from_slice(&1u64.to_be_bytes());
        let mut boxed = [0; MAC_BYTES + 64];
        self.hello_key
            .seal(&counted(b"CurveZMQHELLO---", 1), &mut boxed);
        out.extend_from_slice(&boxed);
    }

    /// WELCOME in, INITIATE out.
    pub fn welcome(
        &mut self,
        data: &mut [u8],
        server: &PublicKey,
        secret: &SecretKey,
        ours: &Metadata,
        out: &mut Vec<u8>,
    ) -> Result<(), ZmtpError> {
        if self.welcomed.is_some() || data.len() != WELCOME_BYTES {
            return Err(ZmtpError::Malformed("WELCOME"));
        }
        let (nonce, boxed) = data
            .split_first_chunk_mut::<16>()
            .expect("the length was checked");
        let plain = self
            .hello_key
            .open(&long(b"WELCOME-", nonce), boxed, "WELCOME")?;
        let (server_transient, cookie) = plain
            .split_first_chunk::<32>()
            .expect("its length is fixed");
        let key = BoxKey::new(server_transient, &self.transient)?;

        let mut vouch = [0; MAC_BYTES + 64];
        vouch[MAC_BYTES..MAC_BYTES + 32].copy_from_slice(&self.transient.public());
        vouch[MAC_BYTES + 32..].copy_from_slice(server);
        BoxKey::new(server_transient, secret)?
            .seal(&long(b"VOUCH---", &self.vouch_nonce), &mut vouch);
        let mut boxed = vec![0; MAC_BYTES];
        boxed.extend_from_slice(&secret.public());
        boxed.extend_from_slice(&self.vouch_nonce);
        boxed.extend_from_slice(&vouch);
        ours.encode(&mut boxed);
        key.seal(&counted(b"CurveZMQINITIATE", 2), &mut boxed);
        push_head(out, COMMAND, 9 + COOKIE_BYTES + 8 + boxed.len());
        out.extend_from_slice(b"\x08INITIATE");
        out.extend_from_slice(cookie);
        out.extend_from_slice(&2u64.to_be_bytes());
        out.extend_from_slice(&boxed);
        self.welcomed = Some(key);
        Ok(())
    }

    /// READY in: the server's metadata, and traffic.
    pub fn ready(&mut self, data: &mut [u8]) -> Result<(Session, Metadata), ZmtpError> {
        let key = self
            .welcomed
            .take()
            .ok_or(ZmtpError::Unexpected("READY".into()))?;
        let (counter, boxed) = data
            .split_first_chunk_mut::<8>()
            .ok_or(ZmtpError::Malformed("READY"))?;
        let counter = u64::from_be_bytes(*counter);
        let plain = key.open(&counted(b"CurveZMQREADY---", counter), boxed, "READY")?;
        let metadata = Metadata::decode(plain)?;
        let session = Session {
            key,
            send_prefix: FROM_CLIENT,
            receive_prefix: FROM_SERVER,
            sent: 2,
            received: counter,
        };
        Ok((session, metadata))
    }
}
