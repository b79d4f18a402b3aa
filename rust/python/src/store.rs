//! `SqliteStore`: the mailbox in SQLite, run from Python or beside a `Hub` without the GIL.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use zmqgame_core::bus::message::{Content, MessageId};
use zmqgame_core::bus::store::{RosterEntry, StoreDone, StoreError, StoreOp};
use zmqgame_reactor::bus::store::StoreQueue;
use zmqgame_store::{Failure, Options, Steps, Store};

pyo3::create_exception!(
    zmqgame_native,
    StoreFailed,
    pyo3::exceptions::PyException,
    "Kind (unavailable, replaced, damaged), reason and hint."
);

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("StoreFailed", module.py().get_type::<StoreFailed>())?;
    module.add_class::<SqliteStore>()
}

/// A failure as Python sees it.
pub fn failed(failure: Failure) -> PyErr {
    let (kind, reason, hint) = match failure {
        Failure::Unavailable(reason) => ("unavailable", reason, String::new()),
        Failure::Replaced(reason) => ("replaced", reason, String::new()),
        Failure::Damaged { reason, hint } => ("damaged", reason, hint),
    };
    StoreFailed::new_err((kind, reason, hint))
}

/// See zmqgame_native.pyi.
#[pyclass(frozen)]
pub struct SqliteStore(Mutex<Store>);

impl SqliteStore {
    fn lock(&self) -> MutexGuard<'_, Store> {
        // After a panic the files say what is true; a batch reads them again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(unix.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn steps(hook: Py<PyAny>) -> Steps {
    Steps::new(move |step| {
        Python::attach(|py| match hook.call1(py, (step,)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.value(py).to_string()),
        })
    })
}

#[pymethods]
impl SqliteStore {
    #[new]
    #[pyo3(signature = (path, *, power_loss, max_bytes, player_messages, player_bytes, on_step = None))]
    fn new(
        py: Python<'_>,
        path: std::path::PathBuf,
        power_loss: bool,
        max_bytes: i64,
        player_messages: u64,
        player_bytes: u64,
        on_step: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = Options {
            path,
            power_loss,
            max_bytes,
            player_messages,
            player_bytes,
            steps: on_step.map(steps).unwrap_or_default(),
        };
        let store = py.detach(|| Store::open(options)).map_err(failed)?;
        Ok(Self(Mutex::new(store)))
    }

    fn highest_epoch(&self, py: Python<'_>) -> PyResult<u32> {
        py.detach(|| self.lock().highest_epoch()).map_err(failed)
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        operations: Vec<Bound<'py, PyTuple>>,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let ops = operations
            .iter()
            .map(store_op)
            .collect::<PyResult<Vec<_>>>()?;
        let done = py.detach(|| self.lock().run(&ops, unix_ms()));
        let done = done.map_err(failed)?;
        done.iter().map(|done| result(py, done)).collect()
    }

    fn idle(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.lock().idle()).map_err(failed)
    }

    fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.lock().let_go()).map_err(failed)
    }
}

/// Questions of operators that deleted messages, and their answers.
pub type Purges = Vec<(String, String)>;

/// Batches that end a call: their times are to be seen while there is no pause between them.
const BATCHES_A_CALL: usize = 10_000;

