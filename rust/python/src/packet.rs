//! `PacketBatch`: packets as columns that Python views without a copy.

use std::ffi::{CStr, c_int, c_void};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyMemoryView, PyTuple};
use zmqgame_core::stream::packet::{Batch, Header};
use zmqgame_reactor::edge::Returns;

use crate::write::{WriteBatch, check_room, with_bytes};

create_exception!(
    zmqgame_native,
    FrameError,
    PyValueError,
    "Bytes that are no frame or packet; the text names the limit and the value."
);

/// Which column a view shows.
#[derive(Debug, Clone, Copy)]
enum Field {
    Connection,
    Kind,
    Sequence,
    Offset,
    Length,
    Arena,
}

/// One column as a buffer: keeps the whole batch alive for as long as somebody looks at it.
#[pyclass(frozen, module = "zmqgame_native", name = "_Column")]
struct Column {
    batch: Arc<Held>,
    field: Field,
    /// Items; the view's shape points here.
    shape: [ffi::Py_ssize_t; 1],
}

impl Column {
    fn new(batch: &Arc<Held>, field: Field) -> Self {
        let items = match field {
            Field::Arena => batch.arena.len(),
            _ => batch.len(),
        };
        // A Vec never holds more than isize::MAX bytes.
        Self {
            batch: Arc::clone(batch),
            field,
            shape: [items as ffi::Py_ssize_t],
        }
    }

    /// Address, bytes of an item, its struct format.
    fn parts(&self) -> (*const c_void, ffi::Py_ssize_t, &'static CStr) {
        let batch = &self.batch;
        match self.field {
            Field::Connection => (batch.connection.as_ptr().cast(), 8, c"Q"),
            Field::Kind => (batch.kind.as_ptr().cast(), 1, c"B"),
            Field::Sequence => (batch.sequence.as_ptr().cast(), 8, c"Q"),
            Field::Offset => (batch.offset.as_ptr().cast(), 4, c"I"),
            Field::Length => (batch.length.as_ptr().cast(), 4, c"I"),
            Field::Arena => (batch.arena.as_ptr().cast(), 1, c"B"),
        }
    }
}

#[pymethods]
impl Column {
    /// # Safety
    /// Called by Python with a view that it owns.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let column = slf.get();
        let (address, item_bytes, format) = column.parts();
        let bytes = column.shape[0] * item_bytes;
        // SAFETY: the bytes live in the Arc of `slf`, which the view keeps alive and which nobody
        // changes; read-only is asked for, so a request for a writable view fails here.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), address.cast_mut(), bytes, 1, flags)
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        // SAFETY: FillInfo has filled the view. Format and shape outlive it: one is static, the other
        // stands in the frozen object. Without these the columns would be plain bytes.
        unsafe {
            (*view).itemsize = item_bytes;
            if flags & ffi::PyBUF_FORMAT == ffi::PyBUF_FORMAT {
                (*view).format = format.as_ptr().cast_mut();
            }
            if flags & ffi::PyBUF_ND == ffi::PyBUF_ND {
                (*view).shape = column.shape.as_ptr().cast_mut();
            }
        }
        Ok(())
    }
}

/// Packets of many connections as columns over one arena.
///
/// Row `i` is the packet `kind[i]`, `sequence[i]` of `connection[i]` with
/// `arena[offset[i]:offset[i] + length[i]]` as its payload. The columns are read-only memoryviews of
/// the batch's own memory (`numpy.frombuffer` takes them without a copy) and stay valid for as long as
/// anyone holds them. Kinds from 0xf0 are the edge's own: 0xf0 open (payload: JSON with `transport` and
/// `peer`), 0xf1 close (payload: the reason as text).
#[pyclass(frozen, module = "zmqgame_native")]
pub struct PacketBatch {
    batch: Arc<Held>,
}

/// A batch, until the last who looks at it lets go: then its storage goes back to the edge.
#[derive(Default)]
struct Held {
    batch: Batch,
    returns: Returns,
}

impl Deref for Held {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.returns.give_back(std::mem::take(&mut self.batch));
    }
}

impl From<Batch> for PacketBatch {
    fn from(batch: Batch) -> Self {
        Self::new(batch, Returns::default())
    }
}

impl PacketBatch {
    /// A batch of an edge.
    pub fn new(batch: Batch, returns: Returns) -> Self {
        Self {
            batch: Arc::new(Held { batch, returns }),
        }
    }

    fn view<'py>(&self, py: Python<'py>, field: Field) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(Bound::new(py, Column::new(&self.batch, field))?.as_any())
    }

    fn row<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyTuple>> {
        let connection = self.batch.connection[index].into_pyobject(py)?;
        self.row_of(py, index, connection)
    }

    fn row_of<'py>(
        &self,
        py: Python<'py>,
        index: usize,
        connection: Bound<'py, PyInt>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let batch = &self.batch;
        let payload = PyBytes::new(py, batch.payload(index));
        (
            connection,
            batch.kind[index],
            batch.sequence[index],
            payload,
        )
            .into_pyobject(py)
    }

    /// The columns.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Some rows. One client's packets mostly stand together: their connection is one Python number.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        range: Range<usize>,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let mut rows = Vec::with_capacity(range.len());
        let mut last: Option<(u64, Bound<'py, PyInt>)> = None;
        for index in range {
            let connection = self.batch.connection[index];
            let number = match last {
                Some((known, number)) if known == connection => number,
                _ => connection.into_pyobject(py)?,
            };
            rows.push(self.row_of(py, index, number.clone())?);
            last = Some((connection, number));
        }
        Ok(rows)
    }
}

