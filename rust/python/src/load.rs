//! The loads of the edge's benchmark and their native echo, without the GIL.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use zmqgame_reactor::load::udp::UdpLoad;
use zmqgame_reactor::load::{Echo, Load, Plan, Wire, flood};

use crate::edge::Edge;

/// The shares of rounds that are reported.
const SHARES: [(&str, f64); 5] = [
    ("p50_us", 0.5),
    ("p90_us", 0.9),
    ("p99_us", 0.99),
    ("p99.9_us", 0.999),
    ("max_us", 1.0),
];

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| duration.as_secs() < 86_400)
        .ok_or_else(|| PyValueError::new_err(format!("{name} is {value}: must be 0 to a day")))
}

/// Load an echo server from one native thread, without the GIL; return what was measured.
///
/// Each connection has `depth` messages under way (a round); when all are back the next ones go out. `wire`
/// is `raw`, `packets`, `websocket` (packets as binary messages) or `udp` (datagrams, a socket each). The
/// result has `messages`, `seconds`, `messages_in_all` (warm-up too), `rounds`, `lost` (datagrams), and of
/// the rounds `p50_us`, `p90_us`, `p99_us`, `p99.9_us`, `max_us`. Raise OSError when a connection breaks.
#[pyfunction]
#[pyo3(signature = (address, *, wire = "packets", connections = 1_000, depth = 1, message_bytes = 64, warm_up_s = 0.3, duration_s = 5.0))]
#[expect(
    clippy::too_many_arguments,
    reason = "keyword arguments of the Python function"
)]
fn echo_load<'py>(
    py: Python<'py>,
    address: &str,
    wire: &str,
    connections: usize,
    depth: usize,
    message_bytes: usize,
    warm_up_s: f64,
    duration_s: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let wire = match wire {
        "raw" => Some(Wire::Raw),
        "packets" => Some(Wire::Packets),
        "websocket" => Some(Wire::WebSocket),
        "udp" => None,
        other => {
            return Err(PyValueError::new_err(format!(
                "wire is {other:?}: must be 'raw', 'packets', 'websocket' or 'udp'"
            )));
        }
    };
    let warm_up = seconds("warm_up_s", warm_up_s)?;
    let duration = seconds("duration_s", duration_s)?;
    let report = py.detach(|| match wire {
        None => {
            let load = UdpLoad::connect(address, connections, depth, message_bytes);
            load?.run(warm_up, duration)
        }
        Some(wire) => {
            let plan = Plan {
                wire,
                connections,
                depth,
                message_bytes,
            };
            Load::connect(address, &plan)?.run(warm_up, duration)
        }
    })?;
    let found = PyDict::new(py);
    found.set_item("messages", report.messages)?;
    found.set_item("messages_in_all", report.messages_in_all)?;
    found.set_item("seconds", report.duration.as_secs_f64())?;
    found.set_item("rounds", report.rounds_us.len())?;
    found.set_item("lost", report.lost)?;
    for (name, share) in SHARES {
        found.set_item(name, report.round_us(share))?;
    }
    Ok(found)
}

/// Send datagrams of many sockets in turn, as fast as one native thread can; return how many.
///
/// With `private_key` they are netcode sessions, whose tokens are made with it. Nothing is awaited but
/// their begin: raise OSError when that takes too long.
#[pyfunction]
#[pyo3(signature = (address, *, sessions = 100, packet_bytes = 76, duration_s = 5.0, protocol_id = 0, private_key = None))]
fn udp_flood(
    py: Python<'_>,
    address: &str,
    sessions: usize,
    packet_bytes: usize,
    duration_s: f64,
    protocol_id: u64,
    private_key: Option<[u8; 32]>,
) -> PyResult<u64> {
    let plan = flood::Plan {
        sessions,
        packet_bytes,
        netcode: private_key.map(|key| (protocol_id, key)),
    };
    let duration = seconds("duration_s", duration_s)?;
    Ok(py.detach(|| flood::run(address, &plan, duration))?)
}

/// Let a native handler on each loop send everything back from now on, to show what Python adds.
#[pyfunction]
fn echo_natively(py: Python<'_>, edge: &Bound<'_, Edge>) -> PyResult<()> {
    let edge = edge.get();
    edge.serving.check_not_on_loop()?;
    Ok(py.detach(|| {
        let loops = 0..edge.inner().config().loops;
        loops
            .into_iter()
            .try_for_each(|index| edge.inner().set_handler(index, Some(Box::new(Echo))))
    })?)
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(udp_flood, module)?)?;
    module.add_function(wrap_pyfunction!(echo_natively, module)?)?;
    module.add_function(wrap_pyfunction!(echo_load, module)?)
}
