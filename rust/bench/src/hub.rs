//! A hub without Python: its mailbox is in memory.

use std::io;
use std::time::Duration;

use zmqgame_core::bus::hub::HubConfig;
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::zmtp::{Config, Role, Security};
use zmqgame_reactor::bus::hub::HubRunner;

use crate::options::Options;
use crate::say;

/// Runs until it is killed.
///
/// # Errors
/// The address can't be bound.
pub fn hub(options: &Options) -> io::Result<()> {
    let config = HubConfig {
        hub_grace_ms: 10,
        ..HubConfig::default()
    };
    let zmtp = Config::new(Role::Server, Security::Null);
    let hub = HubRunner::start(config, zmtp, &[format!("tcp://{}", options.address)])?;
    say(hub.endpoints()[0].trim_start_matches("tcp://"));
    let mut store = MemoryStore::default();
    while hub.wait(Duration::ZERO).is_none() {
        if let Some(batch) = hub.store().next(Duration::from_millis(200)) {
            let done = store.commit(&batch);
            // It is the batch that was just taken, with all results.
            let _ = hub.store().finish(batch.number, Ok(done));
        }
    }
    Ok(())
}
