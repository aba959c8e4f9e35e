//! Which hosts take nobody new: one by one, or all that carry a label, those
//! included that come later.

use std::collections::BTreeSet;

use super::HostTable;
use crate::core::ids::{HostId, Label};

/// What the operator drained.
#[derive(Debug, Default)]
pub(super) struct Drains {
    hosts: BTreeSet<HostId>,
    labels: BTreeSet<Label>,
}

impl Drains {
    pub(super) fn cover(&self, name: &HostId, labels: &[Label]) -> bool {
        self.hosts.contains(name) || labels.iter().any(|label| self.labels.contains(label))
    }
}

impl HostTable {
    /// A draining host takes no new users. `false` when it is not known.
    pub fn set_draining(&mut self, name: &HostId, draining: bool) -> bool {
        if draining {
            self.drains.hosts.insert(name.clone());
        } else {
            self.drains.hosts.remove(name);
        }
        self.apply_drains();
        self.hosts.contains_key(name)
    }

    /// Hosts with this label take no new users, now and when they come.
    pub fn set_label_draining(&mut self, label: &Label, draining: bool) {
        if draining {
            self.drains.labels.insert(label.clone());
        } else {
            self.drains.labels.remove(label);
        }
        self.apply_drains();
    }

    /// What a host's agent says that it is called.
    pub fn set_labels(&mut self, name: &HostId, labels: Vec<Label>) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.draining = self.drains.cover(name, &labels);
            host.labels = labels;
        }
    }

    fn apply_drains(&mut self) {
        for (name, host) in &mut self.hosts {
            host.draining = self.drains.cover(name, &host.labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, live, pool, table, wish};
    use super::super::{FillOrder, HostTable};
    use super::*;
    use crate::core::codes::Code;

    fn rack(n: u8) -> Label {
        format!("rack-{n}").parse().unwrap()
    }

    fn draining(table: &HostTable) -> Vec<bool> {
        table.hosts().map(|(_, host)| host.draining).collect()
    }

    #[test]
    fn a_label_drains_every_host_that_carries_it_now_and_later() {
        let mut table = table(FillOrder::BreadthFirst, 4, 2);
        table.set_labels(&host(0), vec![rack(1), rack(2)]);
        table.set_label_draining(&rack(1), true);
        assert_eq!(draining(&table), [true, false]);
        assert_eq!(table.reserve(&wish(0, "a"), 0), Ok(host(1)));
        // One that comes later, and one that is called so later.
        table.host_connected(&host(2), &pool(), 0, &[], 0);
        table.set_labels(&host(2), vec![rack(1)]);
        table.set_labels(&host(1), vec![rack(1)]);
        assert_eq!(draining(&table), [true; 3]);
        assert_eq!(table.reserve(&wish(1, "b"), 0), Err(Code::HostDraining));
        table.set_label_draining(&rack(1), false);
        assert_eq!(draining(&table), [false; 3]);
    }

    #[test]
    fn a_host_drained_by_itself_and_by_label_drains_until_neither_holds() {
        let mut table = table(FillOrder::BreadthFirst, 4, 1);
        let home = live(&mut table, 0, "ann");
        table.set_labels(&home, vec![rack(1)]);
        assert!(table.set_draining(&home, true));
        table.set_label_draining(&rack(1), true);
        table.set_draining(&home, false);
        assert_eq!(draining(&table), [true]);
        assert_eq!(
            table.reserve(&wish(1, "ann"), 0),
            Ok(home.clone()),
            "their desktop lives there"
        );
        table.set_label_draining(&rack(1), false);
        assert_eq!(draining(&table), [false]);
    }

    #[test]
    fn a_host_is_drained_before_it_is_known() {
        let mut table = table(FillOrder::BreadthFirst, 4, 0);
        assert!(!table.set_draining(&host(0), true));
        table.host_connected(&host(0), &pool(), 0, &[], 0);
        assert_eq!(table.reserve(&wish(0, "a"), 0), Err(Code::HostDraining));
    }
}
