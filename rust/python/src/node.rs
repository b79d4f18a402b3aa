//! The node's state machine for Python: frames in, batches of events out. No call per packet where many arrive.

use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::sync::Arc;
use zmqgame_core::bus::message::{Content, MessageId, node_key};
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::hosting::{Attached, Delivery};
use zmqgame_core::bus::node::sender::{Recipient, Report};
use zmqgame_core::bus::node::{Node, NodeConfig, NodeError};

type Id = (u64, u64, u64);

fn raise(error: NodeError) -> PyErr {
    match error {
        NodeError::Wire(error) => PyValueError::new_err(error.to_string()),
        NodeError::SeqUsed => {
            PyValueError::new_err("the message id is below what this epoch has sent")
        }
        NodeError::Full => PyConnectionError::new_err("too much is waiting for the hub"),
        NodeError::Ended => PyConnectionError::new_err("the node is closed"),
    }
}

fn full_is_none<T>(result: Result<T, NodeError>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(NodeError::Full) => Ok(None),
        Err(error) => Err(raise(error)),
    }
}

fn content(value: u8) -> PyResult<Content> {
    match value {
        0 => Ok(Content::Bytes),
        1 => Ok(Content::Text),
        2 => Ok(Content::Json),
        _ => Err(PyValueError::new_err(
            "content is 0 bytes, 1 text or 2 JSON",
        )),
    }
}

fn id((node_key, epoch, seq): Id) -> MessageId {
    MessageId {
        node_key,
        epoch,
        seq,
    }
}

fn numbers(id: MessageId) -> Id {
    (id.node_key, id.epoch, id.seq)
}

/// A node of the bus without socket and clock. The owner obeys the events and carries the frames.
#[pyclass(module = "zmqgame_native")]
pub struct NodeCore {
    node: Node,
}

