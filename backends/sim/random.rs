//! Random numbers that are the same for the same seed, on every machine and in every version: SplitMix64
//! (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).

use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 to `last`, both included.
    pub(super) fn up_to(&mut self, last: u64) -> u64 {
        // The high half of a product: even enough for bounds far below 2^64, and without a division.
        ((u128::from(self.next()) * (u128::from(last) + 1)) >> 64) as u64
    }

    /// A number between zero and one, one excluded.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `true` with this probability. What never happens costs no number.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.fraction() < probability
    }

    /// Nanoseconds between two durations.
    pub(super) fn between(&mut self, min: Duration, max: Duration) -> u64 {
        let (min, max) = (crate::op::duration_to_ns(min), crate::op::duration_to_ns(max));
        if max <= min { min } else { min + self.up_to(max - min) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let mut random = Random::new(1_234_567);
        assert_eq!(
            [random.next(), random.next(), random.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn bounds_are_reached_and_kept() {
        let mut random = Random::new(7);
        let mut seen = [false; 4];
        (0..200).for_each(|_| seen[random.up_to(3) as usize] = true);
        assert_eq!(seen, [true; 4]);
        assert_eq!(random.up_to(0), 0);
        assert!((0..100).all(|_| random.chance(1.0)) && !random.chance(0.0));
        let (low, high) = (Duration::from_nanos(5), Duration::from_nanos(7));
        assert!((0..100).all(|_| (5..=7).contains(&random.between(low, high))));
        assert_eq!(random.between(high, low), 7);
    }
}
