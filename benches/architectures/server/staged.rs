//! The gateway's own runtime: a stage a handler, fed by an event loop as the downlink's is by its source. What does not fit
//! into a queue is dropped there.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wstether::metrics::StageMetrics;
use wstether::runtime::cores::Cores;
use wstether::runtime::hand_over::Rule;
use wstether::runtime::inlet::Inlet;
use wstether::runtime::keeper::Keeper;
use wstether::runtime::lanes::{Entry, LaneId, Limits, Quota};
use wstether::runtime::port::Port;
use wstether::runtime::queue::Fifo;
use wstether::runtime::rest::{self, Rest};
use wstether::runtime::stage::{Kept, Settings, Stage, WhenFull};
use wstether::runtime::tuning::Tuning;
use wstether::runtime::work::{Handler, RUNTIME_REASONS, WorkOf};

use super::{Dropped, Server, spawn};
use crate::inputs::{BATCH, Inputs};
use crate::record::Run;
use crate::request::{HANDLERS, Request};

/// Requests that may wait in front of a stage. The gateway's 4,096 packets are some 20 ms of its work; this is about that
/// of one handler's.
const QUEUE_REQUESTS: u64 = 256;

/// The gateway's default bound on the wait in a stage.
const SOJOURN_MAX: Duration = Duration::from_millis(5);

/// Which of the three.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    FixedPools,
    Controllers,
    HandOver,
}

impl Kind {
    fn settings(self, lanes: u32, cores: usize) -> Settings {
        let (threads, hand_over) = match self {
            Self::FixedPools => ((cores, cores), Rule::Never),
            Self::Controllers => ((1, cores), Rule::Auto),
            Self::HandOver => ((1, 1), Rule::Always),
        };
        Settings {
            lanes,
            limits: Limits { segments: QUEUE_REQUESTS, held_bytes: u64::MAX },
            quota: Quota { segments: BATCH as u32, lane_bytes: u64::MAX },
            threads,
            hand_over,
            // Shedding is a controller's work too.
            sojourn_max: matches!(self, Self::Controllers).then_some(SOJOURN_MAX),
            gathers: false,
            tuning: Tuning::DEFAULT,
            when_full: WhenFull::Drop,
        }
    }

    /// Nobody can be held back in front of the first stage. Behind it the controllers do, as on the gateway's uplink: what a later
    /// stage drops has cost the earlier ones their work for nothing.
    fn when_full(self, is_first: bool) -> WhenFull {
        if matches!(self, Self::Controllers) && !is_first { WhenFull::Park } else { WhenFull::Drop }
    }
}

/// The stages of a server.
pub(super) struct Stages {
    keeper: Keeper,
}

impl Stages {
    pub(super) fn dropped(&self) -> Dropped {
        let count = |reason: &str| {
            let stages = self.keeper.stages().iter().map(|stage| Arc::clone(stage.metrics()));
            let drops = stages.filter_map(|metrics| {
                let at = metrics.reasons.iter().position(|label| *label == reason)?;
                Some(metrics.drops[at].get())
            });
            drops.sum()
        };
        Dropped { queue_full: count("queue_full"), not_admitted: count("not_admitted") }
    }

    pub(super) fn stop(self) -> io::Result<()> {
        let late = self.keeper.stop();
        if late.is_empty() { Ok(()) } else { Err(io::Error::other(format!("stages that were late: {late:?}"))) }
    }
}

pub(super) fn start(sockets: Vec<UdpSocket>, run: Arc<Run>, cores: usize, kind: Kind) -> io::Result<Server> {
    let settings = kind.settings(sockets.len() as u32, cores);
    let inputs = Inputs::new(sockets)?;
    let waker = inputs.waker()?;
    let shared = Cores::new(cores);
    let (first, stages) = pipeline(kind, settings, &run, &shared);
    let keeper = Keeper::new(stages, Arc::clone(&shared));
    keeper.start()?;
    let inlet = Inlet::new(first, shared);
    let theirs = Arc::clone(&run);
    // That it rests is a controller's work, too.
    let rest = matches!(kind, Kind::Controllers).then(Rest::default);
    let source = spawn("source", move || feed(inputs, inlet, rest, &theirs))?;
    // A source that is not woken looks again within its longest wait.
    let wake = Box::new(move || drop(waker.wake()));
    Ok(Server { run, threads: vec![source], wake, stages: Some(Stages { keeper }) })
}

/// A stage a handler, the last one first.
fn pipeline(
    kind: Kind,
    settings: Settings,
    run: &Arc<Run>,
    cores: &Arc<Cores>,
) -> (Arc<dyn Port<Request>>, Vec<Arc<dyn Kept>>) {
    const NAMES: [&str; HANDLERS as usize] = ["first", "second", "third", "last"];
    let stage = |name, next| {
        let metrics = StageMetrics::new(name, "downlink", &RUNTIME_REASONS);
        let settings = Settings { when_full: kind.when_full(name == NAMES[0]), ..settings };
        let handler = Step { run: Arc::clone(run), is_last: Option::is_none(&next) };
        Stage::new(name, settings, handler, next, None, Arc::clone(cores), metrics)
    };
    let [before @ .., last] = NAMES;
    let last = stage(last, None);
    let (mut next, mut stages): (Arc<dyn Port<Request>>, Vec<Arc<dyn Kept>>) = (Arc::clone(&last) as _, vec![last]);
    for name in before.into_iter().rev() {
        let made = stage(name, Some(next));
        stages.push(Arc::clone(&made) as _);
        next = made;
    }
    stages.reverse();
    (next, stages)
}

/// One handler as a stage.
struct Step {
    run: Arc<Run>,
    is_last: bool,
}

impl Handler for Step {
    type Queue = Fifo<Request>;
    type Out = Request;
    type Turned = Request;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        for entry in work.batch.items.drain(..) {
            self.run.cost.handle();
            if self.is_last {
                work.tally.sent.add(&entry.item);
                self.run.served(entry.item);
            } else {
                work.out.push(Entry { origin: entry.lane, ..entry });
            }
        }
    }
}

fn feed(mut inputs: Inputs, mut inlet: Inlet<Request>, mut rest: Option<Rest>, run: &Run) -> io::Result<()> {
    let (mut requests, mut entries) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    while !run.is_stopping() {
        inputs.look()?;
        let started = Instant::now();
        inputs.read(BATCH, &mut requests)?;
        entries.extend(requests.drain(..).map(|item| {
            let lane = LaneId(item.tether);
            Entry { origin: lane, lane, item }
        }));
        let (now, has_more) = (Instant::now(), inputs.has_more());
        let pushed = inlet.push(now, has_more, &mut entries);
        if let Some(rest) = &mut rest {
            let (read, cores_free) = (now.saturating_duration_since(started), inlet.cores_free());
            let seen = rest::Observation { has_more, is_in_overload: false, pushed, read, cores_free };
            std::thread::sleep(rest.after(now, seen));
        }
    }
    Ok(())
}
