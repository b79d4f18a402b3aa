//! `WriteBatch`: packets to be sent, as columns over one arena, so that they cross the border once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zmqgame_core::stream::packet::{Batch, FIRST_OWN_KIND, Header};
use zmqgame_reactor::edge::{self, Out, Write};

use crate::packet::{PacketBatch, copy_bytes};

/// The most payload bytes of one batch: offsets are u32, and what is larger is better sent in pieces.
const MOST_BYTES: usize = 1 << 30;

/// Packets to be sent, as columns over one arena: a handler's answers cross the border once.
///
/// For any thread. A batch may be sent more than once.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct WriteBatch(Mutex<Batch>);

impl From<Batch> for WriteBatch {
    fn from(batch: Batch) -> Self {
        Self(Mutex::new(batch))
    }
}

impl WriteBatch {
    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails when so many more bytes would be too many.
pub fn check_room(batch: &Batch, bytes: usize) -> PyResult<()> {
    if batch.arena.len() + bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "a batch of more than {MOST_BYTES} bytes"
    )))
}

/// Calls `work` with the bytes of `data`: in place if they are `bytes`.
pub fn with_bytes<T>(
    data: &Bound<'_, PyAny>,
    work: impl FnOnce(&[u8]) -> PyResult<T>,
) -> PyResult<T> {
    match data.cast::<PyBytes>() {
        Ok(bytes) => work(bytes.as_bytes()),
        Err(_) => work(&copy_bytes(data)?),
    }
}

/// A column given as a buffer of numbers, as any sequence of numbers, or as one number for all rows.
fn column<T>(name: &str, given: &Bound<'_, PyAny>, rows: usize) -> PyResult<Vec<T>>
where
    T: Element + Clone + for<'a, 'py> FromPyObject<'a, 'py>,
{
    let values = if let Ok(buffer) = PyBuffer::<T>::get(given) {
        buffer.to_vec(given.py())?
    } else if let Ok(value) = given.extract::<T>() {
        vec![value; rows]
    } else {
        let wrong =
            || PyValueError::new_err(format!("{name}: numbers out of range, or no numbers"));
        let mut values = Vec::with_capacity(rows);
        for item in given.try_iter()? {
            values.push(item?.extract::<T>().map_err(|_| wrong())?);
        }
        values
    };
    if values.len() == rows {
        return Ok(values);
    }
    Err(PyValueError::new_err(format!(
        "{name} has {} rows, connection has {rows}",
        values.len()
    )))
}

fn numbers(given: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    match PyBuffer::<u64>::get(given) {
        Ok(buffer) => buffer.to_vec(given.py()),
        Err(_) => given.try_iter()?.map(|item| item?.extract()).collect(),
    }
}

#[pymethods]
impl WriteBatch {
    #[new]
    fn new() -> Self {
        Batch::default().into()
    }

    /// Make rows of columns: row `i` is `arena[offset[i]:offset[i] + length[i]]` to `connection[i]`.
    ///
    /// Quickest are arrays (numpy, array) of u64, u32, u32, u8, u64 and any bytes as arena, all copied at
    /// once. A number stands for a column of it; kind and sequence are 0 by default. Raise IndexError when
    /// a row is not in the arena, ValueError when columns differ in length.
    #[staticmethod]
    #[pyo3(signature = (connection, arena, offset, length, kind = None, sequence = None))]
    fn columns(
        connection: &Bound<'_, PyAny>,
        arena: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        length: &Bound<'_, PyAny>,
        kind: Option<&Bound<'_, PyAny>>,
        sequence: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let connection = numbers(connection)?;
        let rows = connection.len();
        let batch = Batch {
            kind: kind.map_or_else(|| Ok(vec![0; rows]), |kind| column("kind", kind, rows))?,
            sequence: sequence.map_or_else(
                || Ok(vec![0; rows]),
                |sequence| column("sequence", sequence, rows),
            )?,
            offset: column("offset", offset, rows)?,
            length: column("length", length, rows)?,
            arena: copy_bytes(arena)?,
            connection,
        };
        check_room(&batch, 0)?;
        let bytes = batch.arena.len();
        let outside =
            (0..rows).find(|&row| batch.offset[row] as usize + batch.length[row] as usize > bytes);
        match outside {
            None => Ok(batch.into()),
            Some(row) => Err(PyIndexError::new_err(format!(
                "row {row} ends at {}: the arena has {bytes} bytes",
                u64::from(batch.offset[row]) + u64::from(batch.length[row])
            ))),
        }
    }

    /// Add a packet; its payload is copied. Raise ValueError beyond 2**30 bytes in a batch.
    #[pyo3(signature = (connection, payload, kind = 0, sequence = 0))]
    fn add(
        &self,
        connection: u64,
        payload: &Bound<'_, PyAny>,
        kind: u8,
        sequence: u64,
    ) -> PyResult<()> {
        with_bytes(payload, |payload| {
            let mut batch = self.batch();
            check_room(&batch, payload.len())?;
            batch.push(connection, Header { kind, sequence }, payload);
            Ok(())
        })
    }

    /// Add the same packet for many; its payload is kept once. Quickest are connections as array of u64.
    ///
    /// Raise ValueError beyond 2**30 bytes in a batch.
    #[pyo3(signature = (connections, payload, kind = 0, sequence = 0))]
    fn broadcast(
        &self,
        connections: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
        kind: u8,
        sequence: u64,
    ) -> PyResult<()> {
        let connections = numbers(connections)?;
        with_bytes(payload, |payload| {
            let mut batch = self.batch();
            check_room(&batch, payload.len())?;
            let (offset, length) = (batch.arena.len() as u32, payload.len() as u32);
            batch.arena.extend_from_slice(payload);
            for connection in connections {
                batch.push_row(connection, Header { kind, sequence }, offset, length);
            }
            Ok(())
        })
    }

    /// Drop all packets, keep the storage.
    fn clear(&self) {
        self.batch().clear();
    }

    fn __len__(&self) -> usize {
        self.batch().len()
    }

    fn __repr__(&self) -> String {
        let batch = self.batch();
        format!(
            "<WriteBatch: {} packets, {} bytes>",
            batch.len(),
            batch.arena.len()
        )
    }
}

/// Every row of a batch as a write; the edge's own rows (open, close) are nobody's packets.
fn echo(batch: &Batch) -> impl Iterator<Item = Write<'_>> {
    writes(batch).filter(|write| write.kind < FIRST_OWN_KIND)
}

