//! A token bucket: so much a second, and a burst on top.
//!
//! What is spent is known only after the read, so the bucket goes into debt and the reader waits until the
//! debt is paid: over any time no more than `burst + per_s * seconds` and one read are let through.

/// The largest rate and burst: beyond it a limit limits nothing, and thousandths of it fit an i64.
pub const MOST_A_SECOND: u64 = 1 << 40;
/// Parts of a token that come in one millisecond at one token a second.
const PARTS: i64 = 1_000;

/// A bucket; times in milliseconds of any clock that does not run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    per_s: i64,
    full_parts: i64,
    parts: i64,
    at_ms: u64,
}

impl Bucket {
    /// A full bucket. A rate or burst out of 1 to [`MOST_A_SECOND`] is cut to it.
    #[must_use]
    pub fn new(per_s: u64, burst: u64, now_ms: u64) -> Self {
        let cut = |value: u64| value.clamp(1, MOST_A_SECOND).cast_signed();
        let full_parts = cut(burst) * PARTS;
        Self {
            per_s: cut(per_s),
            full_parts,
            parts: full_parts,
            at_ms: now_ms,
        }
    }

    /// Takes tokens for what came, into debt if need be.
    pub fn spend(&mut self, now_ms: u64, count: u64) {
        self.fill(now_ms);
        let count = count.min(MOST_A_SECOND).cast_signed() * PARTS;
        self.parts = self.parts.saturating_sub(count);
    }

    /// When there is a token again; `None` when there is one now.
    pub fn ready_at_ms(&mut self, now_ms: u64) -> Option<u64> {
        self.fill(now_ms);
        let missing = PARTS - self.parts;
        if missing <= 0 {
            return None;
        }
        // Rounded up, or it would be looked at once too often.
        let wait_ms = (missing + self.per_s - 1) / self.per_s;
        Some(now_ms.saturating_add(wait_ms.cast_unsigned()))
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let gained = i64::try_from(passed_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(self.per_s);
        self.parts = self.parts.saturating_add(gained).min(self.full_parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lets_the_burst_through_and_then_the_rate() {
        let mut bucket = Bucket::new(100, 10, 1_000);
        for _ in 0..9 {
            bucket.spend(1_000, 1);
            assert_eq!(bucket.ready_at_ms(1_000), None);
        }
        bucket.spend(1_000, 1);
        assert_eq!(bucket.ready_at_ms(1_000), Some(1_010));
        assert_eq!(bucket.ready_at_ms(1_009), Some(1_010));
        assert_eq!(bucket.ready_at_ms(1_010), None);
        bucket.spend(1_010, 101);
        assert_eq!(bucket.ready_at_ms(1_010), Some(2_020));
    }

    proptest! {
        /// Whoever waits for `ready_at_ms` never gets more than burst, rate and one read.
        #[test]
        fn over_any_time_the_rate_holds(
            per_s in 1_u64..100_000,
            burst in 1_u64..100_000,
            reads in proptest::collection::vec((0_u64..3_000, 1_u64..5_000), 1..60),
        ) {
            let (mut bucket, mut now_ms, mut spent) = (Bucket::new(per_s, burst, 0), 0, 0);
            for (pause_ms, count) in reads {
                now_ms += pause_ms;
                if let Some(at_ms) = bucket.ready_at_ms(now_ms) {
                    prop_assert!(at_ms > now_ms);
                    now_ms = at_ms;
                    prop_assert_eq!(bucket.ready_at_ms(now_ms), None);
                }
                prop_assert!(spent <= burst + now_ms * per_s / 1_000);
                bucket.spend(now_ms, count);
                spent += count;
            }
        }

        #[test]
        fn any_numbers_are_taken(per_s: u64, burst: u64, times: [u64; 4], counts: [u64; 4]) {
            let mut bucket = Bucket::new(per_s, burst, times[0]);
            for (now_ms, count) in times.into_iter().zip(counts) {
                bucket.spend(now_ms, count);
                prop_assert!(bucket.ready_at_ms(now_ms).is_none_or(|at_ms| at_ms >= now_ms));
            }
        }
    }
}
