//! `Hub` and `StoreBatch`: the hub on its own thread, its store on one of Python's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use zmqgame_core::bus::hub::trace::{Hop, hash, is_sampled};
use zmqgame_core::bus::hub::{Allowed, HubConfig, Sum};
use zmqgame_core::bus::message::{Content, Mark, MessageId};
use zmqgame_core::bus::store::{
    Moved, RosterEntry, Row, StoreBatch as Batch, StoreDone, StoreError, StoreOp,
};
use zmqgame_core::zmtp::{Config, Role, SecretKey, Security};
use zmqgame_reactor::bus::hub::HubRunner;
use zmqgame_reactor::bus::store::Mismatch;

use crate::store::{Purges, SqliteStore, failed, run_batches};
use crate::zmtp::key;

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Hub>()?;
    module.add_function(wrap_pyfunction!(message_hash, module)?)?;
    module.add_class::<StoreBatch>()
}

/// The hub, running since it was made.
#[pyclass(frozen)]
struct Hub {
    runner: HubRunner,
    handshake_ms: u64,
}

/// A key, the pattern of the names that it may have, and roles.
type AllowedKey = (Vec<u8>, String, Vec<String>);

#[pymethods]
impl Hub {
    #[new]
    #[pyo3(signature = (listen, *, hub_epoch, name = "hub", heartbeat_ms = 1_000, dead_ms = 3_000,
                        node_grace_ms = 5_000, hub_grace_ms = 3_000, handshake_ms = 5_000,
                        keep_ms = 2_592_000_000, player_messages = 1_000, player_bytes = 4_194_304,
                        curve_secret_key = None, previous_secret_key = None, allowed = vec![]))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python class"
    )]
    fn new(
        py: Python<'_>,
        listen: Vec<String>,
        hub_epoch: u32,
        name: &str,
        heartbeat_ms: u64,
        dead_ms: u64,
        node_grace_ms: u64,
        hub_grace_ms: u64,
        handshake_ms: u64,
        keep_ms: u64,
        player_messages: u64,
        player_bytes: u64,
        curve_secret_key: Option<&[u8]>,
        previous_secret_key: Option<&[u8]>,
        allowed: Vec<AllowedKey>,
    ) -> PyResult<Self> {
        if heartbeat_ms == 0 || dead_ms <= heartbeat_ms {
            return Err(PyValueError::new_err(format!(
                "dead_ms {dead_ms} must be above heartbeat_ms {heartbeat_ms}, and that above 0"
            )));
        }
        let (zmtp, allowed) =
            keys_of(curve_secret_key, previous_secret_key, allowed, handshake_ms)?;
        let mut hash_seed = [0; 8];
        zmqgame_reactor::random(&mut hash_seed)?;
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let config = HubConfig {
            hub_epoch,
            name: name.into(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
            hash_seed: u64::from_le_bytes(hash_seed),
            heartbeat_ms,
            dead_ms,
            node_grace_ms,
            hub_grace_ms,
            keep_ms,
            player_messages,
            player_bytes,
            allowed,
            ..HubConfig::default()
        };
        let runner = py.detach(|| HubRunner::start(config, zmtp, &listen));
        let runner = runner.map_err(|error| {
            let text = error.to_string();
            match error.kind() {
                std::io::ErrorKind::InvalidInput => PyValueError::new_err(text),
                _ => PyOSError::new_err(text),
            }
        })?;
        Ok(Self {
            runner,
            handshake_ms,
        })
    }

    #[getter]
    fn endpoints(&self) -> Vec<String> {
        self.runner.endpoints().to_vec()
    }

    /// Other keys for connections from now on; links whose key is no longer allowed are closed.
    #[pyo3(signature = (*, curve_secret_key, previous_secret_key = None, allowed = vec![]))]
    fn set_keys(
        &self,
        curve_secret_key: &[u8],
        previous_secret_key: Option<&[u8]>,
        allowed: Vec<AllowedKey>,
    ) -> PyResult<()> {
        let (zmtp, allowed) = keys_of(
            Some(curve_secret_key),
            previous_secret_key,
            allowed,
            self.handshake_ms,
        )?;
        if self.runner.set_keys(zmtp, allowed) {
            Ok(())
        } else {
            Err(PyRuntimeError::new_err("the hub has ended"))
        }
    }

    fn next_store_batch(&self, py: Python<'_>, timeout_ms: u64) -> Option<StoreBatch> {
        let batch = py.detach(|| self.runner.store().next(Duration::from_millis(timeout_ms)))?;
        Some(StoreBatch(batch))
    }

    /// Runs batches in `store` until something is to be told, at most so long, without the GIL.
    fn run_store(
        &self,
        py: Python<'_>,
        store: &SqliteStore,
        timeout_ms: u64,
    ) -> PyResult<(Vec<f64>, Purges, Option<String>)> {
        let ran = py.detach(|| run_batches(self.runner.store(), store, timeout_ms));
        ran.map_err(failed)
    }

    fn complete(&self, number: u64, results: Vec<Bound<'_, PyTuple>>) -> PyResult<()> {
        let done = results
            .iter()
            .map(store_done)
            .collect::<PyResult<Vec<_>>>()?;
        self.finish(number, Ok(done))
    }

    fn fail(&self, number: u64, reason: String) -> PyResult<()> {
        self.finish(number, Err(StoreError { reason }))
    }

    fn counters(&self, py: Python<'_>) -> BTreeMap<String, u64> {
        py.detach(|| self.runner.counters().into_iter().collect())
    }

    fn status(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        let status = py.detach(|| self.runner.status());
        let status = status.ok_or_else(|| PyRuntimeError::new_err("the hub has ended"))?;
        Ok(PyBytes::new(py, status.as_bytes()).unbind())
    }

    fn metrics(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        let metrics = py.detach(|| self.runner.metrics());
        let metrics = metrics.ok_or_else(|| PyRuntimeError::new_err("the hub has ended"))?;
        Ok(PyBytes::new(py, metrics.as_bytes()).unbind())
    }

    /// Hops that were recorded, and sums of the seconds that are over.
    #[pyo3(signature = (hops, *, all = false))]
    fn take_trace(&self, py: Python<'_>, hops: usize, all: bool) -> (Vec<HopTuple>, Vec<SumTuple>) {
        let taken = py.detach(|| self.runner.take_trace(hops, all));
        let (hops, sums) = taken.unwrap_or_default();
        (
            hops.into_iter().map(hop_tuple).collect(),
            sums.into_iter().map(sum_tuple).collect(),
        )
    }

    fn set_note(&self, json: String) {
        self.runner.set_note(json);
    }

    /// Log lines since the last call: event, kind, address, text.
    fn take_log(&self) -> Vec<(&'static str, &'static str, String, String)> {
        let lines = self.runner.take_log().into_iter();
        lines
            .map(|line| (line.event, line.kind, line.address, line.text))
            .collect()
    }

    fn stop(&self, drain_ms: u64) {
        self.runner.stop(drain_ms);
    }

    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> Option<String> {
        py.detach(|| self.runner.wait(Duration::from_millis(timeout_ms)))
    }
}