/// The times of the batches that were run, and what is to be logged: purges, and why the last batch failed.
pub fn run_batches(
    queue: &StoreQueue,
    store: &SqliteStore,
    timeout_ms: u64,
) -> Result<(Vec<f64>, Purges, Option<String>), Failure> {
    let until = Instant::now() + Duration::from_millis(timeout_ms);
    let (mut times, mut purges) = (Vec::new(), Vec::new());
    let mut store = store.lock();
    while times.len() < BATCHES_A_CALL && purges.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let Some(batch) = queue.next(left) else {
            break;
        };
        let began = Instant::now();
        let done = match store.run(&batch.ops, unix_ms()) {
            Ok(done) => done,
            Err(Failure::Unavailable(reason)) => {
                let _ = queue.finish(
                    batch.number,
                    Err(StoreError {
                        reason: reason.clone(),
                    }),
                );
                return Ok((times, purges, Some(reason)));
            }
            Err(other) => return Err(other),
        };
        for (op, done) in batch.ops.iter().zip(&done) {
            if let (StoreOp::Admin { json: asked }, StoreDone::Text { json }) = (op, done)
                && asked.contains("purge")
            {
                purges.push((asked.clone(), json.clone()));
            }
        }
        // Of the batch that was taken above, with as many results.
        let _ = queue.finish(batch.number, Ok(done));
        times.push(began.elapsed().as_secs_f64());
    }
    Ok((times, purges, None))
}

fn content(value: u8) -> PyResult<Content> {
    match value {
        0 => Ok(Content::Bytes),
        1 => Ok(Content::Text),
        2 => Ok(Content::Json),
        other => Err(PyValueError::new_err(format!("no content {other}"))),
    }
}

fn id((node_key, epoch, seq): (u64, u64, u64)) -> MessageId {
    MessageId {
        node_key,
        epoch,
        seq,
    }
}

/// The fields of an operation, by place.
struct Fields<'a, 'py>(&'a Bound<'py, PyTuple>);

impl Fields<'_, '_> {
    fn text(&self, at: usize) -> PyResult<std::sync::Arc<str>> {
        Ok(self.0.get_item(at)?.extract::<String>()?.into())
    }

    fn long(&self, at: usize) -> PyResult<u64> {
        self.0.get_item(at)?.extract()
    }

    fn int(&self, at: usize) -> PyResult<u32> {
        self.0.get_item(at)?.extract()
    }

    /// False where there is none.
    fn flag(&self, at: usize) -> PyResult<bool> {
        if at < self.0.len() {
            self.0.get_item(at)?.extract()
        } else {
            Ok(false)
        }
    }

    fn bytes(&self, at: usize) -> PyResult<std::sync::Arc<[u8]>> {
        Ok(self.0.get_item(at)?.extract::<Vec<u8>>()?.into())
    }

    fn content(&self, at: usize) -> PyResult<Content> {
        content(self.0.get_item(at)?.extract()?)
    }

    fn message(&self) -> PyResult<MessageId> {
        Ok(id((self.long(2)?, self.long(3)?, self.long(4)?)))
    }
}

/// The other way of `hub::operation`.
fn store_op(operation: &Bound<'_, PyTuple>) -> PyResult<StoreOp> {
    let name: String = operation.get_item(0)?.extract()?;
    let of = Fields(operation);
    Ok(match name.as_str() {
        "append" => StoreOp::Append {
            player: of.text(1)?,
            id: of.message()?,
            deadline_ms: of.long(5)?,
            content: of.content(6)?,
            payload: of.bytes(7)?,
            first: of.flag(8)?,
        },
        "defer" => StoreOp::Defer {
            player: of.text(1)?,
            id: of.message()?,
            deliver_at_ms: of.long(5)?,
            deadline_ms: of.long(6)?,
            content: of.content(7)?,
            payload: of.bytes(8)?,
            first: of.flag(9)?,
        },
        "open" | "due" | "expire" | "admin" | "roster" => of_the_hub(&name, &of)?,
        _ => of_a_player(&name, &of)?,
    })
}

fn of_the_hub(name: &str, of: &Fields<'_, '_>) -> PyResult<StoreOp> {
    Ok(match name {
        "open" => StoreOp::Open {
            hub_epoch: of.int(1)?,
            unix_ms: of.long(2)?,
        },
        "due" => StoreOp::Due {
            unix_ms: of.long(1)?,
            limit: of.int(2)?,
        },
        "expire" => StoreOp::Expire {
            unix_ms: of.long(1)?,
            limit: of.int(2)?,
        },
        "admin" => StoreOp::Admin {
            json: of.0.get_item(1)?.extract()?,
        },
        _ => StoreOp::Roster {
            entry: RosterEntry {
                node_key: of.long(1)?,
                name: of.text(2)?,
                epoch: of.long(3)?,
                linked: of.flag(4)?,
            },
        },
    })
}

