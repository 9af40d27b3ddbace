//! The keeper of a pipeline: it starts the stages, has their controllers look, drains and stops them.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::controller::LOOK_EVERY;
use super::cores::Cores;
use super::stage::Kept;
use crate::metrics::decisions::Decisions;

/// How often a drain or a stop looks whether it is done. Short against what a person waits for, long against a batch.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// How long [`Keeper::stop`] waits for threads to end. A handler does not block, so a batch's time would do.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The stages of a pipeline, in the order of the data's way: uplink, then downlink, since what turns round goes from
/// the one into the other.
pub struct Keeper {
    stages: Vec<Arc<dyn Kept>>,
    cores: Arc<Cores>,
    decisions: Arc<Decisions>,
    look_every: Duration,
    governor: Mutex<Option<Governor>>,
}

/// The thread that has the controllers look. It ends when its channel does.
struct Governor {
    lifeline: Sender<()>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stages.iter().map(|stage| stage.name())).finish()
    }
}

impl Keeper {
    /// A keeper of `stages`, none of them started.
    pub fn new(stages: Vec<Arc<dyn Kept>>, cores: Arc<Cores>) -> Self {
        Self { stages, cores, decisions: Arc::default(), look_every: LOOK_EVERY, governor: Mutex::new(None) }
    }

    /// What its controllers decide is noted in `decisions`.
    #[must_use]
    pub fn noting_in(self, decisions: Arc<Decisions>) -> Self {
        Self { decisions, ..self }
    }

    /// Its controllers look so often.
    #[must_use]
    pub fn looking_every(self, look_every: Duration) -> Self {
        Self { look_every, ..self }
    }

    /// The stages, in the order of the data's way.
    pub fn stages(&self) -> &[Arc<dyn Kept>] {
        &self.stages
    }

    /// The cores that the stages share.
    pub fn cores(&self) -> &Arc<Cores> {
        &self.cores
    }

    fn governor(&self) -> MutexGuard<'_, Option<Governor>> {
        self.governor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts every stage, and the thread that has their controllers look.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(&self) -> std::io::Result<()> {
        let mut governor = self.governor();
        if governor.is_some() {
            return Ok(());
        }
        // The last first, so that nobody offers to a stage without a thread.
        for stage in self.stages.iter().rev() {
            Arc::clone(stage).start();
        }
        let (lifeline, ended) = channel();
        let (stages, decisions, look_every) = (self.stages.clone(), Arc::clone(&self.decisions), self.look_every);
        let thread = std::thread::Builder::new().name("governor".to_owned()).spawn(move || {
            while ended.recv_timeout(look_every) == Err(RecvTimeoutError::Timeout) {
                look(&stages, Instant::now(), &decisions);
            }
        })?;
        *governor = Some(Governor { lifeline, thread });
        Ok(())
    }

    /// Waits until every stage is at rest, in the order of the data's way. Names those that were not by `deadline`.
    /// The sources must have stopped, or there is no end to it.
    pub fn drain(&self, deadline: Instant) -> Vec<&'static str> {
        let late = self.stages.iter().filter(|stage| !wait_until(deadline, || stage.is_quiet()));
        late.map(|stage| stage.name()).collect()
    }

    /// Ends every thread: the governor's, so that no pool grows again, then the stages'. Waits for them a moment, and
    /// names the stages whose threads were late.
    pub fn stop(&self) -> Vec<&'static str> {
        let governor = self.governor().take();
        if let Some(Governor { lifeline, thread }) = governor {
            drop(lifeline);
            if thread.join().is_err() {
                tracing::error!("the governor's thread had panicked");
            }
        }
        self.stages.iter().for_each(|stage| stage.stop());
        let deadline = Instant::now() + STOP_PATIENCE;
        let late = self.stages.iter().filter(|stage| !wait_until(deadline, || stage.has_ended()));
        late.map(|stage| stage.name()).collect()
    }
}

fn look(stages: &[Arc<dyn Kept>], now: Instant, decisions: &Decisions) {
    for stage in stages {
        Arc::clone(stage).look(now, decisions);
    }
}

/// Whether `is_done` came true by `deadline`. It is asked at least once.
fn wait_until(deadline: Instant, is_done: impl Fn() -> bool) -> bool {
    loop {
        if is_done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_EVERY);
    }
}

#[cfg(all(test, not(feature = "model")))]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use crate::runtime::hand_over::Rule;
    use crate::runtime::inlet::Inlet;
    use crate::runtime::stage::WhenFull;
    use crate::runtime::testing::{Does, PATIENCE, Sink, entry, pass, settings, stage};

    #[test]
    fn a_drain_waits_for_every_stage_and_a_stop_ends_every_thread() {
        let settings = settings(4, 1_024, Rule::Never, WhenFull::Drop);
        let sink = stage("sink", settings, Sink::new(None), None, None);
        let first = stage("first", settings, Does(pass), Some(Arc::clone(&sink) as _), None);
        let keeper = Keeper::new(vec![Arc::clone(&first) as _, Arc::clone(&sink) as _], Cores::new(2));
        keeper.start().unwrap();
        keeper.start().unwrap();
        let mut items = (0..400).map(|number| entry(number % 4, number % 4, number / 4)).collect();
        Inlet::new(Arc::clone(&first) as _, Arc::clone(keeper.cores())).push(Instant::now(), true, &mut items);
        assert_eq!(keeper.drain(Instant::now() + PATIENCE), Vec::<&str>::new());
        assert_eq!((sink.handler().seen.total(), sink.handler().seen.disorder()), (400, 0));
        assert_eq!(keeper.stop(), Vec::<&str>::new());
        assert!(keeper.stages().iter().all(|stage| stage.has_ended() && stage.metrics().threads.get() == 0));
    }

    #[test]
    fn the_controllers_look_as_often_as_the_keeper_was_told() {
        let settings = settings(4, 1_024, Rule::Never, WhenFull::Drop);
        let looks_within = |time, look_every| {
            let sink = stage("sink", settings, Sink::new(None), None, None);
            // Two looks see that it has not been busy since.
            sink.metrics().recent_busy_permille.set(1_000);
            let keeper = Keeper::new(vec![Arc::clone(&sink) as _], Cores::new(2)).looking_every(look_every);
            keeper.start().unwrap();
            let looks = wait_until(Instant::now() + time, || sink.metrics().recent_busy_permille.get() < 1_000);
            keeper.stop();
            looks
        };
        assert!(!looks_within(10 * LOOK_EVERY, Duration::from_secs(3_600)));
        assert!(looks_within(PATIENCE, Duration::from_millis(1)));
    }

    #[test]
    fn a_drain_names_who_is_late() {
        let settings = settings(4, 1_024, Rule::Never, WhenFull::Drop);
        let sink = stage("sink", settings, Sink::new(None), None, None);
        let first = stage("first", settings, Does(pass), Some(Arc::clone(&sink) as _), None);
        let keeper = Keeper::new(vec![Arc::clone(&first) as _, Arc::clone(&sink) as _], Cores::new(2));
        // Nobody was started, so what waits goes on waiting.
        Inlet::new(sink as _, Cores::new(2)).push(Instant::now(), true, &mut vec![entry(0, 0, 0)]);
        assert_eq!(keeper.drain(Instant::now()), ["sink"]);
    }
}