impl Hub {
    fn finish(&self, number: u64, result: Result<Vec<StoreDone>, StoreError>) -> PyResult<()> {
        self.runner
            .store()
            .finish(number, result)
            .map_err(|mismatch| {
                PyValueError::new_err(match mismatch {
                    Mismatch::Number(number) => format!("batch {number} is not under way"),
                    Mismatch::Length {
                        operations,
                        results,
                    } => {
                        format!("{results} results for {operations} operations")
                    }
                })
            })
    }
}

/// The socket's side of the keys, and the hub's.
fn keys_of(
    secret: Option<&[u8]>,
    previous: Option<&[u8]>,
    allowed: Vec<AllowedKey>,
    handshake_ms: u64,
) -> PyResult<(Config, Vec<Allowed>)> {
    let allowed = allowed
        .into_iter()
        .map(allowed_key)
        .collect::<PyResult<Vec<_>>>()?;
    let security = match secret {
        None if allowed.is_empty() && previous.is_none() => Security::Null,
        None => return Err(PyValueError::new_err("allowed keys need curve_secret_key")),
        Some(secret) => Security::CurveServer {
            secret: SecretKey::new(key(secret, "curve_secret_key")?),
            allowed: (!allowed.is_empty())
                .then(|| allowed.iter().map(|a| a.key).collect::<BTreeSet<_>>()),
        },
    };
    let mut zmtp = Config::new(Role::Server, security);
    zmtp.handshake_ms = handshake_ms;
    if let Some(previous) = previous {
        zmtp = zmtp.with_previous(SecretKey::new(key(previous, "previous_secret_key")?));
    }
    Ok((zmtp, allowed))
}

