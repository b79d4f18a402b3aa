//! Two ways of serving: blocking, and on an asyncio loop; `inline` has the third. A handler gets a batch and
//! returns writes.
//!
//! I/O goes on in the edge's own threads while a handler runs: what comes meanwhile is the next batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::edge::Edge;
use crate::packet::PacketBatch;
use crate::write::{self, To};

/// How long a wait may take when nothing is due: bounds nothing but the delay of a lost signal.
pub const LONGEST_WAIT_MS: u64 = 500;

/// When the ticker is due, and by which interval it goes on.
pub struct Ticker {
    call: Option<Py<PyAny>>,
    every: Duration,
    due: Instant,
}

impl Ticker {
    /// Due in `tick_ms` for the first time; none without a call.
    pub fn new(call: Option<Py<PyAny>>, tick_ms: u64) -> PyResult<Self> {
        if call.is_some() != (tick_ms > 0) {
            return Err(PyValueError::new_err("on_tick and tick_ms go together"));
        }
        let every = Duration::from_millis(tick_ms);
        Ok(Self {
            call,
            every,
            due: Instant::now() + every,
        })
    }

    /// Milliseconds until it is due, rounded up.
    pub fn wait_ms(&self) -> Option<u64> {
        self.call.as_ref()?;
        let left = self.due.saturating_duration_since(Instant::now());
        Some(left.as_micros().div_ceil(1000) as u64)
    }

    /// Calls it if it is due. It may return the next interval; 0 ends it. Ticks that are missed are
    /// left out: a late handler is not made later by a backlog of them.
    pub fn run(&mut self, py: Python<'_>) -> PyResult<()> {
        let now = Instant::now();
        let Some(call) = self.call.as_ref().filter(|_| now >= self.due) else {
            return Ok(());
        };
        if let Some(tick_ms) = call.call0(py)?.extract::<Option<u64>>(py)? {
            self.every = Duration::from_millis(tick_ms);
            if tick_ms == 0 {
                self.call = None;
                return Ok(());
            }
        }
        self.due = (self.due + self.every).max(now);
        Ok(())
    }
}

/// Serves until the edge is stopped. Called with the GIL; waits without it.
pub fn serve(
    edge: &Bound<'_, Edge>,
    handler: &Bound<'_, PyAny>,
    on_tick: Option<Py<PyAny>>,
    tick_ms: u64,
) -> PyResult<()> {
    let (py, this) = (edge.py(), edge.get());
    let mut ticker = Ticker::new(on_tick, tick_ms)?;
    let _serving = this.serving.begin_here(py)?;
    loop {
        if let Some(drain_ms) = this.serving.take_stop() {
            py.detach(|| this.stop_now(drain_ms));
        }
        let ended = this.has_stopped();
        handle(this, handler)?;
        if ended {
            return Ok(());
        }
        ticker.run(py)?;
        let wait_ms = ticker.wait_ms().unwrap_or(LONGEST_WAIT_MS);
        py.detach(|| this.inner().wait(wait_ms.min(LONGEST_WAIT_MS)))?;
        py.check_signals()?;
    }
}

/// Gives the handler what there is and sends what it returns.
fn handle(edge: &Edge, handler: &Bound<'_, PyAny>) -> PyResult<()> {
    let batch = edge.take_batch();
    if batch.batch().is_empty() {
        return Ok(());
    }
    let writes = handler.call1((batch,))?;
    write::send_if_any(To::Edge(edge.inner()), &writes)
}

/// Stops of one edge that may drain beside its loop at once: the first and some that change its deadline.
const MAX_STOPS_BESIDE: usize = 16;