fn writes(batch: &Batch) -> impl Iterator<Item = Write<'_>> {
    (0..batch.len()).map(|row| Write {
        connection: batch.connection[row],
        kind: batch.kind[row],
        sequence: batch.sequence[row],
        payload: batch.payload(row),
    })
}

/// By which way packets go out.
pub enum To<'a, 'b> {
    /// To the loops' queues, from any thread.
    Edge(&'a edge::Edge),
    /// Straight into the connections, on their loop.
    Loop(&'a mut Out<'b>),
}

/// Sends what a handler has returned.
pub fn send_if_any(to: To<'_, '_>, given: &Bound<'_, PyAny>) -> PyResult<()> {
    if !given.is_none() {
        send(to, given)?;
    }
    Ok(())
}

/// Sends whatever stands for writes in Python; gives how many were refused.
pub fn send(to: To<'_, '_>, given: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = given.py();
    if let Ok(batch) = given.cast::<PacketBatch>() {
        let batch = batch.get().batch();
        return Ok(match to {
            To::Edge(edge) => py.detach(|| edge.send(echo(batch))),
            To::Loop(out) => out.send_all(echo(batch)),
        });
    }
    if let Ok(batch) = given.cast::<WriteBatch>() {
        let batch = batch.get();
        // Locked without the GIL, or under it to the end: so nobody waits for one who waits for the other.
        return Ok(match to {
            To::Edge(edge) => py.detach(|| edge.send(writes(&batch.batch()))),
            To::Loop(out) => out.send_all(writes(&batch.batch())),
        });
    }
    type Item<'py> = (u64, u8, u64, Bound<'py, PyAny>);
    let mut rows = Batch::default();
    for item in given.try_iter()? {
        let (connection, kind, sequence, payload): Item<'_> = item?.extract()?;
        with_bytes(&payload, |payload| {
            check_room(&rows, payload.len())?;
            rows.push(connection, Header { kind, sequence }, payload);
            Ok(())
        })?;
    }
    Ok(match to {
        To::Edge(edge) => py.detach(|| edge.send(writes(&rows))),
        To::Loop(out) => out.send_all(writes(&rows)),
    })
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WriteBatch>()
}
