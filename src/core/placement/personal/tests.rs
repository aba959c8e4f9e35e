//! One user, one host: whoever asks, in whatever order, and whatever becomes
//! of the store.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::tests::{gateway, host, pool, session, table_of, wish};
use super::*;

fn table(rule: AssignmentRule, hosts: u8) -> HostTable {
    table_of(PoolKind::Personal(rule), 2, hosts)
}

fn key(user: &str) -> AssignmentKey {
    AssignmentKey { pool: pool(), user: user.into() }
}

/// Asks for a host and has it stored.
fn assigned(table: &mut HostTable, user: &str) -> Result<HostId, Code> {
    if let Assigning::Store(_) = table.assign(&wish(0, user), 0)? {
        table.assignment_stored(&key(user), true);
    }
    table.check_invariants().unwrap();
    Ok(table.assigned_host(&wish(0, user)).unwrap().clone())
}

fn live(table: &mut HostTable, n: u16, user: &str) {
    let own = table.reserve(&wish(n, user), 0).unwrap();
    table.begin_order(session(n), &gateway(0), 0).unwrap();
    assert!(table.order_accepted(session(n), &own, 0));
    assert!(table.started(session(n), &gateway(0)));
}

#[test]
fn each_user_gets_a_host_of_their_own_and_keeps_it() {
    let mut table = table(AssignmentRule::Automatic, 2);
    assert_eq!(assigned(&mut table, "ann"), Ok(host(0)));
    assert_eq!(assigned(&mut table, "bob"), Ok(host(1)));
    assert_eq!(assigned(&mut table, "eve"), Err(Code::NoFreeHost));
    for n in 0..2 {
        assert_eq!(table.reserve(&wish(n, "ann"), 0), Ok(host(0)));
    }
    assert_eq!(table.reserve(&wish(2, "ann"), 0), Err(Code::PoolFull));
    assert_eq!(table.reserve(&wish(3, "bob"), 0), Ok(host(1)));
    assert_eq!(table.reserve(&wish(4, "eve"), 0), Err(Code::NoHostAssigned));
}

#[test]
fn of_two_who_want_the_last_free_host_one_gets_it() {
    let mut table = table(AssignmentRule::Automatic, 1);
    assert_eq!(table.assign(&wish(0, "ann"), 0), Ok(Assigning::Store(host(0))));
    assert_eq!(
        table.assign(&wish(1, "bob"), 0),
        Err(Code::NoFreeHost),
        "not even while it is stored"
    );
    assert_eq!(table.assign(&wish(2, "ann"), 0), Ok(Assigning::BeingStored));
    assert_eq!(
        table.reserve(&wish(0, "ann"), 0),
        Err(Code::NoHostAssigned),
        "not before it is stored"
    );
    table.assignment_stored(&key("ann"), true);
    assert_eq!(table.assign(&wish(2, "ann"), 0), Ok(Assigning::Settled));
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Ok(host(0)));
}

#[test]
fn what_cannot_be_stored_is_nobodys() {
    let mut table = table(AssignmentRule::Automatic, 1);
    assert_eq!(table.assign(&wish(0, "ann"), 0), Ok(Assigning::Store(host(0))));
    table.assignment_stored(&key("ann"), false);
    assert_eq!(assigned(&mut table, "bob"), Ok(host(0)));
}

#[test]
fn the_user_of_a_host_that_is_away_is_not_sent_elsewhere() {
    let mut table = table(AssignmentRule::Automatic, 2);
    assigned(&mut table, "ann").unwrap();
    table.host_disconnected(&host(0), 0);
    assert_eq!(assigned(&mut table, "ann"), Ok(host(0)));
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Err(Code::AssignedHostAway));
    // Enrolled again in another pool: it is not theirs there.
    table.host_connected(&host(0), &"other".parse().unwrap(), 0, &[], 0);
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Err(Code::AssignedHostAway));
}

#[test]
fn assignments_of_an_earlier_run_hold() {
    let mut table = table(AssignmentRule::Automatic, 2);
    table.assignment_known(key("bob"), host(0));
    assert_eq!(assigned(&mut table, "ann"), Ok(host(1)));
    assert_eq!(table.reserve(&wish(0, "bob"), 0), Ok(host(0)));
    assert_eq!(table.assignments().count(), 2);
}