/// Stops an edge on a thread of its own: the loop's other tasks go on while it drains.
pub fn stop_beside(edge: Py<Edge>, drain_ms: u64) -> PyResult<()> {
    let under_way = &edge.get().serving.stops_beside;
    if under_way.fetch_add(1, Ordering::AcqRel) >= MAX_STOPS_BESIDE {
        under_way.fetch_sub(1, Ordering::AcqRel);
        let what = format!("{MAX_STOPS_BESIDE} stops of this edge are under way already");
        return Err(PyRuntimeError::new_err(what));
    }
    let stopped = Python::attach(|py| edge.clone_ref(py));
    let stop = move || {
        stopped.get().stop_now(drain_ms);
        let under_way = &stopped.get().serving.stops_beside;
        under_way.fetch_sub(1, Ordering::AcqRel);
    };
    let thread = std::thread::Builder::new().name("edge-stop".to_owned());
    if let Err(error) = thread.spawn(stop) {
        under_way.fetch_sub(1, Ordering::AcqRel);
        return Err(error.into());
    }
    Ok(())
}

/// Who serves: at most one at a time, since two would split the packets of a connection.
#[derive(Debug, Default)]
pub struct Serving {
    state: Mutex<State>,
    stops_beside: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    thread: Option<ThreadId>,
    /// The loop's, if it calls the handler.
    inline: Option<ThreadId>,
    /// If it is done by an asyncio loop.
    turns: Option<Py<Turns>>,
    /// The asyncio loop has called the handler, which has not returned.
    calling: bool,
    /// What the handler goes on in, if it is a coroutine.
    task: Option<Py<PyAny>>,
    stop: Option<u64>,
}

/// How a stop is done, by where it was asked for.
pub enum Stop {
    /// Where it was asked for; whoever asked waits.
    Here,
    /// On a thread beside the loop.
    Beside,
    /// By who serves, when what the handler returns is sent.
    Deferred,
}

/// Serving, until it is dropped.
pub struct Begun<'a>(&'a Serving);

