//! The runtime in virtual time: the same lanes, hand-over and controllers, driven by events instead of threads.
//!
//! Deterministic: a seed replays. Workers need one of the machine's cores to run, in turn; a worker that is woken pays
//! [`WAKE_UP_COST`]. What is simulated is a chain of stages with sources in front of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::batch;
use super::controller::{self, Decision, LOOK_EVERY, PoolController};
use super::hand_over::{self, Rule, WAKE_UP_COST};
use super::lanes::{Batch, Entry, HandOver, LaneId, Lanes, Limits, Outcome, Quota};
use super::port::Upstream;
use super::queue::{Queue, Shed, Weigh};
use super::shedding::{self, Shedding, Verdict};
use super::stage::WhenFull;
use super::waiting::Waiting;
use crate::budget::{Budget, Part};
use crate::random::Random;

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
mod traffic;
#[cfg(test)]
mod workloads;

use traffic::{Delivered, Flow, Item, Rate};

/// Nanoseconds since the start of the simulation.
type Ns = u64;

/// What a stage is like.
#[derive(Clone, Copy, Debug)]
struct Spec {
    lanes: u32,
    limits: Limits,
    quota: Quota,
    threads: (usize, usize),
    rule: Rule,
    when_full: WhenFull,
    sojourn_max: Option<Duration>,
    /// Service time of a batch, and of each segment in it; each batch takes between half and one and a half of it.
    batch_cost: Duration,
    segment_cost: Duration,
    /// Batches that start in this time take until its end.
    stall: Option<(Duration, Duration)>,
    /// Off to show what the lane rule is for.
    has_lane_rule: bool,
}

/// A change of a pool's size.
#[derive(Clone, Copy, Debug)]
struct Change {
    stage: usize,
    at: Duration,
    threads: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Finish(usize),
    Look,
}

struct SimStage<Q: Queue<Item = Item>> {
    spec: Spec,
    lanes: Lanes<Q>,
    waiting: Waiting,
    leftovers: HashMap<LaneId, Vec<Entry<Item>>>,
    /// The most lanes that left something over at once.
    leftovers_max: usize,
    controller: PoolController,
    threads: usize,
    threads_wanted: usize,
    idle: Vec<usize>,
    waking: usize,
    segment_service: Ns,
    sojourn_max: Duration,
    sojourns: Vec<Duration>,
    shedding: Shedding,
    /// What the controllers see at the next look: as in a stage.
    quota: Quota,
    taken_segments: u64,
    largest_segments: u32,
    sojourns_looked: Vec<Duration>,
}

/// What a worker is at.
#[derive(Default)]
struct Job {
    stage: usize,
    batch: Batch<Item>,
    behind: bool,
    segments: u64,
    started: Ns,
}

struct Worker {
    home: usize,
    job: Option<Job>,
    is_woken: bool,
}

/// A chain of stages in virtual time.
struct Simulation<Q: Queue<Item = Item>> {
    origin: Instant,
    now: Ns,
    random: Random,
    events: BinaryHeap<Reverse<(Ns, u64, Event)>>,
    events_made: u64,
    stages: Vec<SimStage<Q>>,
    workers: Vec<Worker>,
    cores: usize,
    cores_busy: usize,
    /// Workers that wait for a core.
    runnable: VecDeque<usize>,
    flows: Vec<Flow>,
    delivered: Vec<Delivered>,
    changes: Vec<Change>,
    /// What all that is inside draws on, and the most that it ever held.
    budget: Budget,
    held_bytes_max: u64,
}

/// The memory for what is inside, where a test sets no other: more than all queues take.
const BUDGET_BYTES: u64 = 64 << 20;

