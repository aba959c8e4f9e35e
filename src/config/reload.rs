//! How a running role takes over a changed configuration.
//!
//! On SIGHUP, or when one of its files has changed, the whole is read and
//! checked again. What cannot be used is refused and named, and everything
//! stays as it is; there is no half of a reload. What needs a restart is named
//! as well, and the rest is in force at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::watch::{Watch, Why};
use super::{ConfigError, File, Loaded, Problem, load};
use crate::core::clock::UnixMillis;
use crate::observe::log;
use crate::wire::admin::{ConfigView, RejectedView};

/// A role's table of a configuration file.
pub trait RoleConfig: Sized {
    const TABLE: &'static str;
    /// Settings that are taken over at once: single ones, or whole tables.
    /// All others need a restart.
    const LIVE: &'static [&'static str];

    fn of(file: File) -> Option<Self>;

    /// Further files that its content comes from: certificates and keys.
    fn files(&self) -> Vec<PathBuf>;
}

/// Why a configuration that says nothing wrong cannot be taken over.
#[derive(Debug)]
pub struct Unusable {
    pub key: &'static str,
    pub problem: String,
    pub remedy: &'static str,
}

impl Unusable {
    pub fn new(key: &'static str, problem: impl ToString, remedy: &'static str) -> Self {
        Self { key, problem: problem.to_string(), remedy }
    }
}

/// What `ctl status` shows of the configuration; nothing for a role that was
/// started without a file.
#[derive(Debug, Default)]
pub struct ConfigStatus(Mutex<Option<ConfigView>>);

impl ConfigStatus {
    #[must_use]
    pub fn view(&self) -> Option<ConfigView> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, change: impl FnOnce(&mut Option<ConfigView>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Watches over one role's configuration.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    watch: Watch,
    /// What runs and cannot change: the settings at the start.
    started: BTreeMap<String, String>,
}

impl Reloader {
    /// Reads the configuration that the role starts with, and sets the log
    /// level.
    ///
    /// # Errors
    /// When it cannot be used, or signals cannot be watched.
    pub async fn start<C: RoleConfig>(path: &Path) -> anyhow::Result<(Self, C)> {
        let mut watch = Watch::start(path.into()).await?;
        let loaded = load(path)?;
        let started = loaded.settings();
        let (config, level) = parts::<C>(path, loaded)?;
        log::set_level(level.as_deref());
        watch.follow(config.files()).await;
        Ok((Self { path: path.into(), watch, started }, config))
    }

    /// Reloads whenever it is time to, until it is dropped. `adopt` takes a
    /// configuration over, as a whole or not at all.
    pub async fn run<C: RoleConfig>(
        mut self,
        status: &ConfigStatus,
        mut adopt: impl AsyncFnMut(C) -> Result<(), Unusable>,
    ) -> Infallible {
        status.set(|view| *view = Some(self.view(Vec::new())));
        loop {
            let why = self.watch.changed().await;
            match self.reload(&mut adopt).await {
                Ok(needs_restart) => {
                    tell_reloaded(why, &needs_restart);
                    status.set(|view| *view = Some(self.view(needs_restart)));
                }
                Err(problems) => {
                    tell_rejected(why, &problems);
                    let problems = problems.iter().map(ToString::to_string).collect();
                    let rejected = RejectedView { at: UnixMillis::now(), problems };
                    status.set(|view| {
                        if let Some(view) = view {
                            view.rejected = Some(rejected);
                        }
                    });
                }
            }
        }
    }

    async fn reload<C: RoleConfig>(
        &mut self,
        adopt: &mut impl AsyncFnMut(C) -> Result<(), Unusable>,
    ) -> Result<Vec<String>, Vec<Problem>> {
        let refused = |error: ConfigError| error.problems(&self.path);
        let loaded = load(&self.path).map_err(refused)?;
        let written = loaded.written.clone();
        let (config, level) = parts::<C>(&self.path, loaded).map_err(refused)?;
        // Before they are read: what changes from here on is seen.
        self.watch.follow(config.files()).await;
        adopt(config).await.map_err(|unusable| {
            vec![Problem {
                file: self.path.clone(),
                line: Some(written.line_of(unusable.key)),
                key: Some(unusable.key.to_owned()),
                problem: unusable.problem,
                remedy: unusable.remedy.to_owned(),
            }]
        })?;
        log::set_level(level.as_deref());
        Ok(needs_restart::<C>(&self.started, &written.settings()))
    }