#[test]
fn a_user_returns_to_their_session_on_a_host_that_drains_or_ails() {
    let mut table = table(AssignmentRule::Automatic, 1);
    assigned(&mut table, "ann").unwrap();
    table.set_draining(&host(0), true);
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Err(Code::HostDraining));
    table.set_draining(&host(0), false);
    live(&mut table, 0, "ann");
    table.set_draining(&host(0), true);
    table.set_fitness(&host(0), Fitness::Unfit);
    assert_eq!(table.reserve(&wish(1, "ann"), 0), Ok(host(0)), "even on a draining host");
    table.release(session(1)).unwrap();
    table.release(session(0)).unwrap();
    table.set_draining(&host(0), false);
    assert_eq!(table.reserve(&wish(2, "ann"), 0), Err(Code::HostUnhealthy));
}

#[test]
fn a_first_connect_skips_hosts_that_are_not_fit_for_it() {
    let mut table = table(AssignmentRule::Automatic, 4);
    table.set_fitness(&host(0), Fitness::Unfit);
    table.set_fitness(&host(1), Fitness::Impaired);
    table.set_draining(&host(2), true);
    assert_eq!(assigned(&mut table, "ann"), Ok(host(3)));
    assert_eq!(assigned(&mut table, "bob"), Ok(host(1)));
    assert_eq!(table.assign(&wish(0, "eve"), 0), Err(Code::HostUnhealthy));
    table.set_draining(&host(0), true);
    assert_eq!(table.assign(&wish(0, "eve"), 0), Err(Code::HostDraining));
    table.host_disconnected(&host(0), 0);
    table.host_disconnected(&host(2), 0);
    assert_eq!(table.assign(&wish(0, "eve"), 0), Err(Code::NoHostAvailable));
}

#[test]
fn the_operator_gives_and_takes() {
    let mut table = table(AssignmentRule::Direct, 2);
    assert_eq!(table.assign(&wish(0, "ann"), 0), Ok(Assigning::Settled));
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Err(Code::NoHostAssigned));
    table.assign_directly(key("ann"), host(1)).unwrap();
    assert_eq!(table.assign_directly(key("ann"), host(1)), Err(AssignError::Busy));
    table.assignment_stored(&key("ann"), true);
    live(&mut table, 0, "ann");
    assert_eq!(
        table.assign_directly(key("bob"), host(1)),
        Err(AssignError::HostTaken { host: host(1), user: "ann".into() })
    );
    assert_eq!(
        table.assign_directly(key("ann"), host(0)),
        Err(AssignError::UserHasHost { user: "ann".into(), host: host(1) })
    );
    assert!(table.unassign(&key("ann"), &host(0)).is_err(), "not theirs");
    table.unassign(&key("ann"), &host(1)).unwrap();
    assert!(table.assign_directly(key("bob"), host(1)).is_err(), "not before it is stored");
    table.assignment_stored(&key("ann"), true);
    table.assign_directly(key("bob"), host(1)).unwrap();
    table.assignment_stored(&key("bob"), true);
    assert_eq!(table.reserve(&wish(1, "ann"), 0), Err(Code::NoHostAssigned));
    assert_eq!(table.reserve(&wish(1, "bob"), 0), Err(Code::PoolFull), "ann still sits there");
    table.release(session(0)).unwrap();
    assert_eq!(table.reserve(&wish(1, "bob"), 0), Ok(host(1)));
}

#[test]
fn a_host_that_was_taken_away_is_not_given_on_while_its_user_sits_there() {
    let mut table = table(AssignmentRule::Automatic, 1);
    assigned(&mut table, "ann").unwrap();
    live(&mut table, 0, "ann");
    table.unassign(&key("ann"), &host(0)).unwrap();
    assert_eq!(table.assign(&wish(1, "ann"), 0), Ok(Assigning::BeingStored));
    table.assignment_stored(&key("ann"), true);
    assert_eq!(table.assign(&wish(1, "bob"), 0), Err(Code::NoFreeHost));
    table.release(session(0)).unwrap();
    assert_eq!(assigned(&mut table, "bob"), Ok(host(0)));
}

