//! `ZmtpPeer`, `ZmtpRefused`, `curve_keypair`, `curve_public`: ZMTP without a socket.

use std::sync::Arc;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zmqgame_core::zmtp::{Config, Entropy, Event, Peer, Role, SecretKey, Security};

create_exception!(
    zmqgame_native,
    ZmtpRefused,
    PyException,
    "A connection that can't go on: `args` are the reason's kind and its words."
);

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ZmtpRefused", module.py().get_type::<ZmtpRefused>())?;
    module.add_class::<ZmtpPeer>()?;
    module.add_function(wrap_pyfunction!(curve_keypair, module)?)?;
    module.add_function(wrap_pyfunction!(curve_public, module)?)
}

/// 32 bytes, or an error that names what they should have been.
pub fn key(bytes: &[u8], what: &str) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| {
        PyValueError::new_err(format!(
            "{what} has {} bytes, a CURVE key has 32",
            bytes.len()
        ))
    })
}

fn random<const N: usize>() -> PyResult<[u8; N]> {
    let mut bytes = [0; N];
    zmqgame_reactor::random(&mut bytes)
        .map_err(|error| PyOSError::new_err(format!("no random bytes from the system: {error}")))?;
    Ok(bytes)
}

/// Make a new CURVE key pair: public and secret, 32 bytes each.
#[pyfunction]
fn curve_keypair(py: Python<'_>) -> PyResult<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)> {
    let bytes = random::<32>()?;
    let public = SecretKey::new(bytes).public();
    Ok((PyBytes::new(py, &public), PyBytes::new(py, &bytes)))
}

/// Return the public key that belongs to a secret one.
#[pyfunction]
fn curve_public<'py>(py: Python<'py>, secret: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let public = SecretKey::new(key(secret, "the secret key")?).public();
    Ok(PyBytes::new(py, &public))
}

/// One end of a ZMTP connection: bytes in, messages out, and the other way round.
#[pyclass]
struct ZmtpPeer {
    peer: Peer,
    key: Option<[u8; 32]>,
    identity: Vec<u8>,
}

#[pymethods]
impl ZmtpPeer {
    #[new]
    #[pyo3(signature = (role, *, identity = vec![], secret_key = None, server_key = None, allowed = None,
                        entropy = None, now_ms = 0))]
    fn new(
        role: &str,
        identity: Vec<u8>,
        secret_key: Option<&[u8]>,
        server_key: Option<&[u8]>,
        allowed: Option<Vec<Vec<u8>>>,
        entropy: Option<&[u8]>,
        now_ms: u64,
    ) -> PyResult<Self> {
        let role = match role {
            "router" => Role::Server,
            "dealer" => Role::Client,
            other => {
                return Err(PyValueError::new_err(format!(
                    "role {other:?}: router or dealer"
                )));
            }
        };
        let mut config = Config::new(role, security(role, secret_key, server_key, allowed)?);
        if identity.len() > 255 {
            return Err(PyValueError::new_err("an identity has at most 255 bytes"));
        }
        config.identity = identity;
        let entropy: Entropy = match entropy {
            None => random()?,
            Some(bytes) => bytes
                .try_into()
                .map_err(|_| PyValueError::new_err("entropy has 96 bytes"))?,
        };
        Ok(Self {
            peer: Peer::new(Arc::new(config), now_ms, entropy),
            key: None,
            identity: Vec::new(),
        })
    }

    /// Takes bytes in; the messages that they complete.
    #[pyo3(signature = (data, now_ms = 0))]
    fn receive<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        now_ms: u64,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let mut messages = Vec::new();
        let (key, identity) = (&mut self.key, &mut self.identity);
        let result = self
            .peer
            .handle_input(now_ms, &mut data.to_vec(), &mut |event| match event {
                Event::Frame(frame) => messages.push(PyBytes::new(py, frame)),
                Event::Ready(established) => {
                    *key = established.key;
                    identity.clone_from(&established.identity);
                }
            });
        result.map_err(|error| ZmtpRefused::new_err((error.kind(), error.to_string())))?;
        Ok(messages)
    }

    /// Queues a message; False before the handshake is done.
    fn send(&mut self, payload: &[u8]) -> bool {
        self.peer.send(payload)
    }

    /// Queues a PING.
    fn ping(&mut self) {
        self.peer.ping();
    }

    /// Everything that is to be written.
    fn output<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.peer.out().take())
    }

    /// Whether the handshake is done.
    #[getter]
    fn ready(&self) -> bool {
        self.peer.is_ready()
    }

    /// The other side's proven public key, if it is a client under CURVE.
    #[getter]
    fn peer_key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.key.map(|key| PyBytes::new(py, &key))
    }

    /// The routing id that the other side asks for.
    #[getter]
    fn peer_identity<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.identity)
    }
}

fn security(
    role: Role,
    secret_key: Option<&[u8]>,
    server_key: Option<&[u8]>,
    allowed: Option<Vec<Vec<u8>>>,
) -> PyResult<Security> {
    let Some(secret) = secret_key else {
        return Ok(Security::Null);
    };
    let secret = SecretKey::new(key(secret, "the secret key")?);
    match (role, server_key) {
        (Role::Server, _) => {
            let allowed =
                allowed.map(|keys| keys.iter().map(|k| key(k, "an allowed key")).collect());
            let allowed = allowed.transpose()?;
            Ok(Security::CurveServer { secret, allowed })
        }
        (Role::Client, Some(server)) => {
            let server = key(server, "the server's key")?;
            Ok(Security::CurveClient { server, secret })
        }
        (Role::Client, None) => Err(PyValueError::new_err("CURVE needs the server's public key")),
    }
}
