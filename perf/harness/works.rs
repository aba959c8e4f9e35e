//! What is compared: the works of the report, and the runs of `ringway bench`
//! that they are taken from.

use crate::engines::{Engine, Legs};
use crate::legs::Leg;

/// Sessions of the runs in which everything competes for one core.
const BULK_SESSIONS: [u32; 3] = [1, 8, 64];
/// An office at work, and three times as many users of whom two in three are
/// away: the offered rate is about the same, so that the rows differ in the number
/// of sessions. A thousand at work are more than one core carries for most relays,
/// and more than the generator's: there would be nothing but queues to see.
const MIX_SESSIONS: [u32; 2] = [300, 1_000];
const AWAY_FROM_SESSIONS: u32 = 1_000;
/// The bench's own mix with twenty more that are idle.
const MIX_MOSTLY_AWAY: &str = "word=4,excel=3,powerpoint=1,web=1,idle=21";
const PING_SESSIONS: u32 = 64;
const FRAMING_BULK_SESSIONS: u32 = 8;
const FRAMING_MIX_SESSIONS: u32 = 300;
const HANDSHAKES_AT_ONCE: u32 = 32;
const BUSY_SESSIONS: u32 = 100;
const STORM_SESSIONS: u32 = 300;
/// Full handshakes per second beside the sessions of the storm.
const STORM_PER_S: u32 = 500;
/// Descriptors of a relay or generator beside two for each pair.
const OTHER_DESCRIPTORS: u32 = 400;

/// A line of the result, or several with different numbers of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Work {
    Bulk,
    Mix,
    Ping,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    IdleRss,
    Handshake,
    StalledReader,
    StormP99,
    FramingBulkDown,
    FramingBulkUp,
    FramingMix,
}

impl Work {
    pub const ALL: [Self; 13] = [
        Self::Bulk,
        Self::Mix,
        Self::Ping,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::IdleRss,
        Self::Handshake,
        Self::StalledReader,
        Self::StormP99,
        Self::FramingBulkDown,
        Self::FramingBulkUp,
        Self::FramingMix,
    ];

    pub const fn key(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Mix => "mix",
            Self::Ping => "ping",
            Self::LatencyP50 => "latency_p50",
            Self::LatencyP99 => "latency_p99",
            Self::LatencyP999 => "latency_p999",
            Self::IdleRss => "idle_rss",
            Self::Handshake => "handshake",
            Self::StalledReader => "stalled_reader",
            Self::StormP99 => "storm_p99",
            Self::FramingBulkDown => "framing_bulk_down",
            Self::FramingBulkUp => "framing_bulk_up",
            Self::FramingMix => "framing_mix",
        }
    }

    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bulk | Self::FramingBulkDown | Self::FramingBulkUp => "cpu_s_per_gb",
            Self::Mix | Self::FramingMix => "cpu_us_per_message",
            Self::Ping => "messages_per_s_per_core",
            Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 => "added_us",
            Self::IdleRss => "rss_bytes_per_pair",
            Self::Handshake => "handshakes_per_s_per_core",
            Self::StalledReader | Self::StormP99 => "p99_ratio",
        }
    }

    /// The runs that it needs.
    pub fn scenarios(self, plan: &Plan) -> Vec<Scenario> {
        match self {
            Self::Bulk => {
                let bulk = BULK_SESSIONS.map(Scenario::Bulk);
                [Scenario::Floor].into_iter().chain(bulk).collect()
            }
            Self::Mix | Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 => {
                MIX_SESSIONS.map(Scenario::Mix).to_vec()
            }
            Self::Ping => vec![Scenario::Ping(PING_SESSIONS)],
            Self::IdleRss => vec![Scenario::Idle(plan.idle_sessions)],
            Self::Handshake => vec![Scenario::Handshake],
            Self::StalledReader => {
                vec![Scenario::Busy(BUSY_SESSIONS), Scenario::Stalled(BUSY_SESSIONS)]
            }
            Self::StormP99 => vec![Scenario::Mix(STORM_SESSIONS), Scenario::Storm(STORM_SESSIONS)],
            Self::FramingBulkDown => Leg::ALL.map(|leg| Scenario::Framed(Load::Down, leg)).to_vec(),
            Self::FramingBulkUp => Leg::ALL.map(|leg| Scenario::Framed(Load::Up, leg)).to_vec(),
            Self::FramingMix => Leg::ALL.map(|leg| Scenario::Framed(Load::Mix, leg)).to_vec(),
        }
    }
}