#[pymethods]
impl PacketBatch {
    /// Decode the whole packets at the front of a byte stream; return them and how many bytes they are.
    ///
    /// Keep the bytes after that for the next call: any split of a stream gives the same packets.
    /// `connection` fills that column. Raise FrameError when the bytes at the front can't become a packet
    /// (more than `max_packet_bytes` with the header of 12, shorter than it, flags, a kind from 0xf0);
    /// packets before such bytes are returned first. Raise ValueError for more than 4 GiB.
    #[staticmethod]
    #[pyo3(signature = (data, connection = 0, max_packet_bytes = 65_536))]
    fn decode(
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        connection: u64,
        max_packet_bytes: usize,
    ) -> PyResult<(Self, usize)> {
        let mut batch = Batch {
            arena: copy_bytes(data)?,
            ..Batch::default()
        };
        if u32::try_from(batch.arena.len()).is_err() {
            return Err(PyValueError::new_err("more than 4 GiB at a time"));
        }
        let decoded = py.detach(|| batch.decode_arena(connection, 0, max_packet_bytes));
        match decoded.error {
            Some(error) if decoded.packets == 0 => Err(FrameError::new_err(error.to_string())),
            _ => Ok((batch.into(), decoded.consumed)),
        }
    }

    /// Whose each packet is: u64, one item a row. A connection's number never comes again.
    #[getter]
    fn connection<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Connection)
    }

    /// What each packet is: u8, one item a row; 0 from a framing other than `packets`.
    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Kind)
    }

    /// Each packet's number as its sender has set it: u64, one item a row; 0 where there is none.
    #[getter]
    fn sequence<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Sequence)
    }

    /// Where each payload begins in the arena: u32 in bytes, one item a row.
    #[getter]
    fn offset<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Offset)
    }

    /// How many bytes each payload has: u32, one item a row.
    #[getter]
    fn length<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Length)
    }

    /// The bytes that the rows point into: u8. There may be bytes between payloads that no row has.
    #[getter]
    fn arena<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.view(py, Field::Arena)
    }

    /// All rows as (connection, kind, sequence, payload); payloads are copies.
    fn packets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.rows(py, 0..self.batch.len())?)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pieces = Pieces {
            batch: Self {
                batch: Arc::clone(&self.batch),
            },
            next: AtomicUsize::new(0),
        };
        py.import("itertools")?
            .getattr("chain")?
            .call_method1("from_iterable", (Bound::new(py, pieces)?,))
    }

    /// All payloads, row by row, copied: with the columns the cheapest way to see every packet.
    fn payloads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let payloads = (0..self.batch.len()).map(|row| PyBytes::new(py, self.batch.payload(row)));
        PyList::new(py, payloads)
    }

    /// Answer row by row: each to its connection with its kind and sequence; None is no answer.
    ///
    /// Raise ValueError when there are not as many as rows. Give None for the edge's own rows.
    fn reply(&self, payloads: &Bound<'_, PyAny>) -> PyResult<WriteBatch> {
        let batch = &self.batch;
        let (mut answers, mut row) = (Batch::default(), 0);
        for payload in payloads.try_iter()? {
            let payload = payload?;
            if row >= batch.len() {
                row += 1;
                break;
            }
            if !payload.is_none() {
                with_bytes(&payload, |payload| {
                    check_room(&answers, payload.len())?;
                    let (kind, sequence) = (batch.kind[row], batch.sequence[row]);
                    answers.push(batch.connection[row], Header { kind, sequence }, payload);
                    Ok(())
                })?;
            }
            row += 1;
        }
        if row == batch.len() {
            return Ok(answers.into());
        }
        let than = if row > batch.len() { "more" } else { "fewer" };
        Err(PyValueError::new_err(format!(
            "{than} answers than the {} packets: give None for no answer",
            batch.len()
        )))
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyTuple>> {
        let rows = self.batch.len();
        let at = if index < 0 {
            index.checked_add_unsigned(rows)
        } else {
            Some(index)
        };
        match at
            .and_then(|at| usize::try_from(at).ok())
            .filter(|at| *at < rows)
        {
            Some(at) => self.row(py, at),
            None => Err(PyIndexError::new_err(format!("row {index} of {rows}"))),
        }
    }

    fn __len__(&self) -> usize {
        self.batch.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "<PacketBatch: {} packets, {} bytes>",
            self.batch.len(),
            self.batch.arena.len()
        )
    }
}

/// How many rows are made at a time while somebody iterates: they stay in the processor's cache.
const ROWS_A_PIECE: usize = 128;

/// The rows of a batch, in lists: `itertools.chain` goes through these without a call of ours a row.
#[pyclass(frozen, module = "zmqgame_native", name = "_Pieces")]
struct Pieces {
    batch: PacketBatch,
    next: AtomicUsize,
}

#[pymethods]
impl Pieces {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let rows = self.batch.batch.len();
        let start = self
            .next
            .fetch_add(ROWS_A_PIECE, Ordering::Relaxed)
            .min(rows);
        if start == rows {
            return Ok(None);
        }
        let end = (start + ROWS_A_PIECE).min(rows);
        PyList::new(py, self.batch.rows(py, start..end)?).map(Some)
    }
}

/// The bytes of any object with a buffer of bytes.
pub fn copy_bytes(data: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match data.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => PyBuffer::<u8>::get(data)?.to_vec(data.py()),
    }
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("FrameError", module.py().get_type::<FrameError>())?;
    module.add_class::<PacketBatch>()
}
