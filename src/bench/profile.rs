//! What the users of remote desktops send and are sent, as schedules.
//!
//! Rates and sizes follow what Microsoft publishes about RDP's bandwidth (page
//! "Remote Desktop Protocol (RDP) bandwidth requirements" of Azure Virtual
//! Desktop, default encoding at 1920x1080): heartbeats of 20 bytes every 5 s
//! both ways, input events below 100 bytes, and per application the bandwidth
//! of its graphics. How these come as bursts is our own reading of what the
//! applications do: a page that loads, a slide that turns, a film that plays.

use std::fmt;
use std::str::FromStr;

use crate::core::random::Random;
use crate::core::tickets::Role;

const MS: u32 = 1_000;
/// 30 pictures a second.
const FRAME_US: u32 = 33_333;
/// Mouse positions while it moves.
const MOUSE_US: u32 = 16_667;

/// One thing that one side does again and again: a burst, then a pause.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub sender: Role,
    /// Size of a message, drawn evenly from this range.
    pub bytes: (u32, u32),
    /// Messages in a burst.
    pub burst: u32,
    /// Between two messages of a burst.
    pub gap_us: u32,
    /// Between two bursts: the mean of a random pause, or exactly this.
    pub pause_us: u32,
    pub random_pause: bool,
}

impl Source {
    const fn up(bytes: (u32, u32), burst: u32, gap_us: u32, pause_us: u32) -> Self {
        Self { sender: Role::Client, bytes, burst, gap_us, pause_us, random_pause: true }
    }

    const fn down(bytes: (u32, u32), burst: u32, gap_us: u32, pause_us: u32) -> Self {
        Self { sender: Role::Host, bytes, burst, gap_us, pause_us, random_pause: true }
    }

    const fn heartbeat(sender: Role) -> Self {
        let pause_us = 5_000 * MS;
        Self { sender, bytes: (20, 20), burst: 1, gap_us: 0, pause_us, random_pause: false }
    }

    /// Microseconds until the next message, `done` of the burst being sent.
    pub fn delay_us(&self, done: u32, random: &mut Random) -> u64 {
        if done < self.burst {
            u64::from(self.gap_us)
        } else if self.random_pause {
            random.pause(u64::from(self.pause_us))
        } else {
            u64::from(self.pause_us)
        }
    }

    /// When a session that begins now sends this for the first time.
    pub fn first_us(&self, random: &mut Random) -> u64 {
        random.between(0, u64::from(self.pause_us.max(self.gap_us)))
    }

    pub fn size(&self, random: &mut Random) -> u64 {
        random.between(u64::from(self.bytes.0), u64::from(self.bytes.1))
    }

    /// Messages and bytes per second on average.
    #[must_use]
    pub fn rate(&self) -> (f64, f64) {
        let cycle_us =
            u64::from(self.burst - 1) * u64::from(self.gap_us) + u64::from(self.pause_us);
        let messages =
            f64::from(self.burst) * 1e6 / f64::from(u32::try_from(cycle_us).unwrap_or(u32::MAX));
        (messages, messages * f64::from(self.bytes.0 + self.bytes.1) / 2.0)
    }
}

/// What one user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Nothing but heartbeats
    Idle,
    /// Typing a text: 100 to 150 kbit/s
    Word,
    /// A spreadsheet: 150 to 200 kbit/s
    Excel,
    /// Slides: 4 to 4.5 Mbit/s
    Powerpoint,
    /// Browsing the web: 6 to 6.5 Mbit/s
    Web,
    /// An image gallery: 3.3 to 3.6 Mbit/s
    Images,
    /// A video in half a screen: 8.5 to 9.5 Mbit/s
    Video,
    /// A file transfer, as fast as it goes
    Bulk,
    /// 64 bytes there and back, again and again
    Ping,
}

/// How much a [`Profile::Ping`] sends each way.
pub const PING_BYTES: u64 = 64;

const HEARTBEATS: [Source; 2] = [Source::heartbeat(Role::Client), Source::heartbeat(Role::Host)];
/// Keys go down and up again.
const TYPING: Source = Source::up((36, 60), 2, 60 * MS, 140 * MS);
const fn mouse(pause_us: u32) -> Source {
    Source::up((30, 56), 60, MOUSE_US, pause_us)
}

impl Profile {
    /// What happens by itself; bulk and ping answer to what arrives instead.
    #[must_use]
    pub fn sources(self) -> Vec<Source> {
        let own: &[Source] = match self {
            Self::Idle => &[Source::down((150, 190), 1, 0, 5_000 * MS)],
            Self::Word => {
                &[TYPING, mouse(2_000 * MS), Source::down((1_200, 1_900), 1, 0, 100 * MS)]
            }
            Self::Excel => {
                &[TYPING, mouse(1_000 * MS), Source::down((1_400, 2_200), 12, FRAME_US, 633 * MS)]
            }
            Self::Powerpoint => {
                &[mouse(1_000 * MS), Source::down((30_000, 40_800), 30, FRAME_US, 1_033 * MS)]
            }
            Self::Web => {
                &[mouse(1_000 * MS), Source::down((28_000, 41_400), 45, FRAME_US, 533 * MS)]
            }
            Self::Images => {
                &[mouse(2_000 * MS), Source::down((36_000, 50_200), 30, FRAME_US, 2_033 * MS)]
            }
            Self::Video => {
                let film = Source::down((32_000, 43_000), 1, 0, FRAME_US);
                &[mouse(9_000 * MS), Source { random_pause: false, ..film }]
            }
            Self::Bulk | Self::Ping => return Vec::new(),
        };
        own.iter().chain(&HEARTBEATS).copied().collect()
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Word => "word",
            Self::Excel => "excel",
            Self::Powerpoint => "powerpoint",
            Self::Web => "web",
            Self::Images => "images",
            Self::Video => "video",
            Self::Bulk => "bulk",
            Self::Ping => "ping",
        }
    }
}