impl Serving {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> PyResult<Begun<'_>> {
        let mut state = self.state();
        if state.thread.is_some() {
            return Err(PyRuntimeError::new_err("the edge is served already"));
        }
        state.thread = Some(std::thread::current().id());
        Ok(Begun(self))
    }

    /// On the calling thread, if nobody else serves.
    pub fn begin_here(&self, py: Python<'_>) -> PyResult<Begun<'_>> {
        self.end_done(py)?;
        self.begin()
    }

    /// The loop calls the handler, on this thread.
    pub fn is_on(&self, thread: ThreadId) {
        self.state().inline = Some(thread);
    }

    /// Fails on a loop, which would wait for itself.
    pub fn check_not_on_loop(&self) -> PyResult<()> {
        if self.state().inline == Some(std::thread::current().id()) {
            let what = "a handler that is served inline can't do what waits for its own loop";
            return Err(PyRuntimeError::new_err(what));
        }
        Ok(())
    }

    /// How the calling thread is to stop the edge. A stop by the handler waits until what it returns is sent,
    /// one by another task of the loop does not wait for the handler.
    pub fn ask_stop(&self, py: Python<'_>, drain_ms: u64) -> PyResult<Stop> {
        let current = Some(std::thread::current().id());
        let (turns, task) = {
            let mut state = self.state();
            if state.thread != current && state.inline != current {
                return Ok(Stop::Here);
            }
            let (Some(turns), false) = (&state.turns, state.calling) else {
                state.stop = Some(drain_ms);
                return Ok(Stop::Deferred);
            };
            let task = state.task.as_ref().map(|task| task.clone_ref(py));
            (turns.clone_ref(py), task)
        };
        let Some(task) = task else {
            return Ok(Stop::Beside);
        };
        let event_loop = turns.get().event_loop.bind(py);
        let asyncio = py.import("asyncio")?;
        if !asyncio
            .call_method1("current_task", (event_loop,))?
            .is(&task)
        {
            return Ok(Stop::Beside);
        }
        self.state().stop = Some(drain_ms);
        Ok(Stop::Deferred)
    }

    /// Nobody serves any more.
    fn end(&self) {
        let _task = self.take_task();
        let mut state = self.state();
        (state.thread, state.inline, state.turns) = (None, None, None);
    }

    /// The coroutine's task; dropped by the caller, without the lock.
    fn take_task(&self) -> Option<Py<PyAny>> {
        self.state().task.take()
    }

    /// A serving on asyncio that is done may not have heard of it yet.
    fn end_done(&self, py: Python<'_>) -> PyResult<()> {
        let turns = self.state().turns.as_ref().map(|turns| turns.clone_ref(py));
        match turns {
            Some(turns) if Turns::is_done(turns.bind(py))? => Turns::finish(turns.bind(py)),
            _ => Ok(()),
        }
    }

    /// The stop that was asked for, once.
    pub fn take_stop(&self) -> Option<u64> {
        self.state().stop.take()
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// An edge that is served on an asyncio loop.
#[pyclass(frozen, module = "zmqgame_native", name = "_Turns")]
struct Turns {
    edge: Py<Edge>,
    handler: Py<PyAny>,
    event_loop: Py<PyAny>,
    /// Done when the edge has stopped, or with the error of a handler.
    done: Py<PyAny>,
    ticker: Mutex<(Ticker, Option<Py<PyAny>>)>,
}

/// Serves on the running loop; gives the future that ends with it.
pub fn serve_async<'py>(
    edge: &Bound<'py, Edge>,
    handler: &Bound<'py, PyAny>,
    on_tick: Option<Py<PyAny>>,
    tick_ms: u64,
) -> PyResult<Bound<'py, PyAny>> {
    let py = edge.py();
    let ticker = Ticker::new(on_tick, tick_ms)?;
    let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
    let done = event_loop.call_method0("create_future")?;
    let serving = &edge.get().serving;
    serving.end_done(py)?;
    let begun = serving.begin()?;
    let turns = Bound::new(
        py,
        Turns {
            edge: edge.clone().unbind(),
            handler: handler.clone().unbind(),
            event_loop: event_loop.clone().unbind(),
            done: done.clone().unbind(),
            ticker: Mutex::new((ticker, None)),
        },
    )?;
    done.call_method1("add_done_callback", (turns.getattr("_finish")?,))?;
    Turns::watch(&turns)?;
    Turns::set_tick(&turns)?;
    // From here on the future's end is its end.
    std::mem::forget(begun);
    serving.state().turns = Some(turns.unbind());
    Ok(done)
}

