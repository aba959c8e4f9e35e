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

pub(super) fn by_name(pools: &[Pool]) -> BTreeMap<PoolId, Pool> {
    pools.iter().map(|pool| (pool.name.clone(), pool.clone())).collect()
}

pub(super) fn pool_rules(pools: &BTreeMap<PoolId, Pool>) -> BTreeMap<PoolId, PoolRules> {
    pools.iter().map(|(name, pool)| (name.clone(), pool.rules())).collect()
}

impl Core {
    /// From now on. Who has a place keeps it, whatever the new rules are.
    pub(super) fn reload(&mut self, limits: Limits, pools: &[Pool]) {
        self.limits = limits;
        self.pools = by_name(pools);
        self.table.set_rules(hold_rules(&limits), pool_rules(&self.pools));
    }
}
