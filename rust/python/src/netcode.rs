//! UDP sessions for Python: connect tokens, and a client without sockets for bots and tests.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ring::rand::{SecureRandom, SystemRandom};
use zmqgame_core::edge::netcode::client::Client;
use zmqgame_core::edge::netcode::limits::{
    KEY_BYTES, MAX_DATAGRAM_BYTES, TOKEN_BYTES, USER_DATA_BYTES,
};
use zmqgame_core::edge::netcode::server::SendError;
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec, UserData};

const NO_BYTES: &[u8] = &[];

/// Adds this file's part of the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(netcode_connect_token, module)?)?;
    module.add_class::<NetcodeClient>()?;
    module.add("NETCODE_TOKEN_BYTES", TOKEN_BYTES)?;
    module.add("NETCODE_USER_DATA_BYTES", USER_DATA_BYTES)
}

fn value_error(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn parse_addresses(addresses: &[String]) -> PyResult<Vec<SocketAddr>> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|_| value_error(format!("{text:?} is not an address like 10.0.0.1:7612")))
    };
    addresses.iter().map(parse).collect()
}

fn padded_user_data(bytes: &[u8]) -> PyResult<UserData> {
    let mut user_data = [0; USER_DATA_BYTES];
    let place = user_data.get_mut(..bytes.len()).ok_or_else(|| {
        value_error(format!(
            "user data has at most {USER_DATA_BYTES} bytes, not {}",
            bytes.len()
        ))
    })?;
    place.copy_from_slice(bytes);
    Ok(user_data)
}

/// A connect token that is valid for `expire_s` seconds from now; it connects once.
#[pyfunction]
#[pyo3(signature = (protocol_id, expire_s, timeout_s, client_id, addresses, private_key, user_data=NO_BYTES))]
#[expect(
    clippy::too_many_arguments,
    reason = "the fields of a token, named at the call"
)]
fn netcode_connect_token<'py>(
    py: Python<'py>,
    protocol_id: u64,
    expire_s: u32,
    timeout_s: i32,
    client_id: u64,
    addresses: Vec<String>,
    private_key: &[u8],
    user_data: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let private_key: [u8; KEY_BYTES] = private_key.try_into().map_err(|_| {
        value_error(format!(
            "the private key has {KEY_BYTES} bytes, not {}",
            private_key.len()
        ))
    })?;
    let mut random = [0; TokenEntropy::BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| PyOSError::new_err("the system gave no random bytes"))?;
    let create_s = unix_s();
    let spec = TokenSpec {
        protocol_id,
        create_s,
        expire_s: create_s + u64::from(expire_s),
        timeout_s,
        client_id,
        servers: &parse_addresses(&addresses)?,
        user_data: &padded_user_data(user_data)?,
    };
    let token = ConnectToken::generate(&spec, &private_key, TokenEntropy::from_bytes(&random));
    Ok(PyBytes::new(py, &token.map_err(value_error)?.write()[..]))
}

struct Session {
    client: Client,
    /// The newest time that we were told; `send` happens then.
    now_ms: u64,
    started: bool,
}

/// One client's session: datagrams in, datagrams out, no socket and no clock of its own.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct NetcodeClient(Mutex<Session>);

impl NetcodeClient {
    fn session(&self) -> MutexGuard<'_, Session> {
        // A panic while it was held is impossible to repair here, and harmless to others.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl NetcodeClient {
    /// `unix_s` is the wall clock; 0 leaves the check of the token's expiry to the server.
    #[new]
    #[pyo3(signature = (token, unix_s=0))]
    fn new(token: &[u8], unix_s: u64) -> PyResult<Self> {
        let client = Client::new(token).map_err(value_error)?;
        if unix_s != 0 && client.expire_s() <= unix_s {
            let expire_s = client.expire_s();
            return Err(value_error(format!(
                "the token expired at {expire_s} s, now {unix_s} s"
            )));
        }
        Ok(Self(Mutex::new(Session {
            client,
            now_ms: 0,
            started: false,
        })))
    }

    /// One datagram from the current server; its payload in a list, or an empty one.
    fn handle_datagram<'py>(
        &self,
        py: Python<'py>,
        now_ms: u64,
        datagram: &[u8],
    ) -> Vec<Bound<'py, PyBytes>> {
        let mut session = self.session();
        session.now_ms = session.now_ms.max(now_ms);
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        let Some(buffer) = buffer.get_mut(..datagram.len()) else {
            return Vec::new();
        };
        buffer.copy_from_slice(datagram);
        let (server, now_ms) = (session.client.server(), session.now_ms);
        let payload = session.client.handle_datagram(now_ms, server, buffer);
        payload
            .map(|payload| PyBytes::new(py, payload))
            .into_iter()
            .collect()
    }

    /// Begins at the first call; then time-outs, repeats, keep-alives. What is to be sent now.
    fn poll<'py>(&self, py: Python<'py>, now_ms: u64) -> Vec<Bound<'py, PyBytes>> {
        let mut session = self.session();
        session.now_ms = session.now_ms.max(now_ms);
        let now_ms = session.now_ms;
        if session.started {
            session.client.handle_timeout(now_ms);
        } else {
            session.started = true;
            session.client.start(now_ms);
        }
        let mut datagrams = Vec::new();
        while let Some((_, bytes)) = session.client.poll_datagram() {
            datagrams.push(PyBytes::new(py, bytes));
        }
        datagrams
    }

    /// When `poll` has something to do by itself, in the milliseconds it is given; None when over.
    fn poll_timeout(&self) -> Option<u64> {
        self.session().client.poll_timeout()
    }

    /// Sends one payload with the next `poll`; ConnectionError unless connected.
    fn send(&self, payload: &[u8]) -> PyResult<()> {
        let mut session = self.session();
        let now_ms = session.now_ms;
        session
            .client
            .send(now_ms, payload)
            .map_err(|error| match error {
                SendError::Length { .. } => value_error(error),
                _ => PyConnectionError::new_err(format!(
                    "not sent: the session is {}",
                    session.client.state().as_str()
                )),
            })
    }

    /// Ends the session; the goodbyes go out with the next `poll`.
    fn disconnect(&self) {
        let mut session = self.session();
        let now_ms = session.now_ms;
        session.client.disconnect(now_ms);
    }

    /// Where the session is, in words: requesting, responding, connected, ...
    #[getter]
    fn state(&self) -> &'static str {
        self.session().client.state().as_str()
    }

    /// Whether payloads can be sent.
    #[getter]
    fn connected(&self) -> bool {
        self.state() == "connected"
    }

    /// The server to send to and to receive from; another one after a server did not answer.
    #[getter]
    fn server(&self) -> String {
        self.session().client.server().to_string()
    }
}
