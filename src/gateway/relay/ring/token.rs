//! What a completion carries back: which leg, which life of that leg's place
//! in the table, which kind of operation, and for sends which slot.

/// Names a leg to the kernel. The generation tells a late completion of an
/// earlier session in the same place from one of the present session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub leg: u32,
    pub generation: u32,
}

/// Bits of `leg` and of `generation` that survive the trip, and of the key.
const FIELD_BITS: u32 = 20;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;

/// Sessions that one worker can tell apart.
pub const LEGS_MAX: u32 = 1 << FIELD_BITS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Receive,
    Send,
    Cancel,
    Bell,
}

impl Token {
    pub const NONE: Self = Self { leg: 0, generation: 0 };

    /// A token whose generation is cut to what survives the trip.
    #[must_use]
    pub fn new(leg: u32, generation: u32) -> Self {
        Self { leg, generation: generation & (LEGS_MAX - 1) }
    }

    pub(super) fn pack(self, kind: Kind, key: usize) -> u64 {
        debug_assert!(self.leg < LEGS_MAX && (key as u64) <= FIELD_MASK);
        let kind = match kind {
            Kind::Receive => 0,
            Kind::Send => 1,
            Kind::Cancel => 2,
            Kind::Bell => 3_u64,
        };
        kind << (3 * FIELD_BITS)
            | (key as u64 & FIELD_MASK) << (2 * FIELD_BITS)
            | u64::from(self.generation) << FIELD_BITS
            | u64::from(self.leg)
    }

    pub(super) fn unpack(user_data: u64) -> (Self, Kind, usize) {
        let kind = match user_data >> (3 * FIELD_BITS) {
            0 => Kind::Receive,
            1 => Kind::Send,
            2 => Kind::Cancel,
            _ => Kind::Bell,
        };
        let leg = (user_data & FIELD_MASK) as u32;
        let generation = (user_data >> FIELD_BITS & FIELD_MASK) as u32;
        let key = (user_data >> (2 * FIELD_BITS) & FIELD_MASK) as usize;
        (Self { leg, generation }, kind, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip() {
        for kind in [Kind::Receive, Kind::Send, Kind::Cancel, Kind::Bell] {
            let token = Token::new(LEGS_MAX - 1, u32::MAX);
            assert_eq!(Token::unpack(token.pack(kind, 77)), (token, kind, 77));
        }
    }
}
