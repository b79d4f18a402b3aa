//! `Edge`: the client edge for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use zmqgame_reactor::edge;
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};

use crate::packet::PacketBatch;
use crate::serve::{self, Serving};
use crate::write;

/// Connections of many clients as batches of packets.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct Edge {
    inner: edge::Edge,
    /// Who serves it.
    pub serving: Serving,
    stopped: AtomicBool,
}

impl Edge {
    /// The edge itself.
    pub fn inner(&self) -> &edge::Edge {
        &self.inner
    }

    /// All packets that are there.
    pub fn take_batch(&self) -> PacketBatch {
        PacketBatch::new(self.inner.receive(), self.inner.returns())
    }

    /// Whether it has stopped, and so nothing more will come than is there now. A stop that the handler
    /// asked for is done here.
    pub fn has_stopped(&self, py: Python<'_>) -> bool {
        if let Some(drain_ms) = self.serving.take_stop() {
            py.detach(|| self.stop_now(drain_ms));
        }
        self.stopped.load(Ordering::Acquire)
    }

    fn stop_now(&self, drain_ms: u64) {
        self.inner.stop(drain_ms);
        self.stopped.store(true, Ordering::Release);
        self.inner.wake();
    }

    /// Sends what a handler has returned.
    pub fn send_if_any(&self, writes: &Bound<'_, PyAny>) -> PyResult<()> {
        if !writes.is_none() {
            write::send(&self.inner, writes)?;
        }
        Ok(())
    }
}

fn framing_of(name: &str) -> PyResult<Framing> {
    match name {
        "packets" => Ok(Framing::Packets),
        "raw" => Ok(Framing::Raw),
        other => Err(PyValueError::new_err(format!(
            "framing is {other:?}: must be 'packets' or 'raw'"
        ))),
    }
}

#[pymethods]
impl Edge {
    #[new]
    #[pyo3(signature = (
        *,
        loops = 1,
        max_connections = 10_000,
        max_packet_bytes = 65_536,
        max_outbound_bytes = 1_048_576,
        max_outbound_total_bytes = 268_435_456,
        max_inbound_bytes = 67_108_864,
        idle_ms = 30_000,
        handshake_ms = 5_000,
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python class"
    )]
    fn new(
        loops: usize,
        max_connections: usize,
        max_packet_bytes: usize,
        max_outbound_bytes: usize,
        max_outbound_total_bytes: usize,
        max_inbound_bytes: usize,
        idle_ms: u64,
        handshake_ms: u64,
    ) -> PyResult<Self> {
        let config = EdgeConfig {
            loops,
            max_connections,
            max_packet_bytes,
            max_outbound_bytes,
            max_outbound_total_bytes,
            max_inbound_bytes,
            idle_ms,
            handshake_ms,
        };
        config
            .check()
            .map_err(|bad| PyValueError::new_err(bad.to_string()))?;
        Ok(Self {
            inner: edge::Edge::start(config)?,
            serving: Serving::default(),
            stopped: AtomicBool::new(false),
        })
    }

    #[pyo3(signature = (address, *, framing = "packets"))]
    fn listen_tcp(&self, py: Python<'_>, address: &str, framing: &str) -> PyResult<String> {
        let framing = framing_of(framing)?;
        Ok(py.detach(|| self.inner.listen_tcp(address, framing))?)
    }

    #[pyo3(signature = (path, *, framing = "packets"))]
    fn listen_unix(&self, path: PathBuf, framing: &str) -> PyResult<String> {
        Ok(self.inner.listen_unix(&path, framing_of(framing)?)?)
    }

    #[pyo3(signature = (address, *, protocol_id, private_key, public_address = None))]
    fn listen_udp(
        &self,
        address: &str,
        protocol_id: u64,
        private_key: [u8; 32],
        public_address: Option<&str>,
    ) -> PyResult<String> {
        Ok(self
            .inner
            .listen_udp(address, public_address, protocol_id, private_key)?)
    }

    fn listen_udp_plain(&self, address: &str) -> PyResult<String> {
        Ok(self.inner.listen_udp_plain(address)?)
    }

    fn fileno(&self) -> i32 {
        self.inner.raw_fd()
    }

    fn receive(&self) -> PacketBatch {
        self.take_batch()
    }

    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<bool> {
        Ok(py.detach(|| self.inner.wait(timeout_ms))?)
    }

    fn send(&self, writes: &Bound<'_, PyAny>) -> PyResult<usize> {
        write::send(&self.inner, writes)
    }

    #[pyo3(signature = (handler, *, on_tick = None, tick_ms = 0))]
    fn serve(
        slf: &Bound<'_, Self>,
        handler: &Bound<'_, PyAny>,
        on_tick: Option<Py<PyAny>>,
        tick_ms: u64,
    ) -> PyResult<()> {
        serve::serve(slf, handler, on_tick, tick_ms)
    }

    #[pyo3(signature = (handler, *, on_tick = None, tick_ms = 0))]
    fn serve_async<'py>(
        slf: &Bound<'py, Self>,
        handler: &Bound<'py, PyAny>,
        on_tick: Option<Py<PyAny>>,
        tick_ms: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        serve::serve_async(slf, handler, on_tick, tick_ms)
    }

    fn wake(&self) {
        self.inner.wake();
    }

    #[pyo3(signature = (connection, reason = ""))]
    fn close(&self, connection: u64, reason: &str) {
        self.inner.close(connection, reason);
    }

    fn peer(&self, connection: u64) -> Option<String> {
        self.inner.peer(connection)
    }

    #[getter]
    fn connections(&self) -> usize {
        self.inner.connections()
    }

    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<_, _> = self.inner.counters().snapshot().into_iter().collect();
        all.insert("connections_now", self.inner.connections() as u64);
        all.insert("outbound_bytes_now", self.inner.outbound_bytes() as u64);
        all
    }

    #[pyo3(signature = (drain_ms = 1_000))]
    fn stop(&self, py: Python<'_>, drain_ms: u64) {
        if self.serving.defer_stop(drain_ms) {
            self.inner.wake();
        } else {
            py.detach(|| self.stop_now(drain_ms));
        }
    }
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Edge>()
}
