//! How many from one place: what keeps one client from taking everybody's.

use std::collections::HashMap;
use std::net::IpAddr;

/// Counts whatever there is of one origin at a time, up to a limit.
///
/// An origin is an IPv4 address, or the /64 network of an IPv6 address: whoever
/// has one address of that has all of them. A NAT makes one origin of many
/// users, so a limit must have room for a whole office.
#[derive(Debug)]
pub struct PerAddress {
    counts: HashMap<IpAddr, u32>,
    max: u32,
}

impl PerAddress {
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { counts: HashMap::new(), max }
    }

    /// Another limit from now on; who is above it is not sent away.
    pub fn set_max(&mut self, max: u32) {
        self.max = max;
    }

    /// Counts one more, unless the origin is at its limit. Each `true` is
    /// followed by one [`PerAddress::leave`].
    #[must_use]
    pub fn enter(&mut self, address: IpAddr) -> bool {
        let count = self.counts.entry(origin(address)).or_insert(0);
        let has_room = *count < self.max;
        *count += u32::from(has_room);
        if *count == 0 {
            self.counts.remove(&origin(address));
        }
        has_room
    }

    pub fn leave(&mut self, address: IpAddr) {
        if let Some(count) = self.counts.get_mut(&origin(address)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&origin(address));
            }
        }
    }

    #[must_use]
    pub fn count(&self, address: IpAddr) -> u32 {
        self.counts.get(&origin(address)).copied().unwrap_or(0)
    }

    pub fn clear(&mut self) {
        self.counts.clear();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Who counts as one: see [`PerAddress`].
#[must_use]
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_its_limit_and_others_have_theirs() {
        let mut counts = PerAddress::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(counts.enter(address("192.0.2.1")) && counts.enter(address("::ffff:192.0.2.1")));
        assert!(!counts.enter(address("192.0.2.1")));
        assert!(counts.enter(address("192.0.2.2")));
        counts.leave(address("192.0.2.1"));
        assert!(counts.enter(address("192.0.2.1")));

        assert!(counts.enter(address("2001:db8::1")) && counts.enter(address("2001:db8::9:9")));
        assert!(!counts.enter(address("2001:db8::2")));
        assert!(counts.enter(address("2001:db8:0:1::2")));
        assert_eq!(counts.count(address("2001:db8::3")), 2);
    }

    #[test]
    fn nobody_is_remembered_who_is_not_here() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut none = PerAddress::new(0);
        assert!(!none.enter(address) && none.is_empty());
        let mut counts = PerAddress::new(1);
        assert!(counts.enter(address));
        counts.leave(address);
        counts.leave(address);
        assert!(counts.is_empty());
    }
}
