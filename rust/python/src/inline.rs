//! Serving inline: the handler is called on the loop's own thread, and what it returns goes straight into
//! the connections. No hand-over between threads, no wake-up, no copy between; but while it runs, nothing
//! is read or written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use zmqgame_core::stream::packet::Batch;
use zmqgame_reactor::edge::{Handler, Out};

use crate::edge::Edge;
use crate::packet::PacketBatch;
use crate::serve::{LONGEST_WAIT_MS, Ticker};
use crate::write::{self, To};

/// How often a loop that drains is asked for its handler.
const RETRY: Duration = Duration::from_millis(1);

/// Serves until the edge is stopped or the handler fails. Called with the GIL; waits without it.
pub fn serve(
    edge: &Bound<'_, Edge>,
    handler: &Bound<'_, PyAny>,
    on_tick: Option<Py<PyAny>>,
    tick_ms: u64,
) -> PyResult<()> {
    let (py, this) = (edge.py(), edge.get());
    let loops = this.inner().config().loops;
    if loops != 1 {
        return Err(PyValueError::new_err(format!(
            "inline: one loop calls the handler, and the edge has {loops}"
        )));
    }
    let ticker = Ticker::new(on_tick, tick_ms)?;
    let _serving = this.serving.begin_here(py)?;
    let failed = Arc::new(Mutex::new(None));
    let inline = Box::new(Inline {
        edge: edge.clone().unbind(),
        handler: handler.clone().unbind(),
        ticker,
        failed: Arc::clone(&failed),
        thread: None,
    });
    py.detach(|| this.inner().set_handler(0, Some(inline)))?;
    let waited = wait(py, this, &failed);
    // Before anybody else serves: the loop is to hold nothing of Python's.
    py.detach(|| take_away(this));
    // What the loop has left since a failure may be there without a wake-up: `quiet` has taken it.
    this.inner().wake();
    let error = taken(&failed).take();
    waited.and_then(|()| error.map_or(Ok(()), Err))
}

type Failed = Mutex<Option<PyErr>>;

fn taken(failed: &Failed) -> std::sync::MutexGuard<'_, Option<PyErr>> {
    failed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(py: Python<'_>, edge: &Edge, failed: &Failed) -> PyResult<()> {
    loop {
        if let Some(drain_ms) = edge.serving.take_stop() {
            py.detach(|| edge.stop_now(drain_ms));
        }
        if edge.has_stopped() || taken(failed).is_some() {
            return Ok(());
        }
        // Only wake-ups come: by a stop, by the handler's failure.
        py.detach(|| edge.inner().wait(LONGEST_WAIT_MS))?;
        edge.inner().quiet();
        py.check_signals()?;
    }
}

fn take_away(edge: &Edge) {
    while edge.inner().set_handler(0, None).is_err() && !edge.has_stopped() {
        if edge.inner().check_threads().is_err() {
            return;
        }
        // Another thread stops it: the handler goes with the loop. Not `wait`: it returns at once while rows are kept.
        std::thread::sleep(RETRY);
    }
}

struct Inline {
    edge: Py<Edge>,
    handler: Py<PyAny>,
    ticker: Ticker,
    failed: Arc<Failed>,
    thread: Option<ThreadState>,
}

impl Inline {
    fn fail(&self, error: PyErr, out: &Out<'_>) {
        *taken(&self.failed) = Some(error);
        out.shared().wake();
    }

    fn has_failed(&self) -> bool {
        taken(&self.failed).is_some()
    }
}

impl Handler for Inline {
    fn boot(&mut self, _out: &mut Out<'_>) -> Option<u64> {
        self.thread = Some(ThreadState::keep());
        self.edge.get().serving.is_on(std::thread::current().id());
        self.ticker.wait_ms()
    }

    fn take(&mut self, batch: &mut Batch, out: &mut Out<'_>) {
        if self.has_failed() {
            return out.leave(batch);
        }
        let batch = std::mem::replace(batch, out.spare_batch());
        let handled = Python::attach(|py| {
            let batch = PacketBatch::new(batch, self.edge.get().inner().returns());
            let writes = self.handler.bind(py).call1((batch,))?;
            write::send_if_any(To::Loop(out), &writes)
        });
        if let Err(error) = handled {
            self.fail(error, out);
        }
    }

    fn tick(&mut self, _now_ms: u64, out: &mut Out<'_>) -> Option<u64> {
        if self.has_failed() {
            return None;
        }
        match Python::attach(|py| self.ticker.run(py)) {
            Ok(()) => self.ticker.wait_ms(),
            Err(error) => {
                self.fail(error, out);
                None
            }
        }
    }
}

/// Python's record of the loop's thread, kept between calls: making one costs more than a small call.
struct ThreadState {
    gil: ffi::PyGILState_STATE,
    state: *mut ffi::PyThreadState,
}

// SAFETY: made by `boot` and dropped with the handler, both on the loop's thread; nobody else sees it.
unsafe impl Send for ThreadState {}

impl ThreadState {
    fn keep() -> Self {
        // SAFETY: may be called by any thread while the interpreter lives, which whoever serves waits for;
        // the GIL is let go of at once, so others run.
        unsafe {
            let gil = ffi::PyGILState_Ensure();
            let state = ffi::PyEval_SaveThread();
            Self { gil, state }
        }
    }
}

impl Drop for ThreadState {
    fn drop(&mut self) {
        // SAFETY: the reverse of `keep`, on the same thread, which does not have the GIL now: handlers let
        // go of it when they return.
        unsafe {
            ffi::PyEval_RestoreThread(self.state);
            ffi::PyGILState_Release(self.gil);
        }
    }
}
