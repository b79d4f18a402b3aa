//! `echo_load`: the load generator for echo servers, without the GIL.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use zmqgame_reactor::load::{Load, Plan, Wire};

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
    let plan = Plan {
        wire: match wire {
            "raw" => Wire::Raw,
            "packets" => Wire::Packets,
            "websocket" => Wire::WebSocket,
            other => {
                return Err(PyValueError::new_err(format!(
                    "wire is {other:?}: must be 'raw', 'packets' or 'websocket'"
                )));
            }
        },
        connections,
        depth,
        message_bytes,
    };
    let warm_up = seconds("warm_up_s", warm_up_s)?;
    let duration = seconds("duration_s", duration_s)?;
    let report = py.detach(|| Load::connect(address, &plan)?.run(warm_up, duration))?;
    let found = PyDict::new(py);
    found.set_item("messages", report.messages)?;
    found.set_item("messages_in_all", report.messages_in_all)?;
    found.set_item("seconds", report.duration.as_secs_f64())?;
    found.set_item("rounds", report.rounds_us.len())?;
    for (name, share) in SHARES {
        found.set_item(name, report.round_us(share))?;
    }
    Ok(found)
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(echo_load, module)?)
}
