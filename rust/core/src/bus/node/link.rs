//! One node's link to the hub: when to connect, when it is dead (BUS.md rule 5, section 7).
//!
//! | state | event | next |
//! |---|---|---|
//! | waiting | retry time reached | opening (`connect` goes out) |
//! | opening | welcome | up |
//! | opening, up | lost, silent too long, refused welcome | waiting |
//! | any | a refusal that no retry can mend, close | ended |

use super::limits::{BACKOFF_MS, FIRST_RETRY_MS, OPEN_MS, RETRY_MS, SPREAD_WINDOW_MS};

/// Where the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No connection; the next try is at this time.
    Waiting {
        /// Time of the next try.
        retry_ms: u64,
    },
    /// Hello is out, no welcome yet.
    Opening {
        /// Given up then.
        until_ms: u64,
    },
    /// Welcomed.
    Up,
    /// Closed for good.
    Ended,
}

/// The link's clockwork.
#[derive(Debug)]
pub struct Link {
    state: State,
    /// Counts connections; rises over processes too, because it starts at the wall clock.
    connection: u64,
    last_heard_ms: u64,
    last_sent_ms: u64,
    last_loss_ms: Option<u64>,
    tries: u32,
    heartbeat_ms: u64,
    dead_ms: u64,
    spread_ms: u64,
}

impl Link {
    /// A link that connects at once.
    #[must_use]
    pub const fn new(now_ms: u64, connection: u64) -> Self {
        Self {
            state: State::Waiting { retry_ms: now_ms },
            connection,
            last_heard_ms: now_ms,
            last_sent_ms: now_ms,
            last_loss_ms: None,
            tries: 0,
            heartbeat_ms: 1_000,
            dead_ms: 3_000,
            spread_ms: 0,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it is welcomed.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// The number of this connection.
    #[must_use]
    pub const fn connection(&self) -> u64 {
        self.connection
    }

    /// A connection is being opened.
    pub const fn open(&mut self, now_ms: u64) {
        self.connection += 1;
        self.tries = self.tries.saturating_add(1);
        self.last_heard_ms = now_ms;
        self.last_sent_ms = now_ms;
        self.state = State::Opening {
            until_ms: now_ms + OPEN_MS,
        };
    }

    /// The hub has welcomed us.
    pub fn up(&mut self, now_ms: u64, heartbeat_ms: u32, dead_ms: u32, spread_ms: u32) {
        self.state = State::Up;
        self.tries = 0;
        self.last_heard_ms = now_ms;
        self.heartbeat_ms = u64::from(heartbeat_ms.max(1));
        self.dead_ms = u64::from(dead_ms).max(self.heartbeat_ms * 2);
        self.spread_ms = u64::from(spread_ms).min(SPREAD_WINDOW_MS);
    }

    /// The connection is lost, or was never made. The first try comes soon, so that a short fault is a short
    /// pause; later ones are spread, so that all nodes of a restarted hub don't come in one moment.
    pub fn lost(&mut self, now_ms: u64, random: u64, back_off: bool) {
        if matches!(self.state, State::Waiting { .. } | State::Ended) {
            return;
        }
        let mut wait_ms = match self.tries {
            _ if back_off => BACKOFF_MS,
            0 => FIRST_RETRY_MS,
            _ => RETRY_MS / 2 + random % (RETRY_MS + 1),
        };
        if self.is_up() {
            let again = self
                .last_loss_ms
                .is_some_and(|last| now_ms.saturating_sub(last) < SPREAD_WINDOW_MS);
            if again && self.spread_ms > 0 {
                wait_ms += (random >> 32) % (self.spread_ms + 1);
            }
            self.last_loss_ms = Some(now_ms);
        }
        self.state = State::Waiting {
            retry_ms: now_ms + wait_ms,
        };
    }

    /// No further connection.
    pub const fn end(&mut self) {
        self.state = State::Ended;
    }

    /// A frame came, or so much of one that it is a sign of life.
    pub const fn heard(&mut self, now_ms: u64) {
        self.last_heard_ms = now_ms;
    }

    /// Bytes went out.
    pub const fn sent(&mut self, now_ms: u64) {
        self.last_sent_ms = now_ms;
    }

    /// When something is to be done next.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        match self.state {
            State::Waiting { retry_ms } => Some(retry_ms),
            State::Opening { until_ms } => Some(until_ms),
            State::Up => {
                Some((self.last_sent_ms + self.heartbeat_ms).min(self.last_heard_ms + self.dead_ms))
            }
            State::Ended => None,
        }
    }

    /// Whether a ping is due.
    #[must_use]
    pub const fn ping_due(&self, now_ms: u64) -> bool {
        self.is_up() && now_ms >= self.last_sent_ms + self.heartbeat_ms
    }

    /// Whether the other side has been silent for too long.
    #[must_use]
    pub const fn dead(&self, now_ms: u64) -> bool {
        match self.state {
            State::Up => now_ms >= self.last_heard_ms + self.dead_ms,
            State::Opening { until_ms } => now_ms >= until_ms,
            State::Waiting { .. } | State::Ended => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_of(link: &Link, now_ms: u64) -> u64 {
        match link.state() {
            State::Waiting { retry_ms } => retry_ms - now_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn first_retry_is_soon_and_later_ones_are_spread_around_50_ms() {
        let mut link = Link::new(0, 0);
        link.open(0);
        link.up(0, 1_000, 3_000, 0);
        link.lost(100, 7, false);
        assert_eq!(wait_of(&link, 100), 10);
        let mut waits = Vec::new();
        for random in [0, 17, 50, 51] {
            link.open(110);
            link.lost(110, random, false);
            waits.push(wait_of(&link, 110));
        }
        assert_eq!(waits, [25, 42, 75, 25]);
    }

    #[test]
    fn spread_is_added_from_the_second_loss_within_a_minute_on() {
        let mut link = Link::new(0, 0);
        for (loss_ms, expected) in [(1_000, 10), (50_000, 10 + 300), (200_000, 10)] {
            link.open(loss_ms);
            link.up(loss_ms, 1_000, 3_000, 499);
            link.lost(loss_ms, 300 << 32, false);
            assert_eq!(wait_of(&link, loss_ms), expected, "loss at {loss_ms}");
        }
    }

    #[test]
    fn silence_ends_a_link_and_any_bytes_keep_it() {
        let mut link = Link::new(0, 0);
        link.open(0);
        assert!(!link.dead(OPEN_MS - 1) && link.dead(OPEN_MS));
        link.up(10, 1_000, 3_000, 0);
        assert!(link.ping_due(1_000) && !link.dead(3_009) && link.dead(3_010));
        link.heard(2_000);
        assert!(!link.dead(4_999) && link.dead(5_000));
        link.sent(2_500);
        assert_eq!(link.timeout_ms(), Some(3_500));
    }

    #[test]
    fn an_ended_link_never_connects_again() {
        let mut link = Link::new(0, 0);
        link.end();
        link.lost(5, 5, false);
        assert_eq!((link.state(), link.timeout_ms()), (State::Ended, None));
    }
}
