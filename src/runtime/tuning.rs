//! The figures of a pipeline's mechanisms that who runs it may trade: the same for each of its stages. What a mechanism is made
//! of is a constant beside it (docs/decisions/0024-what-is-configured.md).

use std::time::Duration;

use super::lanes::Gathering;
use super::{codel, controller, hand_over};

/// What a pipeline's mechanisms go by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// How often the stages' controllers look.
    pub look_every: Duration,
    /// When a pool changes its size.
    pub pool: controller::Settings,
    /// What work is worth another thread.
    pub hand_over: hand_over::Settings,
    /// How lanes gather, where they do.
    pub gathering: Gathering,
    /// When a flow's queue is too long.
    pub codel: codel::Settings,
}

impl Tuning {
    /// What an empty configuration says.
    pub const DEFAULT: Self = Self {
        look_every: controller::LOOK_EVERY,
        pool: controller::Settings::DEFAULT,
        hand_over: hand_over::Settings::DEFAULT,
        gathering: Gathering::DEFAULT,
        codel: codel::Settings::DEFAULT,
    };
}
