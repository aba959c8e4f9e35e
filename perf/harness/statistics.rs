//! Medians and spread of the few rounds that a comparison has.

/// What the rounds of one measurement come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

impl Summary {
    /// `None` without a value. Values that are no numbers do not count.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let median = match values.len() % 2 {
            0 => f64::midpoint(*values.get(values.len() / 2 - 1)?, upper),
            _ => upper,
        };
        Some(Self { median, low, high, rounds: values.len() })
    }
}

/// `own` against `other`. `None` when that says nothing: a difference can come
/// out as nothing or less when what is measured is smaller than the noise.
pub fn ratio(own: Option<Summary>, other: Option<Summary>) -> Option<f64> {
    let (own, other) = (own?.median, other?.median);
    (own >= 0.0 && other > 0.0).then(|| own / other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        let odd = Summary::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.low, odd.high, odd.rounds), (2.0, 1.0, 3.0, 3));
        let even = Summary::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(even.median, 2.5);
        let one = Summary::of([7.0]).unwrap();
        assert_eq!((one.median, one.low, one.high), (7.0, 7.0, 7.0));
    }

    #[test]
    fn what_is_no_number_does_not_count() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN]), None);
        assert_eq!(Summary::of([f64::INFINITY, 5.0]).unwrap().median, 5.0);
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        let some = |value| Summary::of([value]);
        assert_eq!(ratio(some(1.0), some(4.0)), Some(0.25));
        assert_eq!(ratio(some(1.0), None), None);
        assert_eq!(ratio(some(1.0), some(0.0)), None);
        assert_eq!(ratio(some(-1.0), some(4.0)), None);
    }
}
