//! The settings of the hand-over, on their way into a stage.

use super::*;
use crate::runtime::hand_over;

#[test]
fn a_stage_takes_work_on_its_bringers_thread_by_the_settings_that_it_was_given() {
    let by_default = settings(1, 32, Rule::Auto, WhenFull::Drop);
    let runs_on = |behind, hand_over| {
        let settings = Settings { tuning: Tuning { hand_over, ..by_default.tuning }, ..by_default };
        let sink = stage("sink", settings, Sink::new(None), None, None);
        let _busy = (behind == Behind::Unread).then(|| [sink.cores.occupy(), sink.cores.occupy()]);
        let offer = Offer { upstream: None, behind, may_run_on: true };
        // How long it takes is not known yet, and counts as no time.
        sink.offer(Instant::now(), offer, &mut vec![entry(0, 0, 0)], &mut Batch::default(), &mut Vec::new());
        ["run_on", "queued"].map(|decision| sink.metrics().handed_over(decision))
    };
    let nothing = Duration::ZERO;
    let set = hand_over::Settings::DEFAULT;
    for (behind, never) in [
        (Behind::Work, hand_over::Settings { worth: nothing, ..set }),
        (Behind::Unread, hand_over::Settings { unread_service_max: nothing, ..set }),
        (Behind::Late, hand_over::Settings { late_service_max: nothing, ..set }),
    ] {
        assert_eq!([set, never].map(|settings| runs_on(behind, settings)), [[1, 0], [0, 1]], "{behind:?}");
    }
}