fn of_a_player(name: &str, of: &Fields<'_, '_>) -> PyResult<StoreOp> {
    let player = || of.text(1);
    Ok(match name {
        "read" => StoreOp::Read {
            player: player()?,
            after_row: of.long(2)?,
            limit: of.int(3)?,
        },
        "accepted" => StoreOp::Accepted { player: player()? },
        "settle" => StoreOp::Settle {
            player: player()?,
            up_to: of.long(2)?,
        },
        "logout" => {
            let cursor: Vec<(u64, u64, u64)> = of.0.get_item(2)?.extract()?;
            StoreOp::Logout {
                player: player()?,
                cursor: cursor.into_iter().map(id).collect(),
            }
        }
        "trim" => StoreOp::Trim {
            player: player()?,
            sender: of.long(2)?,
            epoch: of.long(3)?,
            seq: of.long(4)?,
        },
        "know" => StoreOp::Know { player: player()? },
        "join" => StoreOp::Join {
            group: of.text(1)?,
            player: of.text(2)?,
        },
        "leave" => StoreOp::Leave {
            group: of.text(1)?,
            player: of.text(2)?,
        },
        other => {
            return Err(PyValueError::new_err(format!(
                "a mailbox has no operation {other:?}"
            )));
        }
    })
}

/// The other way of `hub::store_done`.
fn result<'py>(py: Python<'py>, done: &StoreDone) -> PyResult<Bound<'py, PyTuple>> {
    match done {
        StoreDone::Appended => ("appended",).into_pyobject(py),
        StoreDone::Passed => ("passed",).into_pyobject(py),
        StoreDone::UnknownPlayer => ("unknown_player",).into_pyobject(py),
        StoreDone::Full => ("full",).into_pyobject(py),
        StoreDone::OverQuota { messages, bytes } => {
            ("over_quota", messages, bytes).into_pyobject(py)
        }
        StoreDone::Due { moved, next_ms } => {
            let moved: Vec<_> = moved
                .iter()
                .map(|m| (&*m.player, m.id.node_key, m.id.epoch, m.id.seq, m.seq))
                .collect();
            ("due", moved, next_ms).into_pyobject(py)
        }
        StoreDone::Expired { count, marks } => {
            let marks: Vec<_> = marks
                .iter()
                .map(|(player, m)| (&**player, m.node_key, m.epoch, m.seq))
                .collect();
            ("expired", count, marks).into_pyobject(py)
        }
        StoreDone::Text { json } => ("text", json).into_pyobject(py),
        StoreDone::Done => ("done",).into_pyobject(py),
        StoreDone::Rows { rows, end } => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    let (id, payload) = (row.id, PyBytes::new(py, &row.payload));
                    let content = row.content as u8;
                    (
                        row.row,
                        id.node_key,
                        id.epoch,
                        id.seq,
                        row.deadline_ms,
                        content,
                        payload,
                    )
                })
                .collect();
            ("rows", rows, end).into_pyobject(py)
        }
        StoreDone::Marks { marks } => {
            let marks: Vec<_> = marks.iter().map(|m| (m.node_key, m.epoch, m.seq)).collect();
            ("marks", marks).into_pyobject(py)
        }
        StoreDone::Opened {
            hub_epoch_highest,
            roster,
            groups,
            next_due_ms,
        } => {
            let roster: Vec<_> = roster
                .iter()
                .map(|e| (e.node_key, &*e.name, e.epoch, e.linked))
                .collect();
            let groups: Vec<_> = groups
                .iter()
                .map(|(group, player)| (&**group, &**player))
                .collect();
            ("opened", hub_epoch_highest, roster, groups, next_due_ms).into_pyobject(py)
        }
    }
}
