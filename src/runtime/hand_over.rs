//! The decision whether a batch runs on through the next stage on the same thread, or queues.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::lanes::HandOver;
use super::port::Behind;
use crate::metrics::HandedOver;

/// What a wake-up of another thread takes on a small virtual machine.
pub const WAKE_UP_COST: Duration = Duration::from_micros(10);

/// What work is worth another thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Work of less is not worth a second core: beside the wake-up, the batch has to come out of one core's cache into the
    /// other's.
    pub worth: Duration,
    /// The longest work that a source does itself while more waits in front of it, which nobody else can read: what comes
    /// meanwhile waits for so long unseen, and other threads of the stages may run dry.
    pub unread_service_max: Duration,
    /// The same while what waits in front of it waits too long.
    pub late_service_max: Duration,
    /// Of what a stage that gathers must take of the machine for it to be of use.
    pub gather_share_min: f64,
}

impl Settings {
    /// What a hand-over is worth is by measurement, docs/decisions/0023-caches.md. Parsing a batch is less than a late source
    /// does, and is needed to know whose it is. What makes the work of a stage less that takes under a quarter does little
    /// for a machine that is busy with something else, and it costs a wait.
    pub const DEFAULT: Self = Self {
        worth: Duration::from_micros(60),
        unread_service_max: Duration::from_millis(1),
        late_service_max: Duration::from_micros(100),
        gather_share_min: 0.25,
    };
}

/// The configured rule of a stage.
#[derive(Clone, Copy, Debug, Default)]
pub enum Rule {
    /// Decide from what is observed.
    #[default]
    Auto,
    /// Always run on.
    Always,
    /// Always queue.
    Never,
    /// As it is at present.
    Live(&'static Live),
}

impl Rule {
    /// What holds now; never [`Self::Live`].
    pub fn now(self) -> Self {
        match self {
            Self::Live(live) => live.rule(),
            Self::Auto | Self::Always | Self::Never => self,
        }
    }
}

/// A rule that is changed while stages run, for a bench that compares rules: turns of two gateways, or minutes apart, differ by
/// more than the rules do.
#[derive(Debug, Default)]
pub struct Live(AtomicU8);

impl Live {
    /// `Auto` until it is set.
    pub const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Sets it for every stage that has it; a live rule is taken as it is now.
    pub fn set(&self, rule: Rule) {
        let word = match rule.now() {
            Rule::Auto | Rule::Live(_) => 0,
            Rule::Always => 1,
            Rule::Never => 2,
        };
        // Nothing else is told with it.
        self.0.store(word, Ordering::Relaxed);
    }

