//! `RingBuffer` and `FrameDecoder`: the byte stream tools of core, for protocols of one's own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use zmqgame_core::stream::frame::{self, BadFraming, Framing, LengthField};
use zmqgame_core::stream::ring;

use crate::packet::{FrameError, copy_bytes};

/// The largest limit of a ring buffer.
const MOST_BYTES: usize = 1 << 30;

/// Bytes in order: grows by powers of two up to a limit, shrinks after a quiet time. For any thread.
///
/// Make an empty buffer that holds at most `limit` bytes, 1 to 2**30, else raise ValueError.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct RingBuffer(Mutex<ring::RingBuffer>);

impl RingBuffer {
    fn ring(&self) -> MutexGuard<'_, ring::RingBuffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl RingBuffer {
    #[new]
    fn new(limit: usize) -> PyResult<Self> {
        if !(1..=MOST_BYTES).contains(&limit) {
            return Err(PyValueError::new_err(format!(
                "limit is {limit}: must be 1 to {MOST_BYTES}"
            )));
        }
        Ok(Self(Mutex::new(ring::RingBuffer::new(limit))))
    }

    /// The most bytes it may hold.
    #[getter]
    fn limit(&self) -> usize {
        self.ring().limit()
    }

    /// The size of its storage in bytes: 0 or a power of two.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring().capacity()
    }

    /// Append all of `data`. Raise BufferError, and take nothing, when it does not fit.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let pushed = match data.cast::<PyBytes>() {
            Ok(bytes) => self.ring().push(bytes.as_bytes()),
            Err(_) => {
                let bytes = copy_bytes(data)?;
                self.ring().push(&bytes)
            }
        };
        pushed.map_err(|full| PyBufferError::new_err(full.to_string()))
    }

    /// Take up to `size` bytes from the front; all when negative. b"" when it is empty.
    #[pyo3(signature = (size = -1))]
    fn read<'py>(&self, py: Python<'py>, size: isize) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.peek(py, size)?;
        self.ring().consume(bytes.as_bytes().len());
        Ok(bytes)
    }

    /// Look at up to `size` bytes at the front; all when negative. They stay.
    #[pyo3(signature = (size = -1))]
    fn peek<'py>(&self, py: Python<'py>, size: isize) -> PyResult<Bound<'py, PyBytes>> {
        let ring = self.ring();
        let count = usize::try_from(size).map_or(ring.len(), |size| size.min(ring.len()));
        let [first, second] = ring.readable();
        let split = count.min(first.len());
        PyBytes::new_with(py, count, |out| {
            out[..split].copy_from_slice(&first[..split]);
            out[split..].copy_from_slice(&second[..count - split]);
            Ok(())
        })
    }

    /// Drop `size` bytes from the front. Raise IndexError, and drop nothing, when there are fewer.
    fn skip(&self, size: usize) -> PyResult<()> {
        let mut ring = self.ring();
        if size > ring.len() {
            let text = format!("{size} bytes of {} can't be skipped", ring.len());
            return Err(PyIndexError::new_err(text));
        }
        ring.consume(size);
        Ok(())
    }

    /// Shrink if at most a quarter of the storage was used in the last `quiet_ms`; call it often.
    ///
    /// `now_ms` is any clock in milliseconds that does not run backwards.
    fn tick(&self, now_ms: u64, quiet_ms: u64) {
        self.ring().tick(now_ms, quiet_ms);
    }

    fn __len__(&self) -> usize {
        self.ring().len()
    }
}

/// Cuts a stream of bytes into frames; any split of the stream gives the same frames. For any thread.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct FrameDecoder(Mutex<frame::FrameDecoder>);

impl FrameDecoder {
    fn make(framing: Result<Framing, BadFraming>) -> PyResult<Self> {
        let framing = framing.map_err(|bad| PyValueError::new_err(bad.to_string()))?;
        Ok(Self(Mutex::new(frame::FrameDecoder::new(framing))))
    }

    /// How it cuts.
    pub fn framing(&self) -> Framing {
        self.decoder().framing().clone()
    }

    fn decoder(&self) -> MutexGuard<'_, frame::FrameDecoder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl FrameDecoder {
    /// Frames with a length field of `size` bytes (1 to 8) after `offset` bytes.
    ///
    /// `adjustment` is added to its value to get the bytes that follow it: 0 when it counts only those,
    /// negative when it counts the header too. The first `strip` bytes of a frame are left out: by default
    /// those up to the length field's end. `limit` bounds the whole frame in bytes. Raise ValueError when the
    /// parameters can give no frame.
    #[staticmethod]
    #[pyo3(signature = (size, *, limit = 65_536, offset = 0, big_endian = false, adjustment = 0, strip = None))]
    fn length_field(
        size: usize,
        limit: usize,
        offset: usize,
        big_endian: bool,
        adjustment: i64,
        strip: Option<usize>,
    ) -> PyResult<Self> {
        let strip = strip.unwrap_or_else(|| offset.saturating_add(size));
        Self::make(Framing::length_field(LengthField {
            offset,
            size,
            big_endian,
            adjustment,
            strip,
            limit,
        }))
    }

    /// Lines that end with LF or CR LF, which is left out; `limit` bounds a line in bytes.
    #[staticmethod]
    #[pyo3(signature = (*, limit = 65_536))]
    fn line(limit: usize) -> PyResult<Self> {
        Self::make(Framing::line(limit))
    }

    /// Frames that end with `delimiter` (1 to 64 bytes), which is left out; `limit` bounds a frame.
    #[staticmethod]
    #[pyo3(signature = (delimiter, *, limit = 65_536))]
    fn delimiter(delimiter: &[u8], limit: usize) -> PyResult<Self> {
        Self::make(Framing::delimiter(delimiter, limit))
    }

    /// Frames of `length` bytes each, at least 1.
    #[staticmethod]
    fn fixed(length: usize) -> PyResult<Self> {
        Self::make(Framing::fixed(length))
    }

    /// Take the next bytes of the stream; return the frames that are whole now.
    ///
    /// Raise FrameError when the bytes can't become a frame and no frame came before them in this call;
    /// from then on every call raises.
    fn feed<'py>(&self, py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let mut frames = Vec::new();
        let mut sink = |frame: &[u8]| frames.push(PyBytes::new(py, frame));
        let fed = match data.cast::<PyBytes>() {
            Ok(bytes) => self.decoder().feed(bytes.as_bytes(), &mut sink),
            Err(_) => {
                let bytes = copy_bytes(data)?;
                self.decoder().feed(&bytes, &mut sink)
            }
        };
        match fed {
            Err(error) if frames.is_empty() => Err(FrameError::new_err(error.to_string())),
            _ => PyList::new(py, frames),
        }
    }

    /// What ended the stream, with the limit and the value; None while it goes on.
    #[getter]
    fn error(&self) -> Option<String> {
        self.decoder().error().map(|error| error.to_string())
    }

    /// How many bytes wait for the rest of their frame: at most one frame's.
    #[getter]
    fn waiting_bytes(&self) -> usize {
        self.decoder().waiting_bytes()
    }
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RingBuffer>()?;
    module.add_class::<FrameDecoder>()
}
