//! The ladder of overload.

use std::time::Duration;

use crate::config::schema::{Reader, settings};

settings! {
    /// What the gateway goes without under lasting overload, a rung of a ladder at a time: new tethers, then new NAT
    /// mappings, then a part of what those get who hold most. The rungs are left in reverse order.
    pub struct Overload {
        /// How long packets must be lost, or clients be held back, without a pause before the next rung is taken. The
        /// queues' own controllers deal with what is over sooner.
        climb_after: Duration = "5s" in "500ms"..="10m",
        /// How long it must be calm before a rung is left. Longer keeps newcomers out for longer.
        leave_after: Duration = "2s" in "500ms"..="10m",
        /// The part of memory.budget, in percent, from which on new tethers are refused at once. What is there from the
        /// start may take 60 %. A rung is left when 5 % less is held.
        tethers_percent: u64 = 79 in 66..=79,
        /// The same for new mappings. Not less than tethers_percent.
        mappings_percent: u64 = 84 in 66..=84,
        /// The same for the last rung, on which those who hold most get less. Not less than mappings_percent.
        trim_percent: u64 = 89 in 66..=94,
        /// What they then keep, in percent: the tethers that hold most of their credit, and the queue of "ws-encode" of its
        /// room, at the cost of the largest flows. 100: they lose nothing.
        trimmed_to_percent: u64 = 50 in 10..=100,
        /// When somebody who is refused for overload may try again, at the soonest: a client is told so, and in HTTP it is
        /// Retry-After.
        retry_after: Duration = "2s" in "1s"..="1m",
        /// Over how long after that they are spread, at random, so that who was refused together does not come back
        /// together.
        retry_spread: Duration = "4s" in "0s"..="1m",
    }
}

impl Overload {
    /// The rungs' parts of the memory are in the order of the rungs.
    pub(super) fn judge(&self, reader: &mut Reader) {
        let Self { tethers_percent, mappings_percent, trim_percent, .. } = *self;
        for (key, percent, below_key, below) in [
            ("overload.mappings_percent", mappings_percent, "overload.tethers_percent", tethers_percent),
            ("overload.trim_percent", trim_percent, "overload.mappings_percent", mappings_percent),
        ] {
            if percent < below {
                let what = format!(
                    "{percent} is less than {below_key} = {below}, and a rung has those below it: raise it, or lower that"
                );
                reader.object(&[key, below_key], what);
            }
        }
    }
}