impl<Q: Queue<Item = Item>> Simulation<Q> {
    fn new(seed: u64, cores: usize, specs: &[Spec], flows: &[Flow]) -> Self {
        let mut simulation = Self {
            origin: Instant::now(),
            now: 0,
            random: Random::new(seed),
            events: BinaryHeap::new(),
            events_made: 0,
            stages: specs.iter().map(|spec| SimStage::new(*spec)).collect(),
            workers: Vec::new(),
            cores,
            cores_busy: 0,
            runnable: VecDeque::new(),
            flows: flows.to_vec(),
            delivered: vec![Delivered::default(); flows.len()],
            changes: Vec::new(),
            budget: Budget::undivided(BUDGET_BYTES),
            held_bytes_max: 0,
        };
        for (stage, spec) in specs.iter().enumerate() {
            simulation.resize(stage, spec.threads.0);
        }
        simulation.changes.clear();
        (0..flows.len()).for_each(|flow| simulation.plan_arrival(flow));
        simulation.plan(LOOK_EVERY.as_nanos() as Ns, Event::Look);
        simulation
    }

    /// Runs until `end`.
    fn run_until(&mut self, end: Duration) {
        let end = end.as_nanos() as Ns;
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end {
                self.events.push(Reverse((at, 0, event)));
                break;
            }
            self.now = at;
            match event {
                Event::Arrive(flow) => self.arrive(flow),
                Event::Finish(worker) => self.finish(worker),
                Event::Look => self.look(),
            }
        }
        self.now = end;
    }

    /// Lets what is inside come out, with nothing new arriving, for at most `time`.
    fn drain(&mut self, time: Duration) {
        self.events.retain(|Reverse((_, _, event))| !matches!(event, Event::Arrive(_)));
        self.run_until(Duration::from_nanos(self.now) + time);
    }

    fn is_quiet(&self) -> bool {
        self.stages.iter().all(|stage| stage.lanes.is_quiet() && stage.leftovers.is_empty())
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now)
    }

    fn plan(&mut self, at: Ns, event: Event) {
        self.events_made += 1;
        self.events.push(Reverse((at, self.events_made, event)));
    }

    /// Cores that no worker keeps busy or waits for.
    fn cores_free(&self) -> usize {
        self.cores.saturating_sub(self.cores_busy + self.runnable.len())
    }

    fn plan_arrival(&mut self, flow: usize) {
        /// How long a silent flow waits before it looks at its rate again.
        const SILENT_NS: f64 = 1e6;
        let rate = self.flows[flow].rate.at(self.now);
        let gap = if rate > 0.0 { self.random.exponential(1e9 / rate) } else { SILENT_NS };
        self.plan(self.now + gap.max(1.0) as Ns, Event::Arrive(flow));
    }

    fn arrive(&mut self, flow: usize) {
        self.plan_arrival(flow);
        let Flow { lane, segments, rate } = self.flows[flow];
        if rate.at(self.now) <= 0.0 {
            return;
        }
        let number = self.delivered[flow].sent;
        self.delivered[flow].sent += 1;
        let item = Item { flow: flow as u32, number, segments, came: self.now };
        if !self.budget.draw(Part::Buffers, item.held_bytes() as u64) {
            self.delivered[flow].dropped += 1;
            return;
        }
        self.held_bytes_max = self.held_bytes_max.max(self.budget.held_bytes());
        let (mut entered, mut refused) = (Batch::default(), Vec::new());
        let mut offered = vec![Entry { origin: lane, lane, item }];
        let now = self.instant();
        let mut shed = Shed::default();
        self.stages[0].lanes.offer(now, HandOver::Queue, &mut offered, &mut entered, &mut refused, &mut shed);
        self.stages[0].largest_segments = self.stages[0].largest_segments.max(segments);
        self.drop_all(&refused);
        self.drop_shed(&shed);
        self.wake(0);
    }

    fn drop_all(&mut self, refused: &[Entry<Item>]) {
        refused.iter().for_each(|entry| self.drop_one(&entry.item));
    }

    fn drop_shed(&mut self, shed: &Shed<Item>) {
        shed.dropped.iter().for_each(|(_, item)| self.drop_one(item));
    }

    fn drop_one(&mut self, item: &Item) {
        self.delivered[item.flow as usize].dropped += 1;
        self.budget.give_back(Part::Buffers, item.held_bytes() as u64);
    }

    fn wake(&mut self, stage: usize) {
        let here = &mut self.stages[stage];
        if here.lanes.ready() > here.waking
            && let Some(worker) = here.idle.pop()
        {
            here.waking += 1;
            self.workers[worker].is_woken = true;
            self.want_core(worker);
        }
    }

    fn want_core(&mut self, worker: usize) {
        self.runnable.push_back(worker);
        self.give_cores();
    }

    fn give_cores(&mut self) {
        while self.cores_busy < self.cores
            && let Some(worker) = self.runnable.pop_front()
        {
            self.cores_busy += 1;
            self.run(worker);
        }
    }

    fn release_core(&mut self) {
        self.cores_busy -= 1;
        self.give_cores();
    }

    /// A worker has a core: it goes on with its job, takes one, or has nothing to do.
    fn run(&mut self, worker: usize) {
        let was_woken = std::mem::take(&mut self.workers[worker].is_woken);
        let home = self.workers[worker].home;
        if was_woken {
            self.stages[home].waking -= 1;
        }
        if self.workers[worker].job.is_none() && !self.take(worker) {
            self.cores_busy -= 1;
            return;
        }
        let wake_up = if was_woken { WAKE_UP_COST.as_nanos() as Ns } else { 0 };
        let cost = self.cost(worker);
        let started = self.now + wake_up;
        if let Some(job) = &mut self.workers[worker].job {
            job.started = started;
        }
        self.plan(started + cost, Event::Finish(worker));
    }

    fn cost(&mut self, worker: usize) -> Ns {
        let Some(job) = &self.workers[worker].job else { return 0 };
        let spec = &self.stages[job.stage].spec;
        if job.batch.items.is_empty() {
            return 0;
        }
        let mean = spec.batch_cost + spec.segment_cost * job.segments as u32;
        let now = Duration::from_nanos(self.now);
        let stalled =
            spec.stall.filter(|(from, to)| (*from..*to).contains(&now)).map_or(Duration::ZERO, |(_, to)| to - now);
        (mean.mul_f64(0.5 + self.random.fraction()) + stalled).as_nanos() as Ns
    }

    /// Takes the next batch of the worker's own stage. `false`: it is idle now, or has left the pool.
    fn take(&mut self, worker: usize) -> bool {
        let (now, stage) = (self.instant(), self.workers[worker].home);
        let here = &mut self.stages[stage];
        if here.threads > here.threads_wanted {
            here.threads -= 1;
            self.wake(stage);
            return false;
        }
        let (mut batch, mut shed) = (Batch::default(), Shed::default());
        self.holds_back(stage);
        let here = &mut self.stages[stage];
        let Some(taken) = here.lanes.take(now, here.quota, here.threads, &mut batch, &mut shed) else {
            here.idle.push(worker);
            return false;
        };
        if let Some(oldest) = taken.oldest {
            let sojourn = now.saturating_duration_since(oldest);
            here.sojourn_max = here.sojourn_max.max(sojourn);
            here.sojourns.push(sojourn);
            here.sojourns_looked.push(sojourn);
        }
        here.taken_segments += batch.items.iter().map(|entry| u64::from(entry.item.segments)).sum::<u64>();
        self.workers[worker].job = Some(Job::new(stage, batch, taken.behind));
        self.drop_shed(&shed);
        self.let_in(stage);
        self.wake(stage);
        true
    }

    fn holds_back(&mut self, stage: usize) -> bool {
        let [here, rest @ ..] = &mut self.stages[stage..] else { return false };
        rest.first().is_some_and(|next| here.lanes.holds_back(|| next.lanes.room()))
    }

    fn let_in(&mut self, stage: usize) {
        let here = &mut self.stages[stage];
        let mut resume = Vec::new();
        here.waiting.let_in(here.lanes.load(), here.lanes.limits(), &mut resume);
        for (upstream, lane) in resume {
            self.stages[upstream.0].lanes.resume(lane);
            self.wake(upstream.0);
        }
    }

    /// A batch is done: offer downstream, give the lanes back, and only then run on.
    fn finish(&mut self, worker: usize) {
        let Some(mut job) = self.workers[worker].job.take() else { return };
        let stage = job.stage;
        let mut out: Vec<_> = job.batch.items.drain(..).map(|entry| Entry { origin: entry.lane, ..entry }).collect();
        self.stages[stage].learn_service(self.now - job.started, job.segments);
        for lane in &job.batch.settling {
            out.extend(self.stages[stage].leftovers.remove(lane).unwrap_or_default());
        }
        let control: Vec<_> = out.extract_if(.., |entry| entry.item.segments == 0).collect();
        self.deliver(&control);
        let (entered, parked) = if stage + 1 < self.stages.len() {
            self.offer(stage, job.behind, out)
        } else {
            self.deliver(&out);
            (Batch::default(), Vec::new())
        };
        for lane in job.batch.lanes.drain(..).chain(job.batch.settling.drain(..)) {
            let outcome = Outcome { park: parked.contains(&lane), ..Outcome::default() };
            self.stages[stage].lanes.done(lane, outcome);
        }
        self.wake(stage);
        if !entered.is_empty() {
            self.workers[worker].job = Some(Job::new(stage + 1, entered, job.behind));
        }
        // In turn with others that wait for a core.
        self.runnable.push_back(worker);
        self.release_core();
    }

    /// Offers to the next stage. What runs on comes back, with the lanes that must wait.
    fn offer(&mut self, stage: usize, behind: bool, mut out: Vec<Entry<Item>>) -> (Batch<Item>, Vec<LaneId>) {
        let (now, cores_free) = (self.instant(), self.cores_free());
        let next = &mut self.stages[stage + 1];
        let segments: u64 = out.iter().map(|entry| u64::from(entry.item.segments)).sum();
        let service = Duration::from_nanos(next.segment_service * segments);
        // A segment costs the same here whatever it comes with, so there is nothing to gather for.
        let (is_first, gathering_share) = (false, 0.0);
        let seen = hand_over::Observation { behind: behind.into(), cores_free, service, is_first, gathering_share };
        let decided = hand_over::decide(&hand_over::Settings::DEFAULT, next.spec.rule, seen);
        let mut hand_over = HandOver::from(decided);
        if hand_over != HandOver::Queue && self.holds_back(stage + 1) {
            hand_over = HandOver::Queue;
        }
        let next = &mut self.stages[stage + 1];
        let (mut entered, mut refused, mut shed) = (Batch::default(), Vec::new(), Shed::default());
        next.lanes.offer(now, hand_over, &mut out, &mut entered, &mut refused, &mut shed);
        let (when_full, mut parked) = (next.spec.when_full, Vec::new());
        self.drop_shed(&shed);
        if when_full == WhenFull::Drop {
            self.drop_all(&refused);
        } else {
            for entry in refused {
                let within_share = self.stages[stage + 1].lanes.is_within_share(&entry);
                self.stages[stage + 1].waiting.add(Upstream(stage), entry.origin, within_share);
                parked.push(entry.origin);
                self.stages[stage].leftovers.entry(entry.origin).or_default().push(entry);
            }
            let here = &mut self.stages[stage];
            here.leftovers_max = here.leftovers_max.max(here.leftovers.len());
        }
        self.wake(stage + 1);
        (entered, parked)
    }

    fn deliver(&mut self, out: &[Entry<Item>]) {
        for Entry { item, .. } in out {
            let flow = &mut self.delivered[item.flow as usize];
            flow.count += 1;
            flow.segments += u64::from(item.segments);
            flow.disorder += u64::from(item.number < flow.next);
            flow.next = item.number + 1;
            flow.latency_max = flow.latency_max.max(self.now - item.came);
            self.budget.give_back(Part::Buffers, item.held_bytes() as u64);
        }
    }

    fn look(&mut self) {
        self.plan(self.now + LOOK_EVERY.as_nanos() as Ns, Event::Look);
        let (now, cores_free) = (self.instant(), self.cores_free());
        for stage in 0..self.stages.len() {
            let verdict = self.stages[stage].sizes(now);
            if matches!(verdict, Verdict::More(_)) {
                self.let_in(stage);
            }
            let here = &mut self.stages[stage];
            let seen = controller::Observation {
                lanes_ready: here.lanes.ready_for_more(here.threads),
                sojourn_max: std::mem::take(&mut here.sojourn_max),
                threads: here.threads,
                threads_idle: here.idle.len() + here.waking,
                cores_free,
            };
            match here.controller.decide(now, seen) {
                Decision::Keep => {}
                Decision::Grow => self.resize(stage, seen.threads + 1),
                Decision::Shrink => self.resize(stage, seen.threads - 1),
            }
        }
    }

    fn resize(&mut self, stage: usize, threads: usize) {
        self.changes.push(Change { stage, at: Duration::from_nanos(self.now), threads });
        let here = &mut self.stages[stage];
        here.threads_wanted = threads;
        let leaving = here.threads.saturating_sub(threads).min(here.idle.len());
        here.idle.truncate(here.idle.len() - leaving);
        here.threads -= leaving;
        while self.stages[stage].threads < threads {
            self.stages[stage].threads += 1;
            self.workers.push(Worker { home: stage, job: None, is_woken: false });
            self.want_core(self.workers.len() - 1);
        }
    }
}

