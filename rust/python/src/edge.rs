//! `Edge`: the client edge for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use zmqgame_core::stream::frame;
use zmqgame_reactor::edge;
use zmqgame_reactor::edge::config::{
    Balance, ConnectTls, EdgeConfig, Framing, ListenOptions, OutboundPolicy, TlsFiles,
};

use crate::packet::PacketBatch;
use crate::ring::FrameDecoder;
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

    fn limit(&self) -> usize {
        self.inner.config().max_packet_bytes
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

/// How a byte stream is read: a name, or the rule of a decoder.
#[derive(FromPyObject)]
enum Given<'py> {
    Name(PyBackedStr),
    Decoder(Bound<'py, FrameDecoder>),
}

/// The framing that was asked for; the project's packets if none was. Lines and frames are limited as
/// packets are, unless a decoder has a limit of its own.
fn framing_of(given: Option<&Given<'_>>, limit: usize) -> PyResult<Framing> {
    let rule = match given {
        None => return Ok(Framing::Packets),
        Some(Given::Name(name)) => match &**name {
            "packets" => return Ok(Framing::Packets),
            "raw" => return Ok(Framing::Raw),
            "lines" => frame::Framing::line(limit),
            other => {
                return Err(PyValueError::new_err(format!(
                    "framing is {other:?}: must be 'packets', 'raw', 'lines' or a FrameDecoder"
                )));
            }
        },
        Some(Given::Decoder(decoder)) => Ok(decoder.get().framing()),
    };
    let rule = rule
        .and_then(|rule| rule.check_both_ways().map(|()| rule))
        .map_err(|bad| PyValueError::new_err(bad.to_string()))?;
    Ok(Framing::Frames(Arc::new(rule)))
}

fn balance_of(name: &str) -> PyResult<Balance> {
    match name {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_connections" => Ok(Balance::LeastConnections),
        "source_hash" => Ok(Balance::SourceHash),
        other => Err(PyValueError::new_err(format!(
            "balance is {other:?}: must be 'round_robin', 'least_connections' or 'source_hash'"
        ))),
    }
}

fn policy_of(name: &str) -> PyResult<OutboundPolicy> {
    match name {
        "close" => Ok(OutboundPolicy::Close),
        "drop_newest" => Ok(OutboundPolicy::DropNewest),
        "drop_droppable" => Ok(OutboundPolicy::DropDroppable),
        other => Err(PyValueError::new_err(format!(
            "outbound_policy is {other:?}: must be 'close', 'drop_newest' or 'drop_droppable'"
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
        connect_ms = 5_000,
        balance = "round_robin",
        max_connections_per_address = 0,
        packets_per_s = 0,
        packets_burst = 0,
        bytes_per_s = 0,
        bytes_burst = 0,
        outbound_policy = "close",
        droppable_kinds = Vec::new(),
        max_memory_bytes = 1 << 30,
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
        connect_ms: u64,
        balance: &str,
        max_connections_per_address: usize,
        packets_per_s: u64,
        packets_burst: u64,
        bytes_per_s: u64,
        bytes_burst: u64,
        outbound_policy: &str,
        droppable_kinds: Vec<u8>,
        max_memory_bytes: usize,
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
            connect_ms,
            balance: balance_of(balance)?,
            max_connections_per_address,
            packets_per_s,
            packets_burst,
            bytes_per_s,
            bytes_burst,
            outbound_policy: policy_of(outbound_policy)?,
            droppable_kinds: droppable_kinds.into_iter().collect(),
            max_memory_bytes,
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

    #[pyo3(signature = (
        address, *, framing = None, tls = None, proxy_protocol = false, reuse_port = false, keepalive_s = 0
    ), text_signature = "($self, address, *, framing='packets', tls=None, proxy_protocol=False, reuse_port=False, keepalive_s=0)")]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python method"
    )]
    fn listen_tcp(
        &self,
        py: Python<'_>,
        address: &str,
        framing: Option<Given<'_>>,
        tls: Option<(PathBuf, PathBuf)>,
        proxy_protocol: bool,
        reuse_port: bool,
        keepalive_s: u32,
    ) -> PyResult<String> {
        let options = ListenOptions {
            framing: framing_of(framing.as_ref(), self.limit())?,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            proxy_protocol,
            reuse_port,
            keepalive_s,
        };
        Ok(py.detach(|| self.inner.listen_tcp(address, options))?)
    }

    #[pyo3(signature = (path, *, framing = None), text_signature = "($self, path, *, framing='packets')")]
    fn listen_unix(&self, path: PathBuf, framing: Option<Given<'_>>) -> PyResult<String> {
        Ok(self
            .inner
            .listen_unix(&path, framing_of(framing.as_ref(), self.limit())?)?)
    }

    fn reload_tls(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.inner.reload_tls())?)
    }

    #[pyo3(
        signature = (address, *, framing = None, tls = None, server_name = None),
        text_signature = "($self, address, *, framing='packets', tls=None, server_name=None)"
    )]
    fn connect_tcp(
        &self,
        py: Python<'_>,
        address: &str,
        framing: Option<Given<'_>>,
        tls: Option<PathBuf>,
        server_name: Option<String>,
    ) -> PyResult<u64> {
        let framing = framing_of(framing.as_ref(), self.limit())?;
        // The name that was asked for, without its port and the brackets of an IPv6 address.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let tls = tls.map(|authorities| ConnectTls {
            authorities,
            server_name: server_name.unwrap_or_else(|| host.to_owned()),
        });
        Ok(py.detach(|| self.inner.connect_tcp(address, framing, tls.as_ref()))?)
    }

    #[pyo3(signature = (path, *, framing = None), text_signature = "($self, path, *, framing='packets')")]
    fn connect_unix(
        &self,
        py: Python<'_>,
        path: PathBuf,
        framing: Option<Given<'_>>,
    ) -> PyResult<u64> {
        let framing = framing_of(framing.as_ref(), self.limit())?;
        Ok(py.detach(|| self.inner.connect_unix(&path, framing))?)
    }

    fn pause(&self, connection: u64) {
        self.inner.pause(connection);
    }

    fn resume(&self, connection: u64) {
        self.inner.resume(connection);
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
        all.insert("memory_bytes_now", self.inner.memory_bytes() as u64);
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