fn allowed_key((bytes, names, roles): AllowedKey) -> PyResult<Allowed> {
    let key = key(&bytes, "an allowed key")?;
    Ok(Allowed { key, names, roles })
}

/// Operations of one transaction.
#[pyclass(frozen)]
struct StoreBatch(Batch);

#[pymethods]
impl StoreBatch {
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }

    #[getter]
    fn ops<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        self.0.ops.iter().map(|op| operation(py, op)).collect()
    }

    fn __len__(&self) -> usize {
        self.0.ops.len()
    }
}

/// The operations that bring a payload.
fn carrying<'py>(py: Python<'py>, op: &StoreOp) -> PyResult<Bound<'py, PyTuple>> {
    match op {
        StoreOp::Append {
            player,
            id,
            deadline_ms,
            content,
            payload,
            first,
        } => (
            "append",
            &**player,
            id.node_key,
            id.epoch,
            id.seq,
            deadline_ms,
            *content as u8,
            PyBytes::new(py, payload),
            first,
        )
            .into_pyobject(py),
        StoreOp::Defer {
            player,
            id,
            deliver_at_ms,
            deadline_ms,
            content,
            payload,
            first,
        } => (
            "defer",
            &**player,
            id.node_key,
            id.epoch,
            id.seq,
            deliver_at_ms,
            deadline_ms,
            *content as u8,
            PyBytes::new(py, payload),
            first,
        )
            .into_pyobject(py),
        _ => unreachable!("operation() gives only what carries a payload"),
    }
}

fn operation<'py>(py: Python<'py>, op: &StoreOp) -> PyResult<Bound<'py, PyTuple>> {
    match op {
        StoreOp::Open { hub_epoch, unix_ms } => ("open", hub_epoch, unix_ms).into_pyobject(py),
        StoreOp::Append { .. } | StoreOp::Defer { .. } => carrying(py, op),
        StoreOp::Due { unix_ms, limit } => ("due", unix_ms, limit).into_pyobject(py),
        StoreOp::Expire { unix_ms, limit } => ("expire", unix_ms, limit).into_pyobject(py),
        StoreOp::Admin { json } => ("admin", json).into_pyobject(py),
        StoreOp::Read {
            player,
            after_row,
            limit,
        } => ("read", &**player, after_row, limit).into_pyobject(py),
        StoreOp::Accepted { player } => ("accepted", &**player).into_pyobject(py),
        StoreOp::Settle { player, up_to } => ("settle", &**player, up_to).into_pyobject(py),
        StoreOp::Logout { player, cursor } => {
            let cursor: Vec<_> = cursor
                .iter()
                .map(|m| (m.node_key, m.epoch, m.seq))
                .collect();
            ("logout", &**player, cursor).into_pyobject(py)
        }
        StoreOp::Trim {
            player,
            sender,
            epoch,
            seq,
        } => ("trim", &**player, sender, epoch, seq).into_pyobject(py),
        StoreOp::Know { player } => ("know", &**player).into_pyobject(py),
        StoreOp::Join { group, player } => ("join", &**group, &**player).into_pyobject(py),
        StoreOp::Leave { group, player } => ("leave", &**group, &**player).into_pyobject(py),
        StoreOp::Roster { entry } => (
            "roster",
            entry.node_key,
            &*entry.name,
            entry.epoch,
            entry.linked,
        )
            .into_pyobject(py),
    }
}

/// Unix time in microseconds, what, id, player, node, row, detail.
type HopTuple = (
    u64,
    &'static str,
    (u64, u64, u64),
    String,
    String,
    u64,
    String,
);

fn hop_tuple(hop: Hop) -> HopTuple {
    let id = (hop.id.node_key, hop.id.epoch, hop.id.seq);
    let (player, node) = (hop.player.to_string(), hop.node.to_string());
    (
        hop.at_us,
        hop.kind.name(),
        id,
        player,
        node,
        hop.row,
        hop.detail.into_owned(),
    )
}

/// Second, outcome, sender, host, messages, sum of the hashed ids.
type SumTuple = (u64, &'static str, String, String, u64, u64);

fn sum_tuple(sum: Sum) -> SumTuple {
    let (sender, host) = (sum.sender.to_string(), sum.host.to_string());
    (
        sum.second,
        sum.outcome,
        sender,
        host,
        sum.messages,
        sum.id_sum,
    )
}

/// The hash of a message id that sums are made of, and whether such a message is sampled.
#[pyfunction]
fn message_hash(node_key: u64, epoch: u64, seq: u64) -> (u64, bool) {
    let id = MessageId {
        node_key,
        epoch,
        seq,
    };
    (hash(id), is_sampled(id))
}

type RowTuple<'a> = (u64, u64, u64, u64, u64, u8, &'a [u8]);