#[pymethods]
impl NodeCore {
    /// A node that asks for a connection at its first `timeout`.
    #[new]
    #[pyo3(signature = (now_ms, name, epoch, connection, roles, next_seq=1))]
    fn new(
        now_ms: u64,
        name: String,
        epoch: u64,
        connection: u64,
        roles: Vec<String>,
        next_seq: u64,
    ) -> PyResult<Self> {
        let config = NodeConfig {
            name,
            epoch,
            connection,
            roles,
            next_seq,
        };
        let node =
            Node::new(config, now_ms).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { node })
    }

    /// The stable hash of the node's name.
    #[getter]
    fn key(&self) -> u64 {
        self.node.key()
    }

    /// Whether the hub has welcomed it.
    #[getter]
    fn up(&self) -> bool {
        self.node.is_up()
    }

    /// How many messages wait for a final receipt.
    #[getter]
    fn unreceipted(&self) -> usize {
        self.node.unreceipted()
    }

    /// Frames of the hub, in order.
    fn receive(&mut self, now_ms: u64, random: u64, frames: Vec<Bound<'_, PyBytes>>) {
        for frame in &frames {
            self.node.handle_frame(now_ms, random, frame.as_bytes());
        }
    }

    /// Does what is due.
    fn timeout(&mut self, now_ms: u64, random: u64) {
        self.node.handle_timeout(now_ms, random);
    }

    /// When `timeout` is to be called at the latest; None: never.
    fn next_timeout(&self) -> Option<u64> {
        self.node.poll_timeout()
    }

    /// The connection broke, or could not be made.
    fn disconnected(&mut self, now_ms: u64, random: u64, why: &str) {
        self.node.handle_disconnected(now_ms, random, why);
    }

    /// The next frame to write, if there is one.
    fn frame<'py>(&mut self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        self.node
            .poll_frame(now_ms)
            .map(|frame| PyBytes::new(py, &frame))
    }

    /// Whether `frame` may give something.
    fn has_unsent(&self) -> bool {
        self.node.has_unsent()
    }

    /// All events since the last call, in order, as tuples that begin with their name.
    fn events<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        let mut shared: Shared<'py> = None;
        while let Some(event) = self.node.poll_event() {
            list.append(tuple_of(py, event, &mut shared)?)?;
        }
        Ok(list)
    }

    /// Sends to a player; the seq, or None while the window is full.
    #[pyo3(signature = (player, content_flag, payload, repeat=None))]
    fn unicast(
        &mut self,
        player: String,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
    ) -> PyResult<Option<u64>> {
        self.send(Recipient::Player(player), content_flag, payload, repeat)
    }

    /// Sends to the members of a group.
    #[pyo3(signature = (group, content_flag, payload, repeat=None))]
    fn multicast(
        &mut self,
        group: String,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
    ) -> PyResult<Option<u64>> {
        self.send(Recipient::Group(group), content_flag, payload, repeat)
    }

    /// Sends to every online player, or to every node.
    #[pyo3(signature = (nodes, content_flag, payload, repeat=None))]
    fn broadcast(
        &mut self,
        nodes: bool,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
    ) -> PyResult<Option<u64>> {
        let recipient = if nodes {
            Recipient::AllNodes
        } else {
            Recipient::AllPlayers
        };
        self.send(recipient, content_flag, payload, repeat)
    }

    /// Whether the window has room for that payload.
    fn has_room(&self, payload: &[u8]) -> bool {
        self.node.has_room(payload)
    }

    /// Asks a service; the call, or None while too much waits.
    fn request(
        &mut self,
        now_ms: u64,
        service: &str,
        content_flag: u8,
        payload: &[u8],
        timeout_ms: u32,
    ) -> PyResult<Option<u64>> {
        full_is_none(self.node.request(
            now_ms,
            service,
            content(content_flag)?,
            payload,
            timeout_ms,
        ))
    }

    /// Asks the hub itself: 1 status, 2 nodes, 3 players.
    fn query(
        &mut self,
        now_ms: u64,
        what: u8,
        argument: &str,
        timeout_ms: u32,
    ) -> PyResult<Option<u64>> {
        full_is_none(self.node.query(now_ms, what, argument, timeout_ms))
    }

    /// Nobody waits for that answer any more.
    fn cancel(&mut self, call: u64) {
        self.node.cancel(call);
    }

    /// Answers a call; False: nobody waits for it.
    fn reply(&mut self, call: u64, ok: bool, content_flag: u8, payload: &[u8]) -> PyResult<bool> {
        self.node
            .reply(call, ok, content(content_flag)?, payload)
            .map_err(raise)
    }

    /// A player's client came. None: a login was asked for; else what its session has not acked yet.
    fn attach<'py>(
        &mut self,
        py: Python<'py>,
        player: &str,
        login: u64,
        cursor: Vec<Id>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let cursor = cursor.into_iter().map(id).collect();
        match self.node.attach(player, login, cursor).map_err(raise)? {
            Attached::Resumed(pending) => {
                PyList::new(py, pending.iter().map(|delivery| delivery_of(py, delivery))).map(Some)
            }
            Attached::LoginPending | Attached::Full => Ok(None),
        }
    }

    /// The login under which the player is hosted here.
    fn login_of(&self, player: &str) -> Option<u64> {
        self.node.login_of(player)
    }

    /// The player's client has handled all of that sender up to this id.
    fn handled(&mut self, player: &str, message: Id) {
        self.node.handled(player, id(message));
    }

    /// The player's client is gone; logged out after the grace time.
    fn detach(&mut self, now_ms: u64, player: &str) {
        self.node.detach(now_ms, player);
    }

    /// Logs the player out; False: it is not here.
    fn leave_player(&mut self, player: &str) -> bool {
        self.node.leave_player(player)
    }

    /// Joins a player to a group or takes it out; the request, or None while too many wait.
    fn member(
        &mut self,
        join: bool,
        durable: bool,
        group: &str,
        player: &str,
    ) -> PyResult<Option<u64>> {
        full_is_none(self.node.member(join, durable, group, player))
    }

    /// Asks for the presence stream, now and after each welcome.
    fn subscribe(&mut self, topics: u8) {
        self.node.subscribe(topics);
    }

    /// Says goodbye behind what waits, unless something is unreceipted.
    fn bye(&mut self) {
        self.node.handle_close();
    }

    /// No further connection.
    fn end(&mut self) {
        self.node.handle_end();
    }

    /// What it has counted since its start.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.node.counters();
        let dict = PyDict::new(py);
        for (name, value) in [
            ("links", counters.links),
            ("frames_in", counters.frames_in),
            ("messages_in", counters.messages_in),
            ("frames_out", counters.frames_out),
            ("sends", counters.sends),
            ("receipts", counters.receipts),
            ("violations", counters.violations),
            ("unreceipted", self.node.unreceipted() as u64),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

impl NodeCore {
    fn send(
        &mut self,
        recipient: Recipient,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
    ) -> PyResult<Option<u64>> {
        full_is_none(
            self.node
                .send(recipient, content(content_flag)?, payload, repeat),
        )
    }
}

fn delivery_of<'py>(py: Python<'py>, delivery: &Delivery) -> (Id, u8, Bound<'py, PyBytes>) {
    (
        numbers(delivery.id),
        delivery.content as u8,
        PyBytes::new(py, &delivery.payload),
    )
}

