//! What load and sink say to each other, in the payloads of UDP datagrams that go through the tunnel: the load itself, and
//! a few questions and answers about it, each of which is asked again until it is answered.

use super::figures::Latencies;
use super::mix::Flow;
use super::schedule::{Schedule, Surge};

/// At the front of every payload.
const MAGIC: [u8; 4] = *b"wsLd";

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 28;

/// IPv4 and UDP headers, in bytes.
pub(super) const HEADERS_BYTES: usize = 28;

/// The most of an answer behind its stamp, so that it fits any tunnel.
const ANSWER_BYTES_MAX: usize = 1_200 - STAMP_BYTES;

/// A surge that is none.
const NO_SURGE: Surge = Surge { factor: 1.0, from_ns: 0, until_ns: 0 };

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Word {
    /// A packet of the load. Its time is when it was to be sent.
    Data,
    /// A tether asks for a flow of its own.
    Ask,
    /// It will come.
    Asked,
    /// The run begins at this time, and lasts so many milliseconds (sequence).
    Start,
    /// It will.
    Started,
    /// What was counted for the tethers from this one on?
    CountsOf,
    /// That was.
    Counts,
    /// Which latencies did this group have, from this bucket on?
    LatenciesOf,
    /// Those. The time is the bucket to ask from next, or 0.
    Latencies,
}

impl Word {
    const ALL: [Self; 9] = [
        Self::Data,
        Self::Ask,
        Self::Asked,
        Self::Start,
        Self::Started,
        Self::CountsOf,
        Self::Counts,
        Self::LatenciesOf,
        Self::Latencies,
    ];
}

/// The front of every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which run of the load this belongs to.
    pub(super) run: u32,
    /// What it is.
    pub(super) word: Word,
    /// Latencies are told apart by it: the kind of the tether.
    pub(super) group: u8,
    /// Whose it is.
    pub(super) tether: u32,
    /// Its number in its flow; in questions and answers, where they begin.
    pub(super) sequence: u32,
    /// A time of CLOCK_MONOTONIC.
    pub(super) time_ns: u64,
}

impl Stamp {
    /// The bytes on the wire.
    pub(super) fn bytes(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8] = self.word as u8;
        bytes[9] = self.group;
        bytes[12..16].copy_from_slice(&self.tether.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[20..].copy_from_slice(&self.time_ns.to_be_bytes());
        bytes
    }

    /// The stamp at the front of a payload, and what follows it; `None` where there is none.
    pub(super) fn read(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (mut reader, rest) = (Reader(payload.get(..STAMP_BYTES)?), &payload[STAMP_BYTES..]);
        if reader.array()? != MAGIC {
            return None;
        }
        let run = reader.u32()?;
        let [word, group, ..] = reader.array::<4>()?;
        let word = Word::ALL.into_iter().find(|&known| known as u8 == word)?;
        Some((Self { run, word, group, tether: reader.u32()?, sequence: reader.u32()?, time_ns: reader.u64()? }, rest))
    }
}

/// Reads integers from the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.u64().map(f64::from_bits).filter(|value| value.is_finite())
    }
}

/// The body of an `Ask`.
pub(super) fn write_flow(flow: &Flow) -> Vec<u8> {
    let Flow { schedule: Schedule { rate_pps, train, phase, surge, end_ns }, size_bytes } = *flow;
    let Surge { factor, from_ns, until_ns } = surge.unwrap_or(NO_SURGE);
    let mut body = Vec::new();
    body.extend(u32::from(size_bytes).to_be_bytes());
    body.extend(train.to_be_bytes());
    [rate_pps, phase, factor].iter().for_each(|value| body.extend(value.to_bits().to_be_bytes()));
    [from_ns, until_ns, end_ns].iter().for_each(|value| body.extend(value.to_be_bytes()));
    body
}

/// The flow that an `Ask` asks for; `None` where it is none.
pub(super) fn read_flow(body: &[u8]) -> Option<Flow> {
    let mut reader = Reader(body);
    let size_bytes = u16::try_from(reader.u32()?).ok()?;
    let (train, rate_pps, phase) = (reader.u32()?, reader.f64()?, reader.f64()?);
    let surge = Surge { factor: reader.f64()?, from_ns: reader.u64()?, until_ns: reader.u64()? };
    let surge = (surge != NO_SURGE).then_some(surge);
    Some(Flow { schedule: Schedule { rate_pps, train, phase, surge, end_ns: reader.u64()? }, size_bytes })
}