fn due(result: &Bound<'_, PyTuple>) -> PyResult<StoreDone> {
    let moved: Vec<(String, u64, u64, u64, u64)> = result.get_item(1)?.extract()?;
    let moved = moved
        .into_iter()
        .map(|(player, key, epoch, at, seq)| Moved {
            player: player.into(),
            id: MessageId {
                node_key: key,
                epoch,
                seq: at,
            },
            seq,
        });
    Ok(StoreDone::Due {
        moved: moved.collect(),
        next_ms: result.get_item(2)?.extract()?,
    })
}

fn opened(result: &Bound<'_, PyTuple>) -> PyResult<StoreDone> {
    let roster: Vec<(u64, String, u64, bool)> = result.get_item(2)?.extract()?;
    let groups: Vec<(String, String)> = result.get_item(3)?.extract()?;
    let entry = |(node_key, name, epoch, linked): (u64, String, u64, bool)| RosterEntry {
        node_key,
        name: name.into(),
        epoch,
        linked,
    };
    Ok(StoreDone::Opened {
        hub_epoch_highest: result.get_item(1)?.extract()?,
        roster: roster.into_iter().map(entry).collect(),
        groups: groups
            .into_iter()
            .map(|(group, player)| (group.into(), player.into()))
            .collect(),
        next_due_ms: result.get_item(4)?.extract()?,
    })
}

fn store_done(result: &Bound<'_, PyTuple>) -> PyResult<StoreDone> {
    let name: String = result.get_item(0)?.extract()?;
    match name.as_str() {
        "appended" => Ok(StoreDone::Appended),
        "passed" => Ok(StoreDone::Passed),
        "unknown_player" => Ok(StoreDone::UnknownPlayer),
        "full" => Ok(StoreDone::Full),
        "over_quota" => Ok(StoreDone::OverQuota {
            messages: result.get_item(1)?.extract()?,
            bytes: result.get_item(2)?.extract()?,
        }),
        "due" => due(result),
        "expired" => Ok(StoreDone::Expired {
            count: result.get_item(1)?.extract()?,
            marks: player_marks(&result.get_item(2)?)?,
        }),
        "text" => Ok(StoreDone::Text {
            json: result.get_item(1)?.extract()?,
        }),
        "done" => Ok(StoreDone::Done),
        "rows" => {
            let items = result.get_item(1)?;
            let rows = items
                .try_iter()?
                .map(|item| row(&item?))
                .collect::<PyResult<Vec<_>>>()?;
            let end = result.get_item(2)?.extract()?;
            Ok(StoreDone::Rows { rows, end })
        }
        "marks" => {
            let marks: Vec<(u64, u64, u64)> = result.get_item(1)?.extract()?;
            let marks = marks.into_iter().map(|(node_key, epoch, seq)| Mark {
                node_key,
                epoch,
                seq,
            });
            Ok(StoreDone::Marks {
                marks: marks.collect(),
            })
        }
        "opened" => opened(result),
        other => Err(PyValueError::new_err(format!(
            "a store has no result {other:?}"
        ))),
    }
}

/// Marks, each with its player.
fn player_marks(items: &Bound<'_, PyAny>) -> PyResult<Vec<(Arc<str>, Mark)>> {
    let marks: Vec<(String, u64, u64, u64)> = items.extract()?;
    let mark = |(player, node_key, epoch, seq): (String, u64, u64, u64)| {
        let mark = Mark {
            node_key,
            epoch,
            seq,
        };
        (Arc::from(player), mark)
    };
    Ok(marks.into_iter().map(mark).collect())
}

fn row(item: &Bound<'_, PyAny>) -> PyResult<Row> {
    let (row, node_key, epoch, seq, deadline_ms, content, payload): RowTuple<'_> =
        item.extract()?;
    let content = match content {
        0 => Content::Bytes,
        1 => Content::Text,
        2 => Content::Json,
        other => return Err(PyValueError::new_err(format!("a row with content {other}"))),
    };
    Ok(Row {
        row,
        id: MessageId {
            node_key,
            epoch,
            seq,
        },
        deadline_ms,
        content,
        payload: Arc::from(payload),
    })
}