    fn view(&self, needs_restart: Vec<String>) -> ConfigView {
        ConfigView {
            file: self.path.display().to_string(),
            loaded_at: UnixMillis::now(),
            rejected: None,
            needs_restart,
        }
    }
}

fn parts<C: RoleConfig>(path: &Path, loaded: Loaded) -> Result<(C, Option<String>), ConfigError> {
    let level = loaded.file.log.level.clone();
    let no_role = || ConfigError::NoRole { path: path.into(), tables: C::TABLE };
    Ok((C::of(loaded.file).ok_or_else(no_role)?, level))
}

/// Settings of this role that are not as they were at the start and that it
/// cannot take over.
fn needs_restart<C: RoleConfig>(
    started: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<String> {
    let is_live = |key: &str| {
        C::LIVE.iter().any(|live| {
            key.strip_prefix(live)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let ours = format!("{}.", C::TABLE.trim_matches(['[', ']']));
    let mut keys: Vec<_> = started.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|key| key.starts_with(&ours) && !is_live(key))
        .filter(|key| started.get(*key) != now.get(*key))
        .cloned()
        .collect()
}

fn tell_reloaded(why: Why, needs_restart: &[String]) {
    tracing::info!(why = why.as_str(), "Reloaded the configuration");
    for key in needs_restart {
        tracing::warn!(%key, "This setting has changed and needs a restart");
    }
}

fn tell_rejected(why: Why, problems: &[Problem]) {
    for one in problems {
        tracing::error!(
            why = why.as_str(),
            file = %one.file.display(),
            line = one.line,
            key = one.key,
            problem = one.problem,
            remedy = one.remedy,
            "Kept the old configuration"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl RoleConfig for Sample {
        const TABLE: &'static str = "[agent]";
        const LIVE: &'static [&'static str] = &["agent.target", "agent.limits"];

        fn of(_file: File) -> Option<Self> {
            Some(Self)
        }

        fn files(&self) -> Vec<PathBuf> {
            Vec::new()
        }
    }

    #[test]
    fn what_needs_a_restart_is_what_changed_and_is_not_live() {
        let settings = |text: &str| super::super::document::parse(text).unwrap().settings();
        let started = settings("[agent]\na = 1\ntarget = 't'\ntargets = 1\n[gateway]\nx = 1\n");
        let changed = |text: &str| needs_restart::<Sample>(&started, &settings(text));
        let same = "[agent]\na = 1\ntarget = 'other'\ntargets = 1\n[agent.limits]\nb = 2\n";
        assert!(changed(same).is_empty());
        assert_eq!(changed("[agent]\na = 2\n"), ["agent.a", "agent.targets"]);
    }
}

/// What the tests of the roles share.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    const FULL: &str = include_str!("tests/full.toml");
    /// Other values of what is not any text.
    const OTHERS: [(&str, &str); 9] = [
        ("[::]:443\"", "[::]:444\""),
        ("\"1.2\"", "\"1.3\""),
        ("\"probed\"", "\"linux-6.1\""),
        ("\"breadth_first\"", "\"depth_first\""),
        ("\"pooled\"", "\"personal\""),
        ("\"personal\"", "\"pooled\""),
        ("\"automatic\"", "\"direct\""),
        ("\"Desktop\"", "\"RemoteApp\""),
        ("127.0.0.1:3389", "127.0.0.1:3390"),
    ];

    /// Changes every setting of a role, one at a time: it is taken over if and
    /// only if it is declared to be.
    pub(crate) fn assert_live_is_what_is_merged<C>(merged: fn(&C, C) -> C)
    where
        C: RoleConfig + std::fmt::Debug,
    {
        let read = |text: &str| C::of(toml::from_str::<File>(text).unwrap()).unwrap();
        let settings = |text: &str| super::super::document::parse(text).unwrap().settings();
        let (mut table, mut changed, before) = (String::new(), 0, format!("{:?}", read(FULL)));
        for (number, line) in FULL.lines().enumerate() {
            if line.starts_with('[') {
                table = line.trim_matches(['[', ']']).to_owned();
            }
            let Some((name, value)) = line.split_once(" = ") else { continue };
            // `Debug` says nothing about the tokens in there.
            if !format!("[{table}.").starts_with(C::TABLE.trim_end_matches(']'))
                || table.starts_with("broker.identity")
            {
                continue;
            }
            let changed_line = format!("{name} = {}", another(value));
            let mut lines: Vec<_> = FULL.lines().collect();
            lines[number] = &changed_line;
            let text = lines.join("\n");
            let needs_restart = !needs_restart::<C>(&settings(FULL), &settings(&text)).is_empty();
            let after = format!("{:?}", merged(&read(FULL), read(&text)));
            assert_eq!(after == before, needs_restart, "{table}.{name}");
            changed += 1;
        }
        assert!(changed > 5, "{changed} settings of {}", C::TABLE);
    }

    fn another(value: &str) -> String {
        if let Ok(number) = value.parse::<u64>() {
            return number.checked_sub(1).unwrap_or(1).to_string();
        }
        if let Ok(number) = value.parse::<f64>() {
            return format!("{:?}", number - 1.0);
        }
        if let Ok(switch) = value.parse::<bool>() {
            return (!switch).to_string();
        }
        if let Some((old, new)) = OTHERS.iter().find(|(old, _)| value.contains(old)) {
            return value.replace(old, new);
        }
        match value.strip_prefix('[') {
            Some(list) if list.starts_with('"') => format!("[\"another\", {list}"),
            Some(list) => format!("[1, {list}"),
            None => value.replacen('"', "\"x", 1),
        }
    }
}