/// Profiles and how many of the users have each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Profile, u32)>);

impl Mix {
    /// An office: most type, some calculate, few present, browse or are away.
    #[must_use]
    pub fn office() -> Self {
        use Profile::{Excel, Idle, Powerpoint, Web, Word};
        Self(vec![(Word, 4), (Excel, 3), (Powerpoint, 1), (Web, 1), (Idle, 1)])
    }

    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self(vec![(profile, 1)])
    }

    /// What session number `index` does: the weights hold for any number of
    /// sessions in a row, so that two runs have the same users.
    #[must_use]
    pub fn profile_of(&self, index: usize) -> Profile {
        let total: usize = self.0.iter().map(|(_, weight)| *weight as usize).sum();
        let mut place = index % total.max(1);
        for (profile, weight) in &self.0 {
            match place.checked_sub(*weight as usize) {
                Some(rest) => place = rest,
                None => return *profile,
            }
        }
        Profile::Idle
    }

    /// Whether nobody here waits for what arrives.
    #[must_use]
    pub fn is_open_loop(&self) -> bool {
        !self.0.iter().any(|(profile, _)| matches!(profile, Profile::Bulk | Profile::Ping))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(profile, _)] = self.0.as_slice() {
            return f.write_str(profile.name());
        }
        for (number, (profile, weight)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{}={weight}", profile.name())?;
        }
        Ok(())
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let profile = <Profile as clap::ValueEnum>::from_str(name.trim(), true)
                .map_err(|_| format!("there is no profile {name:?}; see --profile"))?;
            match weight.trim().parse() {
                Ok(weight @ 1..=1_000) => Ok((profile, weight)),
                _ => Err(format!("the weight {weight:?} is not a number from 1 to 1000")),
            }
        };
        text.split(',').map(part).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and messages per second that a side sends.
    fn rate(profile: Profile, sender: Role) -> (f64, f64) {
        let sources = profile.sources();
        let of_side = sources.iter().filter(|source| source.sender == sender).map(Source::rate);
        of_side.fold((0.0, 0.0), |sum, rate| (sum.0 + rate.0, sum.1 + rate.1))
    }

    #[test]
    fn graphics_take_the_bandwidth_that_is_published() {
        let published_kbits = [
            (Profile::Idle, 0.25, 0.4),
            (Profile::Word, 100.0, 150.0),
            (Profile::Excel, 150.0, 200.0),
            (Profile::Powerpoint, 4_000.0, 4_500.0),
            (Profile::Web, 6_000.0, 6_500.0),
            (Profile::Images, 3_300.0, 3_600.0),
            (Profile::Video, 8_500.0, 9_500.0),
        ];
        for (profile, low, high) in published_kbits {
            let kbits = rate(profile, Role::Host).1 * 8.0 / 1_000.0;
            assert!((low..=high).contains(&kbits), "{profile:?}: {kbits} kbit/s");
        }
    }

    #[test]
    fn input_is_small_and_at_the_rate_of_hands() {
        for profile in [Profile::Word, Profile::Excel, Profile::Web, Profile::Video] {
            assert!(profile.sources().iter().all(|s| s.sender == Role::Host || s.bytes.1 < 100));
            let events = rate(profile, Role::Client).0;
            assert!((4.0..60.0).contains(&events), "{profile:?}: {events} events/s");
        }
    }

    #[test]
    fn a_source_keeps_its_rate() {
        for source in Profile::Web.sources() {
            let mut random = Random::new(3);
            let (mut at_us, mut messages, mut in_burst) = (0, 0_u32, 1);
            while at_us < 4_000_000_000 {
                at_us += source.delay_us(in_burst, &mut random);
                in_burst = if in_burst < source.burst { in_burst + 1 } else { 1 };
                messages += 1;
            }
            let found = f64::from(messages) / 4_000.0;
            assert!((found / source.rate().0 - 1.0).abs() < 0.05, "{source:?}: {found}/s");
        }
    }

    #[test]
    fn a_mix_is_read_printed_and_kept() {
        let mix: Mix = "word=3, web".parse().unwrap();
        assert_eq!(mix.to_string(), "word=3,web=1");
        let webs = (0..400).filter(|index| mix.profile_of(*index) == Profile::Web).count();
        assert_eq!(webs, 100);
        assert!(mix.is_open_loop() && !Mix::of(Profile::Ping).is_open_loop());
        for bad in ["", "word=0", "word=x", "solitaire", "word,,web"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
