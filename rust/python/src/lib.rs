//! The border to Python: thin classes over `zmqgame-core` and `zmqgame-reactor`.

mod edge;
mod hop_sums;
mod hub;
mod inline;
mod load;
mod netcode;
mod node;
mod node_driver;
mod node_events;
mod node_receipts;
mod node_values;
mod packet;
mod race;
mod ring;
mod serve;
mod sqlite_log;
mod store;
mod write;
mod zmtp;

use pyo3::prelude::*;

/// The allocator of the Rust side: a third less time a message in the hub than with the C library's, half in a node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The native module of zmqgame.
#[pymodule]
fn zmqgame_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    node::register(module)?;
    packet::register(module)?;
    write::register(module)?;
    ring::register(module)?;
    edge::register(module)?;
    load::register(module)?;
    hub::register(module)?;
    hop_sums::register(module)?;
    zmtp::register(module)?;
    netcode::register(module)?;
    race::register(module)?;
    sqlite_log::register(module)?;
    store::register(module)?;
    Ok(())
}
