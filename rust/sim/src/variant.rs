//! A world without one rule of BUS.md. Without the feature `broken` there is one variant: the one with all rules.

#[cfg(feature = "broken")]
use crate::checker::Violation;
#[cfg(feature = "broken")]
use crate::world::run_variant;
#[cfg(feature = "broken")]
use zmqgame_core::bus::broken::{Broken, Rule};
use zmqgame_core::bus::hub::Hub;
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::bus::node::Node;

/// Which rule is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Variant {
    #[cfg(feature = "broken")]
    rule: Option<Rule>,
}

impl Variant {
    /// One rule less.
    #[cfg(feature = "broken")]
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self { rule: Some(rule) }
    }

    /// Whether every rule is there.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        #[cfg(feature = "broken")]
        return self.rule.is_none();
        #[cfg(not(feature = "broken"))]
        true
    }

    /// Whether clients handle what they have handled before [26, 27].
    #[must_use]
    pub fn client_is_forgetful(self) -> bool {
        #[cfg(feature = "broken")]
        return matches!(self.rule, Some(Rule::CursorHolds | Rule::ClientCursor));
        #[cfg(not(feature = "broken"))]
        false
    }

    /// Whether clients bring no cursor to their next host [27].
    #[must_use]
    pub fn client_brings_nothing(self) -> bool {
        #[cfg(feature = "broken")]
        return self.rule == Some(Rule::ClientCursor);
        #[cfg(not(feature = "broken"))]
        false
    }

    /// Takes the rule from a hub.
    #[cfg_attr(not(feature = "broken"), allow(unused_variables, clippy::unused_self))]
    pub fn change_hub(self, hub: &mut Hub) {
        #[cfg(feature = "broken")]
        if let Some(rule) = self.rule {
            hub.break_rule(Broken::without(rule));
        }
    }

    /// Takes the rule from a node.
    #[cfg_attr(not(feature = "broken"), allow(unused_variables, clippy::unused_self))]
    pub fn change_node(self, node: &mut Node) {
        #[cfg(feature = "broken")]
        if let Some(rule) = self.rule {
            node.break_rule(Broken::without(rule));
        }
    }

    /// Takes the rule from a store.
    #[cfg_attr(not(feature = "broken"), allow(unused_variables, clippy::unused_self))]
    pub fn change_store(self, store: &mut MemoryStore) {
        #[cfg(feature = "broken")]
        if let Some(rule) = self.rule {
            store.break_rule(Broken::without(rule));
        }
    }
}

/// The first of these seeds that fails without a rule, and what it finds.
#[cfg(feature = "broken")]
#[must_use]
pub fn first_seed(rule: Rule, seeds: std::ops::Range<u64>) -> Option<(u64, Violation)> {
    seeds.into_iter().find_map(|seed| {
        let verdict = run_variant(seed, false, Variant::without(rule));
        Some((seed, verdict.checker.violations.into_iter().next()?))
    })
}
