//! `Edge`: the client edge for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{self, Write};

use crate::packet::PacketBatch;

/// Connections of many clients as batches of packets.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct Edge(edge::Edge);

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
        Ok(Self(edge::Edge::start(config)?))
    }

    #[pyo3(signature = (address, *, framing = "packets"))]
    fn listen_tcp(&self, py: Python<'_>, address: &str, framing: &str) -> PyResult<String> {
        let framing = framing_of(framing)?;
        Ok(py.detach(|| self.0.listen_tcp(address, framing))?)
    }

    #[pyo3(signature = (path, *, framing = "packets"))]
    fn listen_unix(&self, path: PathBuf, framing: &str) -> PyResult<String> {
        Ok(self.0.listen_unix(&path, framing_of(framing)?)?)
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
            .0
            .listen_udp(address, public_address, protocol_id, private_key)?)
    }

    fn listen_udp_plain(&self, address: &str) -> PyResult<String> {
        Ok(self.0.listen_udp_plain(address)?)
    }

    fn fileno(&self) -> i32 {
        self.0.raw_fd()
    }

    fn receive(&self) -> PacketBatch {
        self.0.receive().into()
    }

    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<bool> {
        Ok(py.detach(|| self.0.wait(timeout_ms))?)
    }

    fn send(&self, writes: &Bound<'_, PyAny>) -> PyResult<usize> {
        type Item<'py> = (u64, u8, u64, Bound<'py, PyBytes>);
        let mut items: Vec<Item<'_>> = Vec::with_capacity(writes.len().unwrap_or(0));
        for item in writes.try_iter()? {
            items.push(item?.extract()?);
        }
        Ok(self.0.send(
            items
                .iter()
                .map(|(connection, kind, sequence, payload)| Write {
                    connection: *connection,
                    kind: *kind,
                    sequence: *sequence,
                    payload: payload.as_bytes(),
                }),
        ))
    }

    #[pyo3(signature = (connection, reason = ""))]
    fn close(&self, connection: u64, reason: &str) {
        self.0.close(connection, reason);
    }

    fn peer(&self, connection: u64) -> Option<String> {
        self.0.peer(connection)
    }

    #[getter]
    fn connections(&self) -> usize {
        self.0.connections()
    }

    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<_, _> = self.0.counters().snapshot().into_iter().collect();
        all.insert("connections_now", self.0.connections() as u64);
        all.insert("outbound_bytes_now", self.0.outbound_bytes() as u64);
        all
    }

    #[pyo3(signature = (drain_ms = 1_000))]
    fn stop(&self, py: Python<'_>, drain_ms: u64) {
        py.detach(|| self.0.stop(drain_ms));
    }
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Edge>()
}
