//! Rules that change while the table lives on: a reload of the configuration.

use std::collections::BTreeMap;

use super::Core;
use crate::config::broker::{Limits, Pool};
use crate::core::ids::PoolId;
use crate::core::placement::{HoldRules, PoolRules};

/// How long places are held.
pub(super) fn hold_rules(limits: &Limits) -> HoldRules {
    HoldRules {
        reservation_ms: limits.reservation_ms,
        order_answer_ms: limits.order_answer_timeout_ms,
        start_ms: limits.start_timeout_ms,
        orphan_ms: limits.orphan_grace_ms,
        failure_pause_ms: limits.host_failure_pause_ms,
        reservations_per_user_max: limits.reservations_per_user_max,
    }
}

pub(super) fn pool_rules(pools: &[Pool]) -> BTreeMap<PoolId, PoolRules> {
    let rules = pools.iter().map(|pool| {
        let rules = PoolRules {
            fill_order: pool.placement,
            sessions_per_host_max: pool.sessions_per_host_max,
        };
        (pool.name.clone(), rules)
    });
    rules.collect()
}

impl Core {
    /// From now on. Who has a place keeps it, whatever the new rules are.
    pub(super) fn reload(&mut self, limits: Limits, pools: &[Pool]) {
        self.limits = limits;
        self.table.set_rules(hold_rules(&limits), pool_rules(pools));
    }
}