impl<Q: Queue<Item = Item>> SimStage<Q> {
    fn new(spec: Spec) -> Self {
        let make = if spec.has_lane_rule { Lanes::new } else { Lanes::without_lane_rule };
        Self {
            spec,
            lanes: make(spec.lanes, spec.limits),
            waiting: Waiting::default(),
            leftovers: HashMap::new(),
            leftovers_max: 0,
            controller: PoolController::new(controller::Settings::DEFAULT, spec.threads.0, spec.threads.1),
            threads: 0,
            threads_wanted: 0,
            idle: Vec::new(),
            waking: 0,
            segment_service: 0,
            sojourn_max: Duration::ZERO,
            sojourns: Vec::new(),
            shedding: Shedding::new(spec.sojourn_max, spec.limits.segments),
            quota: spec.quota,
            taken_segments: 0,
            largest_segments: 1,
            sojourns_looked: Vec::new(),
        }
    }

    fn sizes(&mut self, now: Instant) -> Verdict {
        let service = Duration::from_nanos(self.segment_service);
        self.quota.segments = batch::limit(self.spec.quota.segments, self.spec.sojourn_max, service);
        self.lanes.set_run_on_segments_max(batch::run_on_limit(self.spec.sojourn_max, service));
        self.sojourns_looked.sort_unstable();
        let seen = shedding::Observation {
            sojourn_p99: self.sojourns_looked.get(self.sojourns_looked.len() * 99 / 100).copied(),
            turned_away_segments: self.lanes.take_turned_away().segments,
            taken_segments: std::mem::take(&mut self.taken_segments),
            waiting_segments: self.lanes.load().segments,
            largest_segments: self.largest_segments,
            able_segments_per_second: shedding::able_segments_per_second(self.threads, service),
        };
        self.sojourns_looked.clear();
        self.largest_segments -= shedding::forgotten_segments(self.largest_segments);
        if self.spec.when_full == WhenFull::Drop {
            self.shedding.hold(seen.able_segments_per_second);
        }
        let verdict = self.shedding.decide(now, seen);
        let segments = self.shedding.admitted_segments();
        self.lanes.set_limits(Limits { segments, ..self.spec.limits });
        let drops = self.spec.when_full == WhenFull::Drop;
        self.lanes.set_wait_max(self.spec.sojourn_max.filter(|_| drops && self.shedding.is_shedding()));
        self.lanes.set_sparse_segments(if drops {
            0
        } else {
            shedding::sparse_segments(segments, self.spec.limits.segments)
        });
        verdict
    }

    /// The moving average that a stage keeps.
    fn learn_service(&mut self, service: Ns, segments: u64) {
        let Some(new) = service.checked_div(segments) else { return };
        let old = self.segment_service;
        self.segment_service = if old == 0 { new } else { old - (old >> 3) + (new >> 3) };
    }
}

impl Job {
    fn new(stage: usize, batch: Batch<Item>, behind: bool) -> Self {
        let segments = batch.items.iter().map(|entry| u64::from(entry.item.segments)).sum();
        Self { stage, batch, behind, segments, started: 0 }
    }
}
