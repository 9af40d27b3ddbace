//! Lanes that wait for a thread, first come first, and those among them that found room for all when they last had a turn.

use std::collections::VecDeque;

use super::LaneId;

/// Lanes that are ready. Each stands in it once.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Those that put out what the next stage took, or nothing. With the number of their coming.
    light: VecDeque<(u64, LaneId)>,
    /// Those that left something over when they last had a turn.
    heavy: VecDeque<(u64, LaneId)>,
    came: u64,
}

impl Ready {
    /// One has become ready.
    pub(super) fn push(&mut self, id: LaneId, is_heavy: bool) {
        self.came += 1;
        let list = if is_heavy { &mut self.heavy } else { &mut self.light };
        list.push_back((self.came, id));
    }

    /// The one that has waited for longest, or only of the light ones.
    pub(super) fn pop(&mut self, may_be_heavy: bool) -> Option<LaneId> {
        let came = |list: &VecDeque<(u64, LaneId)>| list.front().map_or(u64::MAX, |(came, _)| *came);
        let is_heavy = may_be_heavy && came(&self.heavy) < came(&self.light);
        let list = if is_heavy { &mut self.heavy } else { &mut self.light };
        list.pop_front().map(|(_, id)| id)
    }

    pub(super) fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many left nothing over.
    pub(super) fn light(&self) -> usize {
        self.light.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_first_come_first_served_over_both_kinds_or_among_the_light_ones() {
        let mut ready = Ready::default();
        for (lane, is_heavy) in [(0, true), (1, false), (2, true), (3, false), (4, false)] {
            ready.push(LaneId(lane), is_heavy);
        }
        assert_eq!((ready.len(), ready.light()), (5, 3));
        let popped = [false, true, true, true, false, false].map(|may_be_heavy| ready.pop(may_be_heavy).map(|id| id.0));
        assert_eq!(popped, [Some(1), Some(0), Some(2), Some(3), Some(4), None]);
        assert!(ready.is_empty());
    }
}
