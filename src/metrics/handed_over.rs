//! What becomes of a batch that is handed to a stage: every case, each with a counter of its own.

/// What was decided of a batch, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandedOver {
    /// It runs on: nothing waits behind it, so that its thread has nothing better to do.
    NothingBehind,
    /// It runs on: no core is free, so that another thread could not run anyway.
    NoCoreFree,
    /// It runs on: it takes so short that a hand-over would take longer.
    ShortService,
    /// It runs on: by the configured rule.
    Always,
    /// It queues: a core is free for it, and it takes long enough.
    CoreFree,
    /// It queues: it takes long, and what waits behind it can be read by this thread alone.
    Unread,
    /// It queues: what waits behind it waits too long already.
    Late,
    /// It queues: what turns round never runs on.
    TurnsRound,
    /// It queues: lanes of the stage wait for room in the next one.
    NoRoom,
    /// It queues: it was to run on, but its lanes hold something, or a thread has them, or the stage sheds.
    LaneTaken,
    /// It queues: by the configured rule.
    Never,
    /// It gathers: no core is free, and the stage has a price for each lane and takes much of the machine.
    Gathers,
}

impl HandedOver {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NothingBehind,
        Self::NoCoreFree,
        Self::ShortService,
        Self::Always,
        Self::CoreFree,
        Self::Unread,
        Self::Late,
        Self::TurnsRound,
        Self::NoRoom,
        Self::LaneTaken,
        Self::Never,
        Self::Gathers,
    ];

    /// What was decided, as the metrics' label.
    pub const fn decision(self) -> &'static str {
        match self {
            Self::NothingBehind | Self::NoCoreFree | Self::ShortService | Self::Always => "run_on",
            Self::CoreFree
            | Self::Unread
            | Self::Late
            | Self::TurnsRound
            | Self::NoRoom
            | Self::LaneTaken
            | Self::Never => "queued",
            Self::Gathers => "gathered",
        }
    }

    /// Why, as the metrics' label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NothingBehind => "nothing_behind",
            Self::NoCoreFree => "no_core_free",
            Self::ShortService => "short_service",
            Self::Always | Self::Never => "fixed_rule",
            Self::CoreFree => "core_free",
            Self::Unread => "unread_behind",
            Self::Late => "late",
            Self::TurnsRound => "turns_round",
            Self::NoRoom => "no_room",
            Self::LaneTaken => "lane_taken",
            Self::Gathers => "machine_busy",
        }
    }

    /// What docs/metrics.md says of it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NothingBehind => "Nothing waits behind the batch: its thread has nothing better to do.",
            Self::NoCoreFree => "No core is free: another thread could not run anyway.",
            Self::ShortService => "The work is not worth a hand-over; where its source is late, not more than parsing.",
            Self::Always => "The stage's `hand_over` is \"always\".",
            Self::CoreFree => "Work waits behind it, and a core is free.",
            Self::Unread => "No core is free, but the work is long, and its source alone can read what waits behind.",
            Self::Late => "What waits behind it in the kernel waits too long already.",
            Self::TurnsRound => "It turned round: such batches never run on.",
            Self::NoRoom => "Lanes of the stage wait for room in the next one.",
            Self::LaneTaken => "It was to run on, but its lanes hold something, a thread has them, or the stage sheds.",
            Self::Never => "The stage's `hand_over` is \"never\".",
            Self::Gathers => {
                "No core is free, and the stage, which has a price for each lane, takes much of the machine."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_place_and_labels_of_its_own() {
        let labels: std::collections::HashSet<_> =
            HandedOver::ALL.iter().map(|it| (it.decision(), it.reason())).collect();
        assert_eq!(labels.len(), HandedOver::ALL.len());
        assert!(HandedOver::ALL.iter().enumerate().all(|(place, it)| *it as usize == place));
    }
}
