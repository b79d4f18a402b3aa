//! SQLite's log, looked through before SQLite does.

use pyo3::prelude::*;
use zmqgame_core::sqlite_log::log_end;

/// Where the readable part of a `-wal` file ends, and how many transactions of it stand behind.
#[pyfunction]
fn sqlite_log_end(py: Python<'_>, data: &[u8]) -> (usize, usize) {
    let end = py.detach(|| log_end(data));
    (end.readable_bytes, end.commits_behind)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sqlite_log_end, module)?)
}
