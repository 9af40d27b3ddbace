//! A run, from the first dial to the last answer: connect, tell the sink, load, let the queues empty, ask what arrived.

use std::cmp::Reverse;
use std::time::Duration;

use mio::Events;

use super::connection::Reading;
use super::generator::{Generator, WINDOW_NS};
use super::mix::{Kind, Plain};
use super::report::Report;
use super::talk::{self, COUNTS_MAX, Stamp, Word};
use super::{Direction, Error, Options};
use crate::io::clock::monotonic_ns;
use crate::stop::Stop;

/// How long the gateway may take for its first word to anybody. A busy one turns most away, but soon: who says nothing is
/// not there. A lost first packet is sent again by TCP after 1 s and 3 s.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// How long the sink may take for its answers. They wait behind all that an overload left in the queues.
const ANSWERS_MAX_NS: u64 = 20_000_000_000;

/// How long it may take to be there at all, before any load.
const SINK_MAX_NS: u64 = 5_000_000_000;

/// A question without an answer is asked again after this.
const ASK_AGAIN_NS: u64 = 100_000_000;

/// Questions at once: fewer than any queue on the way holds, and so few a second that they are no overload themselves.
const QUESTIONS_MAX: usize = 128;

/// From the word to start to the start: time for it to be said again once or twice. A bench has some sixty loads, each of
/// which waits for this.
const HEAD_START_NS: u64 = 250_000_000;