impl Turns {
    fn is_done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        slf.get()
            .done
            .bind(slf.py())
            .call_method0("done")?
            .extract()
    }

    fn watch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let fd = slf.get().edge.get().inner().raw_fd();
        let event_loop = slf.get().event_loop.bind(slf.py());
        event_loop.call_method1("add_reader", (fd, slf.getattr("_turn")?))?;
        Ok(())
    }

    fn unwatch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let fd = slf.get().edge.get().inner().raw_fd();
        let event_loop = slf.get().event_loop.bind(slf.py());
        event_loop.call_method1("remove_reader", (fd,))?;
        Ok(())
    }

    fn ticker(&self) -> MutexGuard<'_, (Ticker, Option<Py<PyAny>>)> {
        self.ticker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the loop for the next tick.
    fn set_tick(slf: &Bound<'_, Self>) -> PyResult<()> {
        let wait_ms = slf.get().ticker().0.wait_ms();
        if let Some(wait_ms) = wait_ms {
            let event_loop = slf.get().event_loop.bind(slf.py());
            let delay_s = wait_ms as f64 / 1000.0;
            let timer = event_loop.call_method1("call_later", (delay_s, slf.getattr("_tick")?))?;
            slf.get().ticker().1 = Some(timer.unbind());
        }
        Ok(())
    }

    /// An error ends the serving; whoever awaits it gets it.
    fn settle(slf: &Bound<'_, Self>, result: PyResult<()>) -> PyResult<()> {
        let done = slf.get().done.bind(slf.py());
        match result {
            Ok(()) => {}
            Err(_) if Self::is_done(slf)? => {}
            Err(error) => {
                done.call_method1("set_exception", (error,))?;
            }
        }
        Ok(())
    }

    /// Lets go of the loop, once.
    fn finish(slf: &Bound<'_, Self>) -> PyResult<()> {
        let serving = &slf.get().edge.get().serving;
        let current = serving
            .state()
            .turns
            .as_ref()
            .is_some_and(|turns| turns.is(slf));
        if !current {
            return Ok(());
        }
        serving.end();
        Self::unwatch(slf)?;
        let timer = slf.get().ticker().1.take();
        if let Some(timer) = timer {
            timer.call_method0(slf.py(), "cancel")?;
        }
        Ok(())
    }

    /// Calls the handler. Gives the writes, or the task that a coroutine goes on in, and whether it is one.
    fn call<'py>(
        slf: &Bound<'py, Self>,
        batch: PacketBatch,
    ) -> PyResult<(Bound<'py, PyAny>, bool)> {
        let (py, this) = (slf.py(), slf.get());
        let result = this.handler.bind(py).call1((batch,))?;
        if !result.hasattr("__await__")? {
            return Ok((result, false));
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item("loop", this.event_loop.bind(py))?;
        let asyncio = py.import("asyncio")?;
        let task = asyncio.call_method("ensure_future", (result,), Some(&kwargs))?;
        Ok((task, true))
    }

    fn one_turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let edge = this.edge.get();
        if let Some(drain_ms) = edge.serving.take_stop() {
            stop_beside(this.edge.clone_ref(py), drain_ms)?;
        }
        let ended = edge.has_stopped();
        let batch = edge.take_batch();
        if !batch.batch().is_empty() {
            edge.serving.state().calling = true;
            let called = Self::call(slf, batch);
            edge.serving.state().calling = false;
            let (result, is_task) = called?;
            if is_task {
                // The next batch waits until this one is handled, bounded as any batch is.
                Self::unwatch(slf)?;
                edge.serving.state().task = Some(result.clone().unbind());
                result.call_method1("add_done_callback", (slf.getattr("_handled")?,))?;
                return Ok(());
            }
            write::send_if_any(To::Edge(edge.inner()), &result)?;
        }
        edge.inner().end_handling();
        edge.inner().check_threads()?;
        if ended {
            this.done
                .bind(py)
                .call_method1("set_result", (py.None(),))?;
        } else if edge.has_stopped() {
            // It stopped after it was asked, and its wake-up may have been drained with the batch.
            edge.inner().wake();
        }
        Ok(())
    }
}

#[pymethods]
impl Turns {
    /// The descriptor is readable.
    fn _turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::is_done(slf)? {
            return Ok(());
        }
        let result = Self::one_turn(slf);
        Self::settle(slf, result)
    }

    /// A handler's coroutine has ended.
    fn _handled(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        drop(slf.get().edge.get().serving.take_task());
        if Self::is_done(slf)? {
            return Ok(());
        }
        let result = task.call_method0("result").and_then(|writes| {
            write::send_if_any(To::Edge(slf.get().edge.get().inner()), &writes)?;
            Self::watch(slf)?;
            Self::one_turn(slf)
        });
        Self::settle(slf, result)
    }

    /// The ticker is due.
    fn _tick(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::is_done(slf)? {
            return Ok(());
        }
        // Not under the lock: the callback may do anything.
        let result = {
            let this = slf.get();
            let mut ticker = std::mem::replace(
                &mut this.ticker().0,
                Ticker {
                    call: None,
                    every: Duration::ZERO,
                    due: Instant::now(),
                },
            );
            let ran = ticker.run(slf.py());
            this.ticker().0 = ticker;
            ran
        };
        let result = result.and_then(|()| Self::set_tick(slf));
        Self::settle(slf, result)
    }

    /// The future is done: by a stop, an error or a cancellation.
    fn _finish(slf: &Bound<'_, Self>, _done: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::finish(slf)
    }
}
