//! The node's state machine for Python: frames in, batches of events out. No call per packet where many arrive.

use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use zmqgame_core::bus::message::{Content, MessageId as Id, Policy, node_key};
use zmqgame_core::bus::node::hosting::Attached;
use zmqgame_core::bus::node::sender::{Recipient, SendOptions};
use zmqgame_core::bus::node::{Node, NodeConfig, NodeError};
use zmqgame_core::zmtp::{SecretKey, Security};
use zmqgame_reactor::bus::dealer::{Dealer, DealerConfig};
use zmqgame_reactor::bus::dealer_thread::NativeNode;

use crate::node_driver::Driver;
use crate::node_events::{self, Shared};
use crate::node_receipts::Receipts;
use crate::node_values::{Delivery, MessageId};
use crate::zmtp::key;

/// The outcomes by their numbers, as Python's `zmqgame_bus.messages.OUTCOMES` has them.
type Numbers = (u64, u64, u64);

fn raise(error: NodeError) -> PyErr {
    match error {
        NodeError::Wire(error) => PyValueError::new_err(error.to_string()),
        NodeError::SeqUsed => {
            PyValueError::new_err("the message id is below what this epoch has sent")
        }
        NodeError::Options => PyValueError::new_err(
            "deliver_at is for one player and must-deliver, key for latest, message_id for must-deliver",
        ),
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

fn id((node_key, epoch, seq): Numbers) -> Id {
    Id {
        node_key,
        epoch,
        seq,
    }
}

/// How a message is to be treated: policy, key, deadline, deliver-at, trace, quiet.
type Options = (u8, String, u64, u64, bool, bool);

fn options(given: Option<&Options>, repeat: Option<u64>) -> PyResult<SendOptions<'_>> {
    let Some((policy, key, deadline_ms, deliver_at_ms, trace, quiet)) = given else {
        return Ok(SendOptions {
            repeat,
            ..SendOptions::default()
        });
    };
    let policy = match policy {
        0 => Policy::MustDeliver,
        1 => Policy::Latest,
        2 => Policy::Droppable,
        _ => {
            return Err(PyValueError::new_err(
                "policy is 0 must-deliver, 1 latest or 2 droppable",
            ));
        }
    };
    Ok(SendOptions {
        policy,
        key,
        deadline_ms: *deadline_ms,
        deliver_at_ms: *deliver_at_ms,
        trace: *trace,
        quiet: *quiet,
        repeat,
    })
}

/// A payload as it goes on the wire: bytes, text, or what orjson makes of it.
enum Payload<'py> {
    Bytes(Bound<'py, PyBytes>),
    Text(Bound<'py, PyString>),
    Json(Bound<'py, PyBytes>),
}

impl<'py> Payload<'py> {
    fn of(value: Bound<'py, PyAny>) -> PyResult<Self> {
        let value = match value.cast_into::<PyBytes>() {
            Ok(bytes) => return Ok(Self::Bytes(bytes)),
            Err(error) => error.into_inner(),
        };
        let value = match value.cast_into::<PyString>() {
            Ok(text) => return Ok(Self::Text(text)),
            Err(error) => error.into_inner(),
        };
        let py = value.py();
        let dumped = py
            .import(intern!(py, "orjson"))?
            .call_method1(intern!(py, "dumps"), (value,))?;
        Ok(Self::Json(dumped.cast_into()?))
    }

    fn get(&self) -> PyResult<(Content, &[u8])> {
        Ok(match self {
            Self::Bytes(bytes) => (Content::Bytes, bytes.as_bytes()),
            Self::Text(text) => (Content::Text, text.to_str()?.as_bytes()),
            Self::Json(bytes) => (Content::Json, bytes.as_bytes()),
        })
    }
}

/// A node of the bus. Without a socket: the owner obeys the events and carries the frames; or with one of its own.
#[pyclass(module = "zmqgame_native")]
pub struct NodeCore {
    driver: Driver,
    receipts: Receipts,
    name: std::sync::Arc<str>,
    epoch: u64,
}

/// The server's public key and the node's secret one.
type Keys = (Vec<u8>, Vec<u8>);

fn curve((server, secret): &Keys) -> PyResult<Security> {
    Ok(Security::CurveClient {
        server: key(server, "the hub's public key")?,
        secret: SecretKey::new(key(secret, "the secret key")?),
    })
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
            name: name.clone(),
            epoch,
            connection,
            roles,
            next_seq,
        };
        let node =
            Node::new(config, now_ms).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            driver: Driver::Frames(Box::new(node)),
            receipts: Receipts::default(),
            name: name.into(),
            epoch,
        })
    }

    /// A node with a socket of its own, on the owner's thread or on one of its own.
    #[staticmethod]
    #[pyo3(signature = (now_ms, name, epoch, connection, roles, next_seq, *, hub, keys=None, thread=false))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python class"
    )]
    fn native(
        now_ms: u64,
        name: String,
        epoch: u64,
        connection: u64,
        roles: Vec<String>,
        next_seq: u64,
        hub: String,
        keys: Option<Keys>,
        thread: bool,
    ) -> PyResult<Self> {
        let security = match keys {
            None => Security::Null,
            Some(keys) => curve(&keys)?,
        };
        let config = DealerConfig {
            node: NodeConfig {
                name: name.clone(),
                epoch,
                connection,
                roles,
                next_seq,
            },
            endpoint: hub,
            security,
            now_ms,
        };
        let driver = if thread {
            NativeNode::start(config).map(Driver::threaded)
        } else {
            Dealer::new(config).map(|dealer| Driver::Inline(Box::new(dealer)))
        };
        let driver = driver.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
            _ => PyOSError::new_err(error.to_string()),
        })?;
        Ok(Self {
            driver,
            receipts: Receipts::default(),
            name: name.into(),
            epoch,
        })
    }

    /// The stable hash of the node's name.
    #[getter]
    fn key(&self) -> u64 {
        self.driver.key()
    }

    /// Whether the hub has welcomed it.
    #[getter]
    fn up(&self) -> bool {
        self.driver.look(Node::is_up)
    }

    /// The version that is spoken with the hub and the bits of its features; None while it is not there.
    #[getter]
    fn hub(&self) -> Option<(u16, u64)> {
        self.driver.look(Node::hub)
    }

    /// Whether `events` has something, without a socket's having said so.
    #[getter]
    fn has_events(&self) -> bool {
        self.driver.look(Node::has_events)
    }

    /// How many messages wait for a final receipt.
    #[getter]
    fn unreceipted(&self) -> usize {
        self.driver.look(Node::unreceipted)
    }

    /// Frames of the hub, in order.
    fn receive(&mut self, now_ms: u64, random: u64, frames: Vec<Bound<'_, PyBytes>>) {
        self.driver.with(|node| {
            for frame in &frames {
                node.handle_frame(now_ms, random, frame.as_bytes());
            }
        });
    }

    /// Does what is due.
    fn timeout(&mut self, now_ms: u64, random: u64) {
        match &mut self.driver {
            Driver::Frames(node) => node.handle_timeout(now_ms, random),
            driver => driver.turn(),
        }
    }

    /// When `timeout` is to be called at the latest; None: never.
    fn next_timeout(&self) -> Option<u64> {
        self.driver.next_timeout()
    }

    /// The connection broke, or could not be made.
    fn disconnected(&mut self, now_ms: u64, random: u64, why: &str) {
        self.driver
            .with(|node| node.handle_disconnected(now_ms, random, why));
    }

    /// The next frame to write, if there is one.
    fn frame<'py>(&mut self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        self.driver
            .with(|node| node.poll_frame(now_ms))
            .map(|frame| PyBytes::new(py, &frame))
    }

    /// Whether `frame` may give something.
    fn has_unsent(&self) -> bool {
        self.driver.look(Node::has_unsent)
    }

    /// All events since the last call, in order, as tuples that begin with their name.
    fn events<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        node_events::take(py, &mut self.driver, &mut self.receipts)
    }

    /// What is to be watched for reading, of a node with a socket: then call `turn` and `events`.
    fn fileno(&self) -> PyResult<i32> {
        self.driver
            .descriptor()
            .ok_or_else(|| PyValueError::new_err("a node without a socket has no descriptor"))
    }

    /// Reads what is there and does what is due, of a node with a socket; then as `events`.
    fn turn<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.driver.turn();
        node_events::take(py, &mut self.driver, &mut self.receipts)
    }

    /// Writes what waits, as far as the socket takes it, of a node with a socket; when to call `turn` at the latest.
    fn flush(&mut self) -> Option<u64> {
        self.driver.flush();
        self.driver.next_timeout()
    }

    /// Whether all that was sent is with the kernel.
    #[getter]
    fn flushed(&self) -> bool {
        self.driver.is_flushed()
    }

    /// What the last failed handshake says about keys; empty if nothing.
    #[getter]
    fn key_trouble(&self) -> String {
        self.driver.key_trouble()
    }

    /// The keys of the next connection of a native socket: the hub's public key, the node's secret.
    fn set_keys(&mut self, keys: Keys) -> PyResult<()> {
        self.driver.set_security(curve(&keys)?);
        Ok(())
    }

    /// Sends to a player; the seq, or None while the window is full.
    #[pyo3(signature = (player, content_flag, payload, repeat=None, options=None))]
    fn unicast(
        &mut self,
        player: String,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
        options: Option<Options>,
    ) -> PyResult<Option<u64>> {
        self.send(
            Recipient::Player(player.into()),
            content_flag,
            payload,
            repeat,
            options.as_ref(),
        )
    }

    /// Sends to the members of a group.
    #[pyo3(signature = (group, content_flag, payload, repeat=None, options=None))]
    fn multicast(
        &mut self,
        group: String,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
        options: Option<Options>,
    ) -> PyResult<Option<u64>> {
        self.send(
            Recipient::Group(group.into()),
            content_flag,
            payload,
            repeat,
            options.as_ref(),
        )
    }

    /// Sends to every online player, or to every node.
    #[pyo3(signature = (nodes, content_flag, payload, repeat=None, options=None))]
    fn broadcast(
        &mut self,
        nodes: bool,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
        options: Option<Options>,
    ) -> PyResult<Option<u64>> {
        let recipient = if nodes {
            Recipient::AllNodes
        } else {
            Recipient::AllPlayers
        };
        self.send(recipient, content_flag, payload, repeat, options.as_ref())
    }

    /// Sends to a player; the id, or None while the window is full. Its receipt is only counted.
    #[pyo3(signature = (player, payload, options=None))]
    fn post(
        &mut self,
        player: String,
        payload: Bound<'_, PyAny>,
        options: Option<Options>,
    ) -> PyResult<Option<MessageId>> {
        let payload = Payload::of(payload)?;
        let (content, bytes) = payload.get()?;
        let to = Recipient::Player(player.into());
        let options = self::options(options.as_ref(), None)?;
        let sent = full_is_none(
            self.driver
                .with(|node| node.send_with(to, content, bytes, &options)),
        )?;
        let Some(seq) = sent else {
            return Ok(None);
        };
        if !options.quiet {
            self.receipts.posted(seq);
        }
        Ok(Some(self.id_of(seq)))
    }

    /// What became of posted messages, by outcome; the first: still waiting.
    fn posted(&self) -> Vec<u64> {
        self.receipts.posted.to_vec()
    }

    /// Sends (player, payload) from position `start` on: the first seq and how many were taken before the window was
    /// full. Their receipts come as one event `batch`.
    #[pyo3(signature = (messages, start, options=None))]
    fn unicast_many(
        &mut self,
        messages: &Bound<'_, PyAny>,
        start: usize,
        options: Option<Options>,
    ) -> PyResult<(u64, usize)> {
        let messages = messages.cast::<PyList>()?;
        let options = self::options(options.as_ref(), None)?;
        let receipts = &mut self.receipts;
        self.driver.with(|node| {
            let (mut first, mut taken) = (0, 0);
            let mut result = Ok(());
            for at in start..messages.len() {
                match send_one(node, messages.get_item(at), &options) {
                    Ok(Some(seq)) if taken == 0 => (first, taken) = (seq, 1),
                    Ok(Some(_)) => taken += 1,
                    Ok(None) => break,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            if taken > 0 {
                receipts.batch(first, taken);
            }
            // What was taken before a bad one is on its way: the caller hears of that one at its position.
            if taken > 0 {
                Ok((first, taken))
            } else {
                result.map(|()| (0, 0))
            }
        })
    }

    /// Whether the window has room for that payload.
    fn has_room(&self, payload: &[u8]) -> bool {
        self.driver.look(|node| node.has_room(payload))
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
        let content = content(content_flag)?;
        full_is_none(
            self.driver
                .with(|node| node.request(now_ms, service, content, payload, timeout_ms)),
        )
    }

    /// Asks the hub itself: 1 status, 2 nodes, 3 players.
    fn query(
        &mut self,
        now_ms: u64,
        what: u8,
        argument: &str,
        timeout_ms: u32,
    ) -> PyResult<Option<u64>> {
        full_is_none(
            self.driver
                .with(|node| node.query(now_ms, what, argument, timeout_ms)),
        )
    }

    /// Nobody waits for that answer any more.
    fn cancel(&mut self, call: u64) {
        self.driver.with(|node| node.cancel(call));
    }

    /// Answers a call; False: nobody waits for it.
    fn reply(&mut self, call: u64, ok: bool, content_flag: u8, payload: &[u8]) -> PyResult<bool> {
        let content = content(content_flag)?;
        self.driver
            .with(|node| node.reply(call, ok, content, payload))
            .map_err(raise)
    }

    /// A player's client came. None: a login was asked for; else what its session has not acked yet.
    fn attach<'py>(
        &mut self,
        py: Python<'py>,
        player: &str,
        login: u64,
        cursor: Vec<Numbers>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let cursor = cursor.into_iter().map(id).collect();
        let attached = self
            .driver
            .with(|node| node.attach(player, login, cursor))
            .map_err(raise)?;
        let Attached::Resumed(pending) = attached else {
            return Ok(None);
        };
        let (list, mut shared) = (PyList::empty(py), Shared::default());
        for delivery in pending {
            let bytes = shared.bytes(py, &delivery.payload).unbind();
            let content = delivery.content as u8;
            let mut shown = Delivery::new(player.into(), delivery.id, content, bytes);
            shown.traced = delivery.traced;
            list.append(shown.into_pyobject(py)?)?;
        }
        Ok(Some(list))
    }

    /// The login under which the player is hosted here.
    fn login_of(&self, player: &str) -> Option<u64> {
        self.driver.look(|node| node.login_of(player))
    }

    /// The player's client has handled all of that sender up to this id.
    fn handled(&mut self, player: &str, message: Numbers) {
        self.driver.with(|node| node.handled(player, id(message)));
    }

    /// The players' clients have handled these, in order.
    fn handled_many(&mut self, deliveries: &Bound<'_, PyList>) -> PyResult<()> {
        let deliveries = deliveries
            .iter()
            .map(|delivery| delivery.cast_into::<Delivery>())
            .collect::<Result<Vec<_>, _>>()?;
        self.driver.with(|node| {
            for delivery in &deliveries {
                let delivery = delivery.get();
                node.handled(&delivery.player, delivery.id);
            }
        });
        Ok(())
    }

    /// The player's client is gone; logged out after the grace time.
    fn detach(&mut self, now_ms: u64, player: &str) {
        self.driver.with(|node| node.detach(now_ms, player));
    }

    /// Logs the player out; False: it is not here.
    fn leave_player(&mut self, player: &str) -> bool {
        self.driver.with(|node| node.leave_player(player))
    }

    /// Joins a player to a group or takes it out; the request, or None while too many wait.
    fn member(
        &mut self,
        join: bool,
        durable: bool,
        group: &str,
        player: &str,
    ) -> PyResult<Option<u64>> {
        full_is_none(
            self.driver
                .with(|node| node.member(join, durable, group, player)),
        )
    }

    /// Asks for the presence stream, now and after each welcome.
    fn subscribe(&mut self, topics: u8) {
        self.driver.with(|node| node.subscribe(topics));
    }

    /// Says goodbye behind what waits, unless something is unreceipted.
    fn bye(&mut self) {
        self.driver.with(Node::handle_close);
    }

    /// No further connection; the one there is gets closed.
    fn end(&mut self, py: Python<'_>) {
        let driver = &mut self.driver;
        py.detach(|| driver.end());
    }

    /// What it has counted since its start.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (counters, unreceipted) = self
            .driver
            .look(|node| (*node.counters(), node.unreceipted()));
        let dict = PyDict::new(py);
        for (name, value) in [
            ("links", counters.links),
            ("frames_in", counters.frames_in),
            ("messages_in", counters.messages_in),
            ("frames_out", counters.frames_out),
            ("sends", counters.sends),
            ("receipts", counters.receipts),
            ("violations", counters.violations),
            ("unreceipted", unreceipted as u64),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

fn send_one(
    node: &mut Node,
    message: PyResult<Bound<'_, PyAny>>,
    options: &SendOptions<'_>,
) -> PyResult<Option<u64>> {
    let message = message?;
    let pair = message.cast::<PyTuple>()?;
    let player: String = pair.get_item(0)?.extract()?;
    let payload = Payload::of(pair.get_item(1)?)?;
    let (content, bytes) = payload.get()?;
    full_is_none(node.send_with(Recipient::Player(player.into()), content, bytes, options))
}

impl NodeCore {
    fn id_of(&self, seq: u64) -> MessageId {
        let id = Id {
            node_key: self.driver.key(),
            epoch: self.epoch,
            seq,
        };
        MessageId::new(id, Some(std::sync::Arc::clone(&self.name)))
    }

    fn send(
        &mut self,
        recipient: Recipient,
        content_flag: u8,
        payload: &[u8],
        repeat: Option<u64>,
        given: Option<&Options>,
    ) -> PyResult<Option<u64>> {
        let (content, options) = (content(content_flag)?, options(given, repeat)?);
        full_is_none(
            self.driver
                .with(|node| node.send_with(recipient, content, payload, &options)),
        )
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
    module.add_class::<MessageId>()?;
    module.add_class::<Delivery>()?;
    module.add_function(wrap_pyfunction!(py_node_key, module)?)
}