/// The spread of tethers over time: steps of the golden ratio fill it evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// A run of the load.
pub(super) struct Run<'a> {
    generator: Generator<'a>,
    options: &'a Options,
    stop: &'a Stop,
    events: Events,
    connect_ns: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(generator: Generator<'a>, options: &'a Options, stop: &'a Stop) -> Self {
        Self { generator, options, stop, events: Generator::events(), connect_ns: 0 }
    }

    /// All of it.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn go(mut self) -> Result<Report, Error> {
        let went = self.run();
        // However it went, no tether is left to linger at the gateway; where that fails it lingers.
        drop(self.generator.hang_up(&mut self.events));
        went
    }

    fn run(&mut self) -> Result<Report, Error> {
        self.connect()?;
        self.lay_out();
        if self.has_flows() {
            self.ask()?;
            self.start()?;
        }
        self.load()?;
        let has_answers = !self.has_flows() || self.collect()?;
        Ok(Report::new(&self.generator, self.connect_ns, has_answers))
    }

    /// Turns until it is `done`, or the time is over. `again` is done at first, and each time after a while.
    fn until(
        &mut self,
        end_ns: u64,
        done: impl Fn(&Generator<'_>) -> bool,
        mut again: impl FnMut(&mut Generator<'_>),
    ) -> Result<bool, Error> {
        let mut again_ns = 0;
        loop {
            let now_ns = monotonic_ns();
            if self.stop.is_triggered() {
                return Err(Error::Stopped);
            }
            if done(&self.generator) || now_ns >= end_ns {
                return Ok(done(&self.generator));
            }
            if now_ns >= again_ns {
                again(&mut self.generator);
                again_ns = now_ns + ASK_AGAIN_NS;
            }
            self.generator.turn(&mut self.events, again_ns.min(end_ns))?;
        }
    }

    fn connect(&mut self) -> Result<(), Error> {
        let begun_ns = monotonic_ns();
        let end_ns = begun_ns + nanoseconds(self.options.connect_max);
        let numbers = self.generator.tethers.iter().enumerate().filter(|(_, tether)| tether.kind != Kind::Storm);
        self.generator.to_dial = numbers.map(|(number, _)| number as u32).collect();
        let patience = self.options.connect_max.min(ANSWER_MAX);
        let is_there = |generator: &Generator<'_>| generator.has_answer || !generator.is_connecting();
        if !self.until(begun_ns + nanoseconds(patience), is_there, |_| {})? {
            let words: Vec<&str> = self.generator.figures.connects.failed.keys().copied().collect();
            let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
            return Err(self.generator.unreachable(format!("no answer within {patience:.0?}{words}")));
        }
        self.until(end_ns, |generator| generator.refused.is_some() || !generator.is_connecting(), |_| {})?;
        if let Some(error) = self.generator.refused.take() {
            return Err(Error::Refused(error));
        }
        self.connect_ns = monotonic_ns() - begun_ns;
        let stays = self.generator.tethers.iter().any(|tether| tether.kind.stays());
        if stays && !self.generator.tethers.iter().any(|tether| tether.was_welcomed) {
            let failed = &self.generator.figures.connects.failed;
            return Err(Error::NobodyWelcomed { why: failed.keys().copied().collect::<Vec<_>>().join(", ") });
        }
        self.generator.give_up_dialling();
        Ok(())
    }

    /// Gives each tether its flows.
    fn lay_out(&mut self) {
        let Options { rate_pps, size_bytes, hog_factor, surge, direction, .. } = *self.options;
        let end_ns = nanoseconds(self.options.lasts);
        let mtu_bytes = self.options.bulk_bytes;
        let plain = Plain { rate_pps, size_bytes, mtu_bytes, hog_factor, surge, end_ns };
        for (number, tether) in self.generator.tethers.iter_mut().enumerate() {
            let flow = tether.kind.flow(&plain, (number as f64 * GOLDEN).fract());
            let is_storm = tether.kind == Kind::Storm;
            let up = direction != Direction::Down || is_storm;
            let (up, down) = (up, direction != Direction::Up && !is_storm);
            (tether.up, tether.down) = (flow.filter(|_| up), flow.filter(|_| down));
        }
        self.generator.figures.windows = vec![Default::default(); end_ns.div_ceil(WINDOW_NS) as usize];
    }

    fn has_flows(&self) -> bool {
        let has =
            |tether: &super::tether::Tether| tether.was_welcomed && (tether.up.is_some() || tether.down.is_some());
        self.generator.tethers.iter().any(has)
    }

    /// Asks the sink for every tether's flow.
    fn ask(&mut self) -> Result<(), Error> {
        let end_ns = monotonic_ns() + SINK_MAX_NS + self.generator.tethers.len() as u64 * 1_000_000;
        let done = self.until(
            end_ns,
            |generator| unasked(generator).next().is_none(),
            |generator| {
                let numbers: Vec<usize> = unasked(generator).take(QUESTIONS_MAX).collect();
                for number in numbers {
                    let tether = &generator.tethers[number];
                    let (group, body) = (tether.kind as u8, tether.down.map(|flow| talk::write_flow(&flow)));
                    let stamp = stamp(generator.run, Word::Ask, group, number);
                    generator.say(number, &stamp, &body.unwrap_or_default());
                }
            },
        )?;
        if done { Ok(()) } else { Err(Error::NoSink { sink: self.options.sink }) }
    }

    fn start(&mut self) -> Result<(), Error> {
        let begins_ns = monotonic_ns() + HEAD_START_NS;
        let lasts_ms = u32::try_from(self.options.lasts.as_millis()).unwrap_or(u32::MAX);
        self.generator.ends_ns = begins_ns + nanoseconds(self.options.lasts);
        self.generator.begins_ns = begins_ns;
        let mut speaker = 0;
        let end_ns = monotonic_ns() + SINK_MAX_NS;
        let started = self.until(
            end_ns,
            |generator| generator.answers.started,
            |generator| {
                let Some(number) = speak(generator, &mut speaker) else { return };
                let start =
                    Stamp { time_ns: begins_ns, sequence: lasts_ms, ..stamp(generator.run, Word::Start, 0, number) };
                generator.say(number, &start, &[]);
            },
        )?;
        if started { Ok(()) } else { Err(Error::NoSink { sink: self.options.sink }) }
    }

    fn load(&mut self) -> Result<(), Error> {
        if self.generator.begins_ns == 0 {
            self.generator.begins_ns = monotonic_ns();
        }
        let begins_ns = self.generator.begins_ns;
        for (number, tether) in self.generator.tethers.iter_mut().enumerate() {
            tether.is_paused = tether.kind == Kind::SlowReader;
            let due = tether.next_due_ns().filter(|_| tether.was_welcomed || tether.kind == Kind::Storm);
            self.generator.due.extend(due.map(|ns| Reverse((begins_ns + ns, number as u32))));
        }
        let end_ns = begins_ns + nanoseconds(self.options.lasts + self.options.drain);
        // Without a tether nothing is sent, and nobody can ask the sink for what it has counted.
        if self.until(end_ns, |generator| generator.has_lost_all(), |_| {})? {
            let why = self.generator.figures.ended.keys().copied().collect::<Vec<_>>().join(", ");
            return Err(Error::AllLost { why });
        }
        Ok(())
    }

    /// Asks the sink for what it counted; `false` where not all answers came.
    fn collect(&mut self) -> Result<bool, Error> {
        for number in 0..self.generator.tethers.len() {
            self.generator.tethers[number].give_up_waiting();
            if std::mem::take(&mut self.generator.tethers[number].is_paused) {
                self.generator.advance(number, Reading::UntilEmpty);
            }
        }
        let mut speaker = 0;
        let end_ns = monotonic_ns() + ANSWERS_MAX_NS;
        let is_done = |generator: &Generator<'_>| questions(generator).next().is_none();
        self.until(end_ns, is_done, |generator| {
            let asked: Vec<(Word, u8, u32)> = questions(generator).take(QUESTIONS_MAX).collect();
            for (word, group, sequence) in asked {
                let Some(number) = speak(generator, &mut speaker) else { return };
                let question = Stamp { sequence, ..stamp(generator.run, word, group, number) };
                generator.say(number, &question, &[]);
            }
        })
    }
}

fn stamp(run: u32, word: Word, group: u8, number: usize) -> Stamp {
    Stamp { run, word, group, tether: number as u32, sequence: 0, time_ns: 0 }
}

/// Tethers whose flow the sink does not know yet.
fn unasked(generator: &Generator<'_>) -> impl Iterator<Item = usize> {
    let is_unasked = |tether: &super::tether::Tether| {
        tether.connection.is_some() && tether.was_welcomed && tether.down.is_some() && !tether.is_asked
    };
    generator.tethers.iter().enumerate().filter(move |(_, tether)| is_unasked(tether)).map(|(number, _)| number)
}

/// The next tether that may speak for all: one that is open, and no hog or slow reader, whose words would wait.
fn speak(generator: &Generator<'_>, speaker: &mut usize) -> Option<usize> {
    let count = generator.tethers.len();
    let may = |number: &usize| {
        let tether = &generator.tethers[*number];
        let is_fit = tether.kind.stays() && !matches!(tether.kind, Kind::Hog | Kind::SlowReader);
        tether.connection.is_some() && tether.was_welcomed && is_fit
    };
    let others = (0..count).map(|step| (*speaker + step) % count);
    let number = others.clone().find(may).or_else(|| {
        let is_there = |number: &usize| generator.tethers[*number].was_welcomed;
        others.clone().find(|number| is_there(number) && generator.tethers[*number].connection.is_some())
    })?;
    *speaker = number + 1;
    Some(number)
}

/// What the sink has not answered yet.
fn questions<'g>(generator: &'g Generator<'_>) -> impl Iterator<Item = (Word, u8, u32)> + 'g {
    let counts = (0..generator.tethers.len() as u32).step_by(COUNTS_MAX);
    let counts = counts.filter(|first| !generator.answers.counts.contains_key(first));
    let groups = Kind::ALL.into_iter().filter(|&kind| {
        let sends = |tether: &super::tether::Tether| tether.kind == kind && tether.kind.stays() && tether.up.is_some();
        generator.tethers.iter().any(sends)
    });
    let latencies = groups.map(|kind| (kind, &generator.answers.up[kind as usize]));
    let latencies = latencies.filter(|(_, (_, _, is_all))| !is_all);
    let latencies = latencies.map(|(kind, (_, from, _))| (Word::LatenciesOf, kind as u8, *from));
    counts.map(|first| (Word::CountsOf, 0, first)).chain(latencies)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