    fn rule(&self) -> Rule {
        match self.0.load(Ordering::Relaxed) {
            1 => Rule::Always,
            2 => Rule::Never,
            _ => Rule::Auto,
        }
    }
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// What waits behind this batch, in the stage it comes from or at its source.
    pub behind: Behind,
    /// Cores that no thread of the runtime keeps busy.
    pub cores_free: usize,
    /// How long this stage is expected to take for the batch.
    pub service: Duration,
    /// Whether a source brings it, so that it is for the first stage.
    pub is_first: bool,
    /// What part of the machine this stage kept busy of late; nothing where it has no use for gathering.
    pub gathering_share: f64,
}

/// Run on when nothing waits behind (the thread has nothing better to do), when no core is free (another thread could
/// not run anyway), or when the work is not worth a hand-over. Where what waits behind can be read by this thread alone,
/// or waits too long, no core need be free: a source that does the stages' work leaves what comes to a ring that nobody
/// bounds, and nobody shares out. Where a thread of a stage has more to do and no core is free, what it brings to a stage
/// with a price for each lane gathers there: it comes back for that.
pub fn decide(settings: &Settings, rule: Rule, seen: Observation) -> HandedOver {
    match rule.now() {
        Rule::Always => HandedOver::Always,
        Rule::Never => HandedOver::Never,
        Rule::Auto | Rule::Live(_) => match seen.behind {
            Behind::Nothing => HandedOver::NothingBehind,
            Behind::Work if seen.cores_free == 0 && seen.gathering_share >= settings.gather_share_min => {
                HandedOver::Gathers
            }
            Behind::Work if seen.cores_free == 0 => HandedOver::NoCoreFree,
            Behind::Unread if seen.cores_free == 0 && seen.service < settings.unread_service_max => {
                HandedOver::NoCoreFree
            }
            Behind::Unread if seen.cores_free == 0 => HandedOver::Unread,
            Behind::Work | Behind::Unread if seen.service < settings.worth => HandedOver::ShortService,
            Behind::Work | Behind::Unread => HandedOver::CoreFree,
            Behind::Late if seen.is_first && seen.service < settings.late_service_max => HandedOver::ShortService,
            Behind::Late => HandedOver::Late,
        },
    }
}

impl From<HandedOver> for HandOver {
    fn from(decided: HandedOver) -> Self {
        match decided {
            HandedOver::NothingBehind | HandedOver::NoCoreFree | HandedOver::ShortService | HandedOver::Always => {
                Self::RunOn
            }
            HandedOver::CoreFree
            | HandedOver::Unread
            | HandedOver::Late
            | HandedOver::TurnsRound
            | HandedOver::NoRoom
            | HandedOver::LaneTaken
            | HandedOver::Never => Self::Queue,
            HandedOver::Gathers => Self::Gather,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(rule: Rule, seen: Observation) -> HandedOver {
        super::decide(&Settings::DEFAULT, rule, seen)
    }

    fn hand_over(rule: Rule, seen: Observation) -> HandOver {
        decide(rule, seen).into()
    }

    fn seen(behind: Behind, cores_free: usize, service_us: u64) -> Observation {
        let service = Duration::from_micros(service_us);
        Observation { behind, cores_free, service, is_first: true, gathering_share: 0.0 }
    }

    #[test]
    fn a_batch_queues_where_work_waits_and_is_worth_a_wake_up_and_a_core_is_free_or_it_waits_too_long() {
        for (behind, cores_free, service_us, expected) in [
            (Behind::Work, 1, 100, HandOver::Queue),
            (Behind::Nothing, 1, 100, HandOver::RunOn),
            (Behind::Work, 0, 100, HandOver::RunOn),
            (Behind::Work, 1, 59, HandOver::RunOn),
            (Behind::Work, 0, 10_000, HandOver::RunOn),
            (Behind::Unread, 1, 60, HandOver::Queue),
            (Behind::Unread, 1, 59, HandOver::RunOn),
            (Behind::Unread, 0, 999, HandOver::RunOn),
            (Behind::Unread, 0, 1_000, HandOver::Queue),
            (Behind::Late, 0, 100, HandOver::Queue),
            (Behind::Late, 1, 99, HandOver::RunOn),
            (Behind::Late, 0, 1, HandOver::RunOn),
        ] {
            assert_eq!(hand_over(Rule::Auto, seen(behind, cores_free, service_us)), expected);
        }
    }

    #[test]
    fn every_decision_says_why() {
        use HandedOver as H;
        for (behind, cores_free, service_us, expected) in [
            (Behind::Nothing, 1, 100, H::NothingBehind),
            (Behind::Nothing, 0, 100, H::NothingBehind),
            (Behind::Work, 0, 100, H::NoCoreFree),
            (Behind::Work, 1, 59, H::ShortService),
            (Behind::Work, 1, 100, H::CoreFree),
            (Behind::Unread, 0, 999, H::NoCoreFree),
            (Behind::Unread, 0, 1_000, H::Unread),
            (Behind::Unread, 1, 59, H::ShortService),
            (Behind::Unread, 1, 1_000, H::CoreFree),
            (Behind::Late, 0, 99, H::ShortService),
            (Behind::Late, 1, 100, H::Late),
        ] {
            assert_eq!(decide(Rule::Auto, seen(behind, cores_free, service_us)), expected);
        }
        let gathers = Observation { gathering_share: 0.25, ..seen(Behind::Work, 0, 100) };
        let rules = [Rule::Auto, Rule::Always, Rule::Never].map(|rule| decide(rule, gathers));
        assert_eq!(rules, [H::Gathers, H::Always, H::Never]);
        // The label says what is done.
        for decided in H::ALL {
            let done = match HandOver::from(decided) {
                HandOver::RunOn => "run_on",
                HandOver::Queue => "queued",
                HandOver::Gather => "gathered",
            };
            assert_eq!(decided.decision(), done, "{decided:?}");
        }
    }

    #[test]
    fn what_waits_too_long_is_parsed_by_its_source_and_nothing_else() {
        let late = seen(Behind::Late, 0, 99);
        assert_eq!(hand_over(Rule::Auto, late), HandOver::RunOn);
        assert_eq!(hand_over(Rule::Auto, Observation { is_first: false, ..late }), HandOver::Queue);
    }

    #[test]
    fn a_batch_gathers_where_its_thread_has_more_and_no_core_is_free_and_the_stage_takes_much_of_the_machine() {
        for (behind, cores_free, gathering_share, expected) in [
            (Behind::Work, 0, 0.25, HandOver::Gather),
            (Behind::Work, 0, 0.24, HandOver::RunOn),
            (Behind::Work, 1, 0.9, HandOver::Queue),
            (Behind::Nothing, 0, 0.9, HandOver::RunOn),
            (Behind::Unread, 0, 0.9, HandOver::RunOn),
            (Behind::Late, 0, 0.9, HandOver::Queue),
        ] {
            let seen = Observation { gathering_share, ..seen(behind, cores_free, 100) };
            assert_eq!(hand_over(Rule::Auto, seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn what_work_is_worth_another_thread_is_as_it_is_set() {
        let us = Duration::from_micros;
        let settings =
            Settings { worth: us(5), unread_service_max: us(7), late_service_max: us(9), gather_share_min: 0.5 };
        for (behind, cores_free, most_us) in
            [(Behind::Work, 1, 4), (Behind::Unread, 1, 4), (Behind::Unread, 0, 6), (Behind::Late, 0, 8)]
        {
            let decided =
                |service_us| HandOver::from(super::decide(&settings, Rule::Auto, seen(behind, cores_free, service_us)));
            assert_eq!([most_us, most_us + 1].map(decided), [HandOver::RunOn, HandOver::Queue], "{behind:?}");
        }
        let decided = |gathering_share| {
            HandOver::from(super::decide(
                &settings,
                Rule::Auto,
                Observation { gathering_share, ..seen(Behind::Work, 0, 100) },
            ))
        };
        assert_eq!([0.49, 0.5].map(decided), [HandOver::RunOn, HandOver::Gather]);
    }

    #[test]
    fn a_fixed_rule_does_not_look() {
        assert_eq!(hand_over(Rule::Always, seen(Behind::Work, 8, 1_000)), HandOver::RunOn);
        assert_eq!(hand_over(Rule::Never, seen(Behind::Nothing, 0, 0)), HandOver::Queue);
    }

    #[test]
    fn a_live_rule_is_the_one_that_was_set_last_and_auto_until_then() {
        static LIVE: Live = Live::new();
        let (nothing_waits, work_waits) = (seen(Behind::Nothing, 1, 100), seen(Behind::Work, 1, 100));
        let decided = || [nothing_waits, work_waits].map(|seen| hand_over(Rule::Live(&LIVE), seen));
        assert_eq!(decided(), [HandOver::RunOn, HandOver::Queue]);
        for (rule, expected) in [
            (Rule::Always, [HandOver::RunOn, HandOver::RunOn]),
            (Rule::Never, [HandOver::Queue, HandOver::Queue]),
            (Rule::Live(&LIVE), [HandOver::Queue, HandOver::Queue]),
            (Rule::Auto, [HandOver::RunOn, HandOver::Queue]),
        ] {
            LIVE.set(rule);
            assert_eq!(decided(), expected, "{rule:?}");
        }
    }
}