/// What is moved to see what a client's framing costs. Unmasking is only paid
/// upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    Down,
    Up,
    Mix,
}

/// One way to run `ringway bench`, with its number of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The one that `ringway bench` has no part in.
    Floor,
    Bulk(u32),
    Mix(u32),
    Storm(u32),
    Ping(u32),
    Idle(u32),
    Handshake,
    Busy(u32),
    Stalled(u32),
    /// Of Ringway alone: no other has such clients.
    Framed(Load, Leg),
}

impl Scenario {
    pub const fn sessions(self) -> u32 {
        match self {
            Self::Floor => 1,
            Self::Handshake => HANDSHAKES_AT_ONCE,
            Self::Framed(Load::Down | Load::Up, _) => FRAMING_BULK_SESSIONS,
            Self::Framed(Load::Mix, _) => FRAMING_MIX_SESSIONS,
            Self::Bulk(sessions)
            | Self::Mix(sessions)
            | Self::Storm(sessions)
            | Self::Ping(sessions)
            | Self::Idle(sessions)
            | Self::Busy(sessions)
            | Self::Stalled(sessions) => sessions,
        }
    }

    /// For file names and progress.
    pub fn key(self) -> String {
        let name = match self {
            Self::Floor => return "floor".to_owned(),
            Self::Handshake => return "handshake".to_owned(),
            Self::Bulk(_) => "bulk",
            Self::Mix(_) => "mix",
            Self::Storm(_) => "storm",
            Self::Ping(_) => "ping",
            Self::Idle(_) => "idle",
            Self::Busy(_) => "busy",
            Self::Stalled(_) => "stalled",
            Self::Framed(load, leg) => {
                let load = match load {
                    Load::Down => "down",
                    Load::Up => "up",
                    Load::Mix => "mix",
                };
                return format!("framing-{load}-{}", leg.key());
            }
        };
        format!("{name}-{}", self.sessions())
    }