macro_rules! event {
    ($py:ident, $name:literal $(, $field:expr)*) => {
        (intern!($py, $name), $($field,)*).into_pyobject($py)
    };
}

/// The last payload and its Python object: recipients of one group message share it.
type Shared<'py> = Option<(Arc<[u8]>, Bound<'py, PyBytes>)>;

fn shared_bytes<'py>(
    py: Python<'py>,
    payload: Arc<[u8]>,
    shared: &mut Shared<'py>,
) -> Bound<'py, PyBytes> {
    match shared {
        Some((known, bytes)) if Arc::ptr_eq(known, &payload) => bytes.clone(),
        _ => {
            let bytes = PyBytes::new(py, &payload);
            *shared = Some((payload, bytes.clone()));
            bytes
        }
    }
}

fn report_of(py: Python<'_>, seq: u64, report: Report) -> PyResult<Bound<'_, PyTuple>> {
    let players = report.players.into_iter();
    let entries: Vec<(String, u8, String)> = players
        .map(|(name, (outcome, detail))| (name, outcome as u8, detail))
        .collect();
    event!(py, "report", seq, report.counts, entries, report.omitted)
}

fn tuple_of<'py>(
    py: Python<'py>,
    event: NodeEvent,
    shared: &mut Shared<'py>,
) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        NodeEvent::Connect => event!(py, "connect"),
        NodeEvent::Close { why } => event!(py, "close", why),
        NodeEvent::Up { hub_epoch } => event!(py, "up", hub_epoch),
        NodeEvent::Down { why } => event!(py, "down", why),
        NodeEvent::Refused { code, text } => event!(py, "refused", code, text),
        NodeEvent::Receipt {
            seq,
            outcome,
            detail,
        } => event!(py, "receipt", seq, outcome as u8, detail),
        NodeEvent::Report { seq, report } => report_of(py, seq, report),
        NodeEvent::Message {
            player,
            id,
            content,
            payload,
        } => {
            let bytes = shared_bytes(py, payload, shared);
            event!(py, "message", player, numbers(id), content as u8, bytes)
        }
        NodeEvent::Bound { player, login } => event!(py, "bound", player, login),
        NodeEvent::Dropped { player, why } => event!(py, "dropped", player, why),
        NodeEvent::LoggedOut { player } => event!(py, "logged_out", player),
        NodeEvent::Forget { player, up_to } => event!(py, "forget", player, numbers(up_to)),
        NodeEvent::Presence { snapshot, entries } => {
            let entries: Vec<(u8, String, String)> = entries
                .into_iter()
                .map(|(kind, name, node)| (kind as u8, name, node))
                .collect();
            event!(py, "presence", snapshot, entries)
        }
        NodeEvent::Call {
            call,
            from,
            deadline_ms,
            service,
            content,
            payload,
        } => {
            let (content, bytes) = (content as u8, PyBytes::new(py, &payload));
            event!(py, "call", call, from, deadline_ms, service, content, bytes)
        }
        NodeEvent::CallCancelled { call } => event!(py, "call_cancelled", call),
        NodeEvent::Answer {
            call,
            status,
            content,
            payload,
        } => {
            let (content, bytes) = (content as u8, PyBytes::new(py, &payload));
            event!(py, "answer", call, status as u8, content, bytes)
        }
        NodeEvent::Joined {
            request,
            ok,
            detail,
        } => event!(py, "joined", request, ok, detail),
    }
}

/// The stable hash of a node's name.
#[pyfunction]
#[pyo3(name = "node_key")]
fn py_node_key(name: &str) -> u64 {
    node_key(name)
}

/// Adds the classes and functions of this file.
///
/// # Errors
/// Python's.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NodeCore>()?;
    module.add_function(wrap_pyfunction!(py_node_key, module)?)
}