#[test]
fn only_hosts_and_pools_that_there_are_can_be_assigned() {
    let mut table = table(AssignmentRule::Direct, 1);
    let elsewhere = AssignmentKey { pool: "other".parse().unwrap(), user: "ann".into() };
    let refused = table.assign_directly(elsewhere, host(0)).unwrap_err();
    assert!(matches!(refused, AssignError::NotPersonal(_)));
    let refused = table.assign_directly(key("ann"), host(7)).unwrap_err();
    assert!(matches!(refused, AssignError::HostUnknown { .. }));
}

/// What users, the operator and the store do.
#[derive(Clone, Debug)]
enum Event {
    Connect { user: u8 },
    Give { user: u8, host: u8 },
    Take { user: u8, host: u8 },
    Stored { user: u8, succeeded: bool },
    Off { host: u8 },
    On { host: u8 },
}

fn any_event() -> impl Strategy<Value = Event> {
    let (user, on) = (0_u8..5, 0_u8..3);
    prop_oneof![
        4 => user.clone().prop_map(|user| Event::Connect { user }),
        1 => (user.clone(), on.clone()).prop_map(|(user, host)| Event::Give { user, host }),
        1 => (user.clone(), on.clone()).prop_map(|(user, host)| Event::Take { user, host }),
        4 => (user, prop::bool::weighted(0.8)).prop_map(|(user, succeeded)| Event::Stored { user, succeeded }),
        1 => on.clone().prop_map(|host| Event::Off { host }),
        2 => on.prop_map(|host| Event::On { host }),
    ]
}

proptest! {
    #[test]
    fn a_user_is_only_ever_placed_where_the_store_says(
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let mut table = table(AssignmentRule::Automatic, 3);
        // What the store was asked to do, and what it holds.
        let mut asked: BTreeMap<String, (HostId, bool)> = BTreeMap::new();
        let mut held: BTreeMap<String, HostId> = BTreeMap::new();
        for (n, event) in (0_u16..).zip(events) {
            let name = |user: u8| format!("u{user}");
            match event {
                Event::Connect { user } => {
                    let wish = wish(n, &name(user));
                    match table.assign(&wish, 0) {
                        Ok(Assigning::Store(host)) => {
                            prop_assert!(asked.insert(wish.user.clone(), (host, true)).is_none());
                        }
                        Ok(Assigning::Settled) => {
                            if let Ok(placed) = table.reserve(&wish, 0) {
                                prop_assert_eq!(Some(&placed), held.get(&wish.user));
                                table.release(wish.session);
                            }
                        }
                        Ok(Assigning::BeingStored) => prop_assert!(asked.contains_key(&wish.user)),
                        Err(_) => {}
                    }
                }
                Event::Give { user, host: h } => {
                    if table.assign_directly(key(&name(user)), host(h)).is_ok() {
                        prop_assert!(asked.insert(name(user), (host(h), true)).is_none());
                    }
                }
                Event::Take { user, host: h } => {
                    if table.unassign(&key(&name(user)), &host(h)).is_ok() {
                        prop_assert!(asked.insert(name(user), (host(h), false)).is_none());
                    }
                }
                Event::Stored { user, succeeded } => {
                    if let Some((host, give)) = asked.remove(&name(user)) {
                        if succeeded && give {
                            held.insert(name(user), host);
                        } else if succeeded {
                            held.remove(&name(user));
                        }
                        table.assignment_stored(&key(&name(user)), succeeded);
                    }
                }
                Event::Off { host: h } => drop(table.host_disconnected(&host(h), 0)),
                Event::On { host: h } => drop(table.host_connected(&host(h), &pool(), 0, &[], 0)),
            }
            table.check_invariants().unwrap();
            let mut hosts: Vec<_> = held.values().collect();
            hosts.sort();
            hosts.dedup();
            prop_assert_eq!(hosts.len(), held.len(), "two users have one host: {:?}", held);
        }
    }
}
