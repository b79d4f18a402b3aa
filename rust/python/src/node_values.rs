//! `MessageId` and `Delivery`: values that come in large numbers, made without running any Python.

use std::fmt;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use zmqgame_core::bus::hub::trace::is_sampled;
use zmqgame_core::bus::message::{MessageId as Id, POLICY_SEQ, node_key};

/// An id, with the sender's name if it is known.
#[derive(Debug, Clone)]
#[pyclass(module = "zmqgame_native", frozen, eq, ord, hash)]
pub struct MessageId {
    pub id: Id,
    name: Option<Arc<str>>,
}

impl MessageId {
    pub const fn new(id: Id, name: Option<Arc<str>>) -> Self {
        Self { id, name }
    }
}

impl PartialEq for MessageId {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for MessageId {}

impl PartialOrd for MessageId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.id.cmp(&other.id))
    }
}

impl std::hash::Hash for MessageId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "{:#018x}", self.id.node_key)?,
        }
        write!(f, "/{}/{}", self.id.epoch, self.id.seq)
    }
}

fn parse(text: &str) -> Option<MessageId> {
    let mut parts = text.rsplitn(3, '/');
    let (seq, epoch, name) = (parts.next()?, parts.next()?, parts.next()?);
    let (node_key, name) = match name.strip_prefix("0x") {
        Some(digits) => (u64::from_str_radix(digits, 16).ok()?, None),
        None if name.is_empty() => return None,
        None => (node_key(name), Some(name.into())),
    };
    let (epoch, seq) = (epoch.parse().ok()?, seq.parse().ok()?);
    let id = Id {
        node_key,
        epoch,
        seq,
    };
    Some(MessageId { id, name })
}

#[pymethods]
impl MessageId {
    #[new]
    #[pyo3(signature = (node_key, epoch, seq, name=""))]
    fn py_new(node_key: u64, epoch: u64, seq: u64, name: &str) -> Self {
        Self {
            id: Id {
                node_key,
                epoch,
                seq,
            },
            name: (!name.is_empty()).then(|| name.into()),
        }
    }

    #[staticmethod]
    #[pyo3(name = "parse")]
    fn py_parse(text: &str) -> PyResult<Self> {
        parse(text).ok_or_else(|| {
            PyValueError::new_err(format!("{text:?} is no message id: write NAME/EPOCH/SEQ"))
        })
    }

    #[getter]
    fn node_key(&self) -> u64 {
        self.id.node_key
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.id.epoch
    }

    #[getter]
    fn seq(&self) -> u64 {
        self.id.seq
    }

    #[getter]
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn numbers(&self) -> (u64, u64, u64) {
        (self.id.node_key, self.id.epoch, self.id.seq)
    }

    fn __str__(&self) -> String {
        self.to_string()
    }

    fn __repr__(&self) -> String {
        format!("MessageId({self})")
    }
}

/// A message for a hosted player, or for an address of the node itself.
#[pyclass(module = "zmqgame_native", frozen)]
pub struct Delivery {
    pub player: Arc<str>,
    pub id: Id,
    content: u8,
    /// Every hop of it is recorded.
    pub traced: bool,
    payload: Py<PyBytes>,
}

impl Delivery {
    pub const fn new(player: Arc<str>, id: Id, content: u8, payload: Py<PyBytes>) -> Self {
        Self {
            player,
            id,
            content,
            traced: false,
            payload,
        }
    }
}

#[pymethods]
impl Delivery {
    #[new]
    fn py_new(content: u8, payload: Py<PyBytes>, player: &str, id: PyRef<'_, MessageId>) -> Self {
        Self::new(player.into(), id.id, content, payload)
    }

    #[getter]
    fn content(&self) -> u8 {
        self.content
    }

    #[getter]
    fn payload(&self, py: Python<'_>) -> Py<PyBytes> {
        self.payload.clone_ref(py)
    }

    #[getter]
    fn traced(&self) -> bool {
        self.traced || is_sampled(self.id)
    }

    #[getter]
    fn player<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, &self.player)
    }

    #[getter]
    fn must_deliver(&self) -> bool {
        self.id.seq & POLICY_SEQ == 0
    }

    #[getter]
    fn id(&self) -> MessageId {
        MessageId::new(self.id, None)
    }

    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import(intern!(py, "orjson"))?
            .call_method1(intern!(py, "loads"), (&self.payload,))
    }

    #[getter]
    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.payload.bind(py).call_method0(intern!(py, "decode"))
    }

    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.content {
            1 => self.text(py),
            2 => self.json(py),
            _ => Ok(self.payload.bind(py).clone().into_any()),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let bytes = self.payload.bind(py).as_bytes().len();
        let id = MessageId::new(self.id, None);
        format!("Delivery({:?}, {id}, {bytes} bytes)", self.player)
    }
}