    /// Why this engine cannot do it, or does not have to.
    pub fn does_not_apply(self, engine: Engine) -> Option<&'static str> {
        if (engine == Engine::Floor) != (self == Self::Floor) {
            return Some("the floor is stated for bulk alone");
        }
        match (self, engine.legs(), engine) {
            (Self::Framed(..), _, Engine::Ringway) => None,
            (Self::Framed(..), ..) => Some("only Ringway has clients with such a framing"),
            (Self::Handshake | Self::Storm(_), Legs::Tcp, _) => {
                Some("its visitors come without TLS: there is no handshake")
            }
            (Self::Mix(_), _, _) => None,
            (_, _, Engine::Direct | Engine::DirectTcp) => Some("only latency needs a baseline"),
            _ => None,
        }
    }

    /// Whether its latencies are kept as they were recorded.
    pub const fn keeps_histogram(self) -> bool {
        matches!(self, Self::Mix(_))
    }

    /// Arguments of `ringway bench`, without what says where.
    pub fn arguments(self, plan: &Plan) -> Vec<String> {
        let sessions = self.sessions().to_string();
        let seconds = self.seconds(plan).to_string();
        let warm_up = plan.warm_up_s.to_string();
        let storm = STORM_PER_S.to_string();
        let timed = ["--seconds", &seconds, "--warm-up-seconds", &warm_up];
        let (command, more): (&[&str], &[&str]) = match self {
            Self::Floor => return Vec::new(),
            Self::Idle(_) => {
                (&["sessions", "--idle", "--sessions", &sessions], &["--hold-seconds", &seconds])
            }
            Self::Handshake => (&["handshake", "--concurrent", &sessions], &timed),
            _ => (&["relay", "--sessions", &sessions], &timed),
        };
        let mut arguments = [command, more].concat();
        match self {
            // A download: what RDP moves most.
            Self::Bulk(_) => arguments.extend(["--profile", "bulk", "--direction", "down"]),
            Self::Ping(_) => arguments.extend(["--profile", "ping"]),
            Self::Mix(sessions) if sessions >= AWAY_FROM_SESSIONS => {
                arguments.extend(["--mix", MIX_MOSTLY_AWAY]);
            }
            Self::Stalled(_) => arguments.extend(["--stalled", "1"]),
            Self::Storm(_) => arguments.extend(["--storm", &storm]),
            Self::Framed(load, leg) => {
                match load {
                    Load::Down => arguments.extend(["--profile", "bulk", "--direction", "down"]),
                    Load::Up => arguments.extend(["--profile", "bulk", "--direction", "up"]),
                    Load::Mix => {}
                }
                arguments.extend(["--leg", leg.key()]);
            }
            // The mix is the default of the bench.
            Self::Floor | Self::Handshake | Self::Idle(_) | Self::Mix(_) | Self::Busy(_) => {}
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    pub const fn seconds(self, plan: &Plan) -> u32 {
        match self {
            Self::Floor | Self::Bulk(_) | Self::Ping(_) | Self::Handshake | Self::Framed(..) => {
                plan.short_s
            }
            Self::Mix(_) | Self::Storm(_) => plan.long_s,
            Self::Busy(_) | Self::Stalled(_) => plan.stalled_s,
            Self::Idle(_) => plan.idle_hold_s,
        }
    }
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Plan {
    pub quick: bool,
    pub rounds: usize,
    pub works: Vec<Work>,
    warm_up_s: u32,
    /// Where every run yields one number.
    short_s: u32,
    /// Where it yields the 99.9th percentile.
    long_s: u32,
    stalled_s: u32,
    idle_hold_s: u32,
    idle_sessions: u32,
}

impl Plan {
    /// `descriptors` is how many a process here may have: it bounds the pairs
    /// that can be open.
    pub fn new(quick: bool, rounds: Option<usize>, only: &[Work], descriptors: u32) -> Self {
        let works = if only.is_empty() { Work::ALL.to_vec() } else { only.to_vec() };
        let pairs_max = descriptors.saturating_sub(OTHER_DESCRIPTORS) / 200 * 100;
        if quick {
            Self {
                quick,
                rounds: rounds.unwrap_or(1),
                works,
                warm_up_s: 1,
                short_s: 2,
                long_s: 4,
                stalled_s: 4,
                idle_hold_s: 1,
                idle_sessions: pairs_max.min(2_000),
            }
        } else {
            Self {
                quick,
                rounds: rounds.unwrap_or(3),
                works,
                warm_up_s: 2,
                short_s: 8,
                long_s: 15,
                stalled_s: 20,
                idle_hold_s: 3,
                idle_sessions: pairs_max.min(10_000),
            }
        }
    }

    /// Holds the stalled reader for another time: long enough to see whether
    /// memory grows.
    pub fn with_stalled_seconds(mut self, seconds: Option<u32>) -> Self {
        self.stalled_s = seconds.unwrap_or(self.stalled_s);
        self
    }

    /// Every run of one round, in order: for each scenario all engines. Each
    /// round begins with another engine, so that none always follows the same.
    pub fn runs(&self, round: usize) -> Vec<(Scenario, Engine)> {
        let mut engines = [
            Engine::Ringway,
            Engine::Haproxy,
            Engine::Nginx,
            Engine::Rathole,
            Engine::Epoll,
            Engine::Floor,
            Engine::Direct,
            Engine::DirectTcp,
        ];
        let first = round % engines.len();
        engines.rotate_left(first);
        let mut runs = Vec::new();
        for scenario in self.scenarios() {
            let able = engines.iter().filter(|engine| scenario.does_not_apply(**engine).is_none());
            runs.extend(able.map(|engine| (scenario, *engine)));
        }
        runs
    }

    fn scenarios(&self) -> Vec<Scenario> {
        let mut scenarios: Vec<Scenario> = Vec::new();
        for scenario in self.works.iter().flat_map(|work| work.scenarios(self)) {
            if !scenarios.contains(&scenario) {
                scenarios.push(scenario);
            }
        }
        scenarios
    }

    /// About how long a run takes, in seconds, for the time that is left.
    pub const fn estimate_s(&self, scenario: Scenario) -> u32 {
        // Starting, opening the sessions and closing them.
        let around = 2 + scenario.sessions() / 500;
        match scenario {
            Scenario::Floor => 2 * scenario.seconds(self) + 1,
            Scenario::Idle(_) => scenario.seconds(self) + around,
            _ => self.warm_up_s + scenario.seconds(self) + around,
        }
    }

    /// For the report.
    pub fn describe(&self) -> String {
        format!(
            "{} round{} in alternation; measured per run: {} s (bulk, ping, handshake, framing), {} s (mix, storm), \
             {} s (stalled reader), after {} s to warm up",
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            self.short_s,
            self.long_s,
            self.stalled_s,
            self.warm_up_s,
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn plan(quick: bool, only: &[Work]) -> Plan {
        Plan::new(quick, None, only, 1 << 17)
    }

    #[test]
    fn a_round_runs_every_engine_once_for_each_scenario() {
        let plan = plan(true, &[]);
        let runs = plan.runs(0);
        for (index, run) in runs.iter().enumerate() {
            assert!(!runs[..index].contains(run), "{run:?} twice");
        }
        let engines = |of: Scenario| runs.iter().filter(|(scenario, _)| *scenario == of).count();
        assert_eq!(engines(Scenario::Floor), 1);
        assert_eq!(engines(Scenario::Bulk(64)), 5);
        assert_eq!(engines(Scenario::Mix(300)), 7);
        assert_eq!(engines(Scenario::Handshake), 3);
        assert_eq!(engines(Scenario::Framed(Load::Up, Leg::Tsgu)), 1);
    }

    #[test]
    fn rounds_begin_with_different_engines() {
        let plan = plan(false, &[Work::Ping]);
        assert_eq!(plan.rounds, 3);
        let firsts: Vec<_> = (0..3).map(|round| plan.runs(round)[0].1).collect();
        assert_eq!(firsts, [Engine::Ringway, Engine::Haproxy, Engine::Nginx]);
    }

    #[test]
    fn a_quick_comparison_leaves_time_of_its_eight_minutes() {
        let plan = plan(true, &[]);
        let seconds: u32 =
            plan.runs(0).iter().map(|(scenario, _)| plan.estimate_s(*scenario)).sum();
        assert!(seconds < 7 * 60, "{seconds} s");
    }

    #[test]
    fn no_more_pairs_than_there_can_be_descriptors() {
        assert_eq!(plan(false, &[]).idle_sessions, 10_000);
        assert_eq!(Plan::new(false, None, &[], 20_000).idle_sessions, 9_800);
        assert_eq!(Plan::new(true, None, &[], 300).idle_sessions, 0);
    }

    #[test]
    fn a_work_alone_brings_what_it_is_compared_with() {
        let plan = plan(true, &[Work::StormP99]);
        assert_eq!(plan.scenarios(), [Scenario::Mix(300), Scenario::Storm(300)]);
    }

    #[test]
    fn scenarios_say_what_the_bench_is_to_do() {
        let plan = plan(true, &[]);
        let said = |scenario: Scenario| scenario.arguments(&plan).join(" ");
        assert_eq!(
            said(Scenario::Bulk(8)),
            "relay --sessions 8 --seconds 2 --warm-up-seconds 1 --profile bulk --direction down"
        );
        assert_eq!(said(Scenario::Idle(2_000)), "sessions --idle --sessions 2000 --hold-seconds 1");
        assert_eq!(
            said(Scenario::Handshake),
            "handshake --concurrent 32 --seconds 2 --warm-up-seconds 1"
        );
        assert!(said(Scenario::Storm(300)).ends_with("--storm 500"));
        let busy = said(Scenario::Mix(300));
        assert_eq!(busy, "relay --sessions 300 --seconds 4 --warm-up-seconds 1");
        assert!(said(Scenario::Mix(1_000)).ends_with(&format!("--mix {MIX_MOSTLY_AWAY}")));
        let up = said(Scenario::Framed(Load::Up, Leg::TsguHttp));
        assert!(up.ends_with("--profile bulk --direction up --leg tsgu-http"), "{up}");
        let mix = said(Scenario::Framed(Load::Mix, Leg::Raw));
        assert!(mix.starts_with("relay --sessions 300") && mix.ends_with("--leg raw"), "{mix}");
    }
}
