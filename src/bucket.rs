//! A token bucket, kept as one point in time (the generic cell rate algorithm).

use std::time::{Duration, Instant};

/// So many at once, and in the long run so many in each span of time.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// How long the whole bucket takes to fill.
    span: Duration,
    /// How long one token takes.
    interval: Duration,
    /// When all that was taken so far would have been due at the long run's rate.
    due: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `tokens` (at least one), which fills in `span`.
    pub fn new(tokens: u32, span: Duration) -> Self {
        Self { span, interval: span / tokens.max(1), due: None }
    }

    /// Whether a token is there.
    pub fn has_room(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due.saturating_duration_since(now) + self.interval <= self.span)
    }

    /// Takes a token; `false` where none is there.
    pub fn take(&mut self, now: Instant) -> bool {
        let has_room = self.has_room(now);
        if has_room {
            self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.interval);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_it_holds_come_at_once_and_then_its_rate() {
        let (mut bucket, start) = (Bucket::new(5, Duration::from_secs(1)), Instant::now());
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(199)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(200)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(600)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 5, "it holds no more after a rest");
    }
}