/// What the sink counted for a tether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Packets of the tether's that arrived.
    pub(super) received: u32,
    /// Of these, packets that arrived before the end.
    pub(super) in_time: u32,
    /// Packets to the tether whose time came.
    pub(super) offered: u32,
    /// Of these, packets that were not sent: the kernel did not take them, or their time had long passed.
    pub(super) unsent: u32,
}

/// Tethers in one answer.
pub(super) const COUNTS_MAX: usize = ANSWER_BYTES_MAX / COUNTS_BYTES;

/// Bytes of one tether's counts.
const COUNTS_BYTES: usize = 16;

/// The body of `Counts`, of at most [`COUNTS_MAX`] tethers.
pub(super) fn write_counts(counts: impl Iterator<Item = Counts>) -> Vec<u8> {
    let fields = |Counts { received, in_time, offered, unsent }: Counts| [received, in_time, offered, unsent];
    counts.take(COUNTS_MAX).flat_map(fields).flat_map(u32::to_be_bytes).collect()
}

/// What `Counts` says, tether by tether.
pub(super) fn read_counts(body: &[u8]) -> impl Iterator<Item = Counts> {
    body.chunks_exact(COUNTS_BYTES).filter_map(|chunk| {
        let mut reader = Reader(chunk);
        Some(Counts { received: reader.u32()?, in_time: reader.u32()?, offered: reader.u32()?, unsent: reader.u32()? })
    })
}

/// The body of `Latencies` from a bucket on, and the bucket to ask from next, or 0.
pub(super) fn write_latencies(latencies: &Latencies, from: usize) -> (Vec<u8>, u64) {
    let mut body = Vec::new();
    for (bucket, count) in latencies.counts().filter(|&(bucket, _)| bucket >= from) {
        if body.len() + 12 > ANSWER_BYTES_MAX {
            return (body, bucket as u64);
        }
        body.extend((bucket as u32).to_be_bytes());
        body.extend(count.to_be_bytes());
    }
    (body, 0)
}

/// Adds what `Latencies` says.
pub(super) fn read_latencies(body: &[u8], into: &mut Latencies) {
    for chunk in body.chunks_exact(12) {
        let mut reader = Reader(chunk);
        if let (Some(bucket), Some(count)) = (reader.u32(), reader.u64()) {
            into.add(bucket as usize, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAMP: Stamp =
        Stamp { run: 7, word: Word::Latencies, group: 3, tether: 9, sequence: 1 << 20, time_ns: u64::MAX - 1 };

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let bytes = [&STAMP.bytes()[..], b"more"].concat();
        assert_eq!(Stamp::read(&bytes), Some((STAMP, &b"more"[..])));
        assert_eq!(Stamp::read(&bytes[..STAMP_BYTES - 1]), None);
        assert_eq!(Stamp::read(&[b'x'; STAMP_BYTES]), None);
    }

    #[test]
    fn a_flow_is_read_as_it_was_written() {
        let schedule = Schedule { rate_pps: 12.5, train: 44, phase: 0.25, surge: None, end_ns: 5_000_000_000 };
        let surge = Some(Surge { factor: 20.0, from_ns: 1, until_ns: 2 });
        for schedule in [schedule, Schedule { surge, ..schedule }] {
            let flow = Flow { schedule, size_bytes: 1_400 };
            assert_eq!(read_flow(&write_flow(&flow)), Some(flow));
        }
    }

    #[test]
    fn latencies_are_told_in_as_many_answers_as_they_need() {
        let (mut whole, mut told) = (Latencies::default(), Latencies::default());
        (0..500).for_each(|at| whole.add(at, at as u64));
        let (mut from, mut answers) = (0, 0);
        loop {
            let (body, next) = write_latencies(&whole, from);
            assert!(body.len() <= ANSWER_BYTES_MAX);
            read_latencies(&body, &mut told);
            (from, answers) = (next as usize, answers + 1);
            if from == 0 {
                break;
            }
        }
        assert_eq!((&told, answers), (&whole, 6));
    }

    proptest! {
        #[test]
        fn counts_are_read_as_they_were_written(
            counts in proptest::collection::vec(any::<[u32; 4]>(), 0..COUNTS_MAX),
        ) {
            let counts: Vec<Counts> =
                counts.into_iter().map(|[received, in_time, offered, unsent]| Counts { received, in_time, offered, unsent }).collect();
            prop_assert_eq!(read_counts(&write_counts(counts.iter().copied())).collect::<Vec<_>>(), counts);
        }

        #[test]
        fn any_payload_is_judged_without_a_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stamp::read(&payload);
            let _ = read_flow(&payload);
            let _ = read_counts(&payload).count();
            read_latencies(&payload, &mut Latencies::default());
        }
    }
}
