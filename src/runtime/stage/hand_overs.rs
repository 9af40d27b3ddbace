//! What a stage mostly does with what is handed to it, and whether something gathers. Counts in, changes out, time injected.
//!
//! Each batch is decided on, which nobody wants to read: what is told is when that comes to be another thing.

use std::time::{Duration, Instant};

use crate::metrics::HandedOver;

/// What is counted together. Less, and a burst would be a change.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// Fewer batches than these in that time say nothing of what is done under load.
const BATCHES_MIN: u64 = 100;

/// So many parts of `PARTS` are most of them. Where it is less, what was told last holds: between two neither is told by turns.
const MOST: u64 = 3;
const PARTS: u64 = 4;

const CASES: usize = HandedOver::ALL.len();

/// What is remembered of the last looks.
#[derive(Debug)]
pub(super) struct HandOvers {
    /// When what is counted began, and the counts then.
    since: Option<(Instant, [u64; CASES])>,
    /// What it mostly does, as it was told last.
    mostly: &'static str,
    gathers: bool,
}

impl Default for HandOvers {
    fn default() -> Self {
        // As an idle stage does.
        Self { since: None, mostly: HandedOver::NothingBehind.decision(), gathers: false }
    }
}

/// What has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// It mostly does something else since, for this reason above all.
    pub(super) mostly: Option<HandedOver>,
    /// Something has begun to gather, or does no more.
    pub(super) gathers: Option<bool>,
    /// Batches by case in the last while, of those that are decided on.
    pub(super) batches: [u64; CASES],
}

impl Changes {
    /// Batches of which that was decided.
    pub(super) fn of(&self, decision: &str) -> u64 {
        let of_it = HandedOver::ALL.iter().zip(self.batches).filter(|(it, _)| it.decision() == decision);
        of_it.map(|(_, batches)| batches).sum()
    }

    /// All of them.
    pub(super) fn all(&self) -> u64 {
        self.batches.iter().sum()
    }
}

impl HandOvers {
    /// Looks at all that has been counted since the start.
    pub(super) fn look(&mut self, now: Instant, counts: impl FnOnce() -> [u64; CASES]) -> Option<Changes> {
        let (since, before) = *self.since.get_or_insert((now, [0; CASES]));
        if now.saturating_duration_since(since) < LOOK_BACK {
            return None;
        }
        let counts = counts();
        self.since = Some((now, counts));
        let mut batches = std::array::from_fn(|case| counts[case] - before[case]);
        // What turns round is not decided on.
        batches[HandedOver::TurnsRound as usize] = 0;
        let mut changes = Changes { batches, ..Changes::default() };
        changes.mostly = self.mostly(&changes);
        let gathers = changes.of(HandedOver::Gathers.decision()) > 0;
        changes.gathers = (std::mem::replace(&mut self.gathers, gathers) != gathers).then_some(gathers);
        Some(changes)
    }

    fn mostly(&mut self, seen: &Changes) -> Option<HandedOver> {
        let all = seen.all();
        let is_most = |it: &HandedOver| all >= BATCHES_MIN && PARTS * seen.of(it.decision()) >= MOST * all;
        let most = HandedOver::ALL.into_iter().filter(is_most);
        let above_all = most.max_by_key(|it| seen.batches[*it as usize])?;
        let was = std::mem::replace(&mut self.mostly, above_all.decision());
        (was != self.mostly).then_some(above_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second at so many batches more of each case, and tells what changed.
    fn told(seconds: &[&[(HandedOver, u64)]]) -> Vec<(Option<HandedOver>, Option<bool>)> {
        let (mut hand_overs, mut now, mut counts) = (HandOvers::default(), Instant::now(), [0; CASES]);
        assert_eq!(hand_overs.look(now, || counts), None);
        let mut look = |batches: &&[(HandedOver, u64)]| {
            batches.iter().for_each(|(it, count)| counts[*it as usize] += count);
            assert_eq!(hand_overs.look(now + LOOK_BACK / 2, || unreachable!("too soon")), None);
            now += LOOK_BACK;
            let changes = hand_overs.look(now, || counts).expect("a second has gone by");
            (changes.mostly, changes.gathers)
        };
        seconds.iter().map(&mut look).collect()
    }

    #[test]
    fn what_most_batches_come_to_is_told_when_it_changes_with_the_reason_of_most() {
        use HandedOver as H;
        let changes = told(&[
            &[(H::NothingBehind, 1_000)],
            &[(H::NothingBehind, 30), (H::CoreFree, 60), (H::Late, 10)],
            &[(H::NothingBehind, 25), (H::CoreFree, 30), (H::Late, 45)],
            &[(H::CoreFree, 1_000)],
            &[(H::ShortService, 99)],
            &[(H::ShortService, 50), (H::NothingBehind, 60)],
        ]);
        let mostly: Vec<_> = changes.into_iter().map(|(mostly, _)| mostly).collect();
        assert_eq!(mostly, [None, None, Some(H::Late), None, None, Some(H::NothingBehind)]);
    }

    #[test]
    fn that_something_gathers_is_told_when_it_begins_and_when_none_has_for_a_while() {
        use HandedOver as H;
        let changes =
            told(&[&[(H::NoCoreFree, 50), (H::Gathers, 1)], &[(H::Gathers, 200)], &[(H::NoCoreFree, 10)], &[]]);
        assert_eq!(changes, [(None, Some(true)), (Some(H::Gathers), None), (None, Some(false)), (None, None)]);
    }

    #[test]
    fn what_turns_round_is_not_decided_on_and_never_told() {
        use HandedOver as H;
        assert_eq!(told(&[&[(H::TurnsRound, 1_000)]]), [(None, None)]);
        assert_eq!(told(&[&[(H::TurnsRound, 1_000), (H::Never, 100)]]), [(Some(H::Never), None)]);
    }
}
