//! When packets are to be sent: an open loop. The time of each follows from its number alone, whatever became of those
//! before it, so a slow gateway cannot slow its load.

/// A while of more load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surge {
    /// How many times the rate.
    pub factor: f64,
    /// From when, in nanoseconds after the start.
    pub from_ns: u64,
    /// Until when.
    pub until_ns: u64,
}

/// What one flow sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Packets a second, in the long run.
    pub rate_pps: f64,
    /// Packets that are sent at once. The trains are as much farther apart.
    pub train: u32,
    /// Where in the time between two trains the first one is, 0 to 1: flows that begin together are spread by it.
    pub phase: f64,
    /// More load for a while.
    pub surge: Option<Surge>,
    /// Packets that are to be sent before this are, in nanoseconds after the start.
    pub end_ns: u64,
}

impl Schedule {
    /// When a packet is to be sent, in nanoseconds after the start; `None` where that is after the end.
    pub fn intended_ns(&self, sequence: u32) -> Option<u64> {
        if self.rate_pps <= 0.0 {
            return None;
        }
        let train = f64::from(self.train.max(1));
        let trains = (f64::from(sequence) / train).floor() + self.phase;
        let ns = self.at_work(trains * train / self.rate_pps * 1e9);
        (ns < self.end_ns as f64).then_some(ns as u64)
    }

    /// When so much of the load is due as would be at the plain rate after `work_ns`.
    fn at_work(&self, work_ns: f64) -> f64 {
        let Some(Surge { factor, from_ns, until_ns }) = self.surge else { return work_ns };
        let (from_ns, lasts_ns) = (from_ns as f64, until_ns.saturating_sub(from_ns) as f64);
        let within = work_ns - from_ns;
        if within <= 0.0 {
            work_ns
        } else if within < lasts_ns * factor {
            from_ns + within / factor
        } else {
            work_ns - lasts_ns * (factor - 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn plain(rate_pps: f64) -> Schedule {
        Schedule { rate_pps, train: 1, phase: 0.0, surge: None, end_ns: SECOND_NS }
    }

    fn times_ms(schedule: Schedule) -> Vec<u64> {
        (0..).map_while(|sequence| schedule.intended_ns(sequence)).map(|ns| ns / 1_000_000).collect()
    }

    #[test]
    fn packets_of_a_steady_flow_are_evenly_apart_from_its_phase_on() {
        assert_eq!(times_ms(plain(4.0)), [0, 250, 500, 750]);
        assert_eq!(times_ms(Schedule { phase: 0.5, ..plain(4.0) }), [125, 375, 625, 875]);
    }

    #[test]
    fn a_bursty_flow_sends_as_much_in_trains() {
        assert_eq!(times_ms(Schedule { train: 3, ..plain(6.0) }), [0, 0, 0, 500, 500, 500]);
    }

    #[test]
    fn a_surge_is_so_many_times_the_load_and_then_all_is_as_before() {
        let surge = Some(Surge { factor: 5.0, from_ns: SECOND_NS / 5, until_ns: 2 * SECOND_NS / 5 });
        let times = times_ms(Schedule { surge, ..plain(10.0) });
        assert_eq!(times, [0, 100, 200, 220, 240, 260, 280, 300, 320, 340, 360, 380, 400, 500, 600, 700, 800, 900]);
    }

    #[test]
    fn a_flow_without_a_rate_sends_nothing() {
        assert_eq!(plain(0.0).intended_ns(0), None);
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_the_rate_is_kept(
            rate in 1.0..5_000.0, train in 1_u32..40, phase in 0.0..1.0, factor in 1.0..30.0,
        ) {
            let surge = Surge { factor, from_ns: SECOND_NS / 4, until_ns: SECOND_NS / 2 };
            let schedule = Schedule { rate_pps: rate, train, phase, surge: Some(surge), end_ns: SECOND_NS };
            let times: Vec<u64> = (0..).map_while(|sequence| schedule.intended_ns(sequence)).collect();
            prop_assert!(times.is_sorted());
            let expected = rate * (0.75 + 0.25 * factor);
            prop_assert!((times.len() as f64 - expected).abs() <= f64::from(train) + 1.0, "{} {}", times.len(), expected);
        }
    }
}
