//! A hub that is told to stop: it confirms what it has taken, tells every node, and ends.

use super::World;
use super::what::What;

/// How often the driver looks whether all is out.
const LOOK_MS: u64 = 10;
/// Longest time that a hub may drain.
const DRAIN_MS: u64 = 2_000;

impl World {
    /// A service manager asks the hub to end, and gives it some time.
    pub(super) fn hub_stop(&mut self) {
        let until_ms = self.now_ms + self.prng.below(DRAIN_MS);
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_stop();
            self.drain_hub();
            self.later(0, What::HubDrains(self.hub_incarnation, until_ms));
        }
    }

    /// All is out: the nodes are told, and the process ends. Late: it ends.
    pub(super) fn hub_drains(&mut self, incarnation: u64, until_ms: u64) {
        if incarnation != self.hub_incarnation {
            return;
        }
        let drained = !self.store_busy;
        let Some(hub) = self.hub.as_mut() else {
            return;
        };
        if drained {
            hub.say_stop(self.now_ms);
            self.drain_hub();
        } else if self.now_ms < until_ms {
            return self.later(LOOK_MS, What::HubDrains(incarnation, until_ms));
        }
        self.hub_kill();
    }
}
