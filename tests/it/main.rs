//! Behaviour of the whole: one module per behaviour, one binary, so that
//! linking happens once.

// `cfg(test)` tells clippy that panicking is how these modules fail.
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod admin_access;
#[cfg(test)]
mod bench_command;
#[cfg(test)]
mod config_check;
#[cfg(test)]
mod feed_page;
#[cfg(test)]
mod fuzz_corpora;
#[cfg(test)]
mod gateway_lifecycle;
#[cfg(test)]
mod gateway_pairing;
#[cfg(test)]
mod gateway_peers;
#[cfg(test)]
mod gateway_process;
#[cfg(test)]
mod gateway_refuses;
#[cfg(test)]
mod gateway_relay;
#[cfg(test)]
mod gateway_revocation;
#[cfg(test)]
mod gateway_selection;
#[cfg(test)]
mod gateway_tickets;
#[cfg(test)]
mod histogram_dumps;
#[cfg(test)]
mod identity_provider;
#[cfg(test)]
mod login_command;
#[cfg(test)]
mod pools_crowd;
#[cfg(test)]
mod pools_health;
#[cfg(test)]
mod pools_personal;
#[cfg(test)]
mod pools_start;
#[cfg(test)]
mod rdp_command;
#[cfg(test)]
mod real_client;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod stock_arm;
#[cfg(test)]
mod stock_clients;
#[cfg(test)]
mod stock_ends;
#[cfg(test)]
mod stock_rdsaad;
#[cfg(test)]
mod stock_reauthentication;
#[cfg(test)]
mod stock_refusals;
#[cfg(test)]
mod stock_return;
#[cfg(test)]
mod stock_sessions;
#[cfg(test)]
mod stock_tsgu;
#[cfg(test)]
mod stock_tsgu_channels;
#[cfg(test)]
mod stock_websocket;
#[cfg(test)]
mod systemd_units;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod twelve_steps;
#[cfg(test)]
mod world_broker_death;
#[cfg(test)]
mod world_disconnect;
#[cfg(test)]
mod world_host_faults;
#[cfg(test)]
mod world_limits;
#[cfg(test)]
mod world_path;
#[cfg(test)]
mod world_processes;
