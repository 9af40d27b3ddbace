//! The settings of the pool's controller, on their way into a stage.

use super::*;
use crate::runtime::controller;

#[test]
fn a_stages_pool_changes_its_size_by_the_settings_that_it_was_given() {
    let by_default = settings(1, 32, Rule::Never, WhenFull::Drop);
    let shrinks = |pool| {
        let settings = Settings { tuning: Tuning { pool, ..by_default.tuning }, ..by_default };
        let idle = stage("idle", settings, Sink::new(None), None, None);
        Arc::clone(&idle).start();
        idle.resize(2);
        Arc::clone(&idle).look(Instant::now(), &Decisions::default());
        idle.stop();
        idle.metrics().pool_shrink.get()
    };
    let at_once = controller::Settings { shrink_after: Duration::ZERO, ..by_default.tuning.pool };
    assert_eq!([by_default.tuning.pool, at_once].map(shrinks), [0, 1]);
}
