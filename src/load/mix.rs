//! The kinds of tethers, and how many there are of each.

use std::fmt;
use std::str::FromStr;

use super::schedule::{Schedule, Surge};

/// Packets that a bursty flow sends at once.
const BURST_PACKETS: u32 = 32;

/// Packets that a bulk flow sends at once: what a host's TCP hands over as one super-packet (64 KiB).
const BULK_TRAIN_PACKETS: u32 = 44;

/// The smallest packet: what "small" sends.
pub const SIZE_BYTES_MIN: u16 = 64;

/// What a tether does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Packets evenly apart.
    Steady,
    /// As many, in bursts.
    Bursty,
    /// As many bytes, in the smallest packets.
    Small,
    /// As many packets of the largest size, in long trains.
    Bulk,
    /// Many times the packets.
    Hog,
    /// It is sent packets and stops to read them.
    SlowReader,
    /// It connects and hangs up, again and again.
    Storm,
    /// It never says who it is.
    HalfOpen,
    /// It connects and stays silent.
    Idle,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Steady,
        Self::Bursty,
        Self::Small,
        Self::Bulk,
        Self::Hog,
        Self::SlowReader,
        Self::Storm,
        Self::HalfOpen,
        Self::Idle,
    ];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Bursty => "bursty",
            Self::Small => "small",
            Self::Bulk => "bulk",
            Self::Hog => "hog",
            Self::SlowReader => "slow-reader",
            Self::Storm => "storm",
            Self::HalfOpen => "half-open",
            Self::Idle => "idle",
        }
    }

    /// Whether it is welcomed once and stays.
    pub const fn stays(self) -> bool {
        !matches!(self, Self::Storm | Self::HalfOpen)
    }
}

/// What the plain flow is, of which each kind has its own form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plain {
    /// Packets a second.
    pub rate_pps: f64,
    /// Length of a packet, from the IP header on, in bytes.
    pub size_bytes: u16,
    /// The largest packet that the tunnel takes, in bytes.
    pub mtu_bytes: u16,
    /// How many times the rate a hog sends.
    pub hog_factor: f64,
    /// More load for a while.
    pub surge: Option<Surge>,
    /// How long it lasts, in nanoseconds.
    pub end_ns: u64,
}

/// What a flow sends, and how large its packets are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// When.
    pub schedule: Schedule,
    /// Length of a packet, from the IP header on, in bytes.
    pub size_bytes: u16,
}

impl Kind {
    /// What a tether of this kind sends, or connects (storm); `None` where it sends nothing. `phase` spreads the tethers
    /// over time.
    pub fn flow(self, plain: &Plain, phase: f64) -> Option<Flow> {
        let Plain { rate_pps, size_bytes, mtu_bytes, hog_factor, surge, end_ns } = *plain;
        let flow = |rate_pps, train, size_bytes| {
            Some(Flow { schedule: Schedule { rate_pps, train, phase, surge, end_ns }, size_bytes })
        };
        match self {
            Self::Steady | Self::SlowReader | Self::Storm => flow(rate_pps, 1, size_bytes),
            Self::Bursty => flow(rate_pps, BURST_PACKETS, size_bytes),
            Self::Small => flow(rate_pps * f64::from(size_bytes) / f64::from(SIZE_BYTES_MIN), 1, SIZE_BYTES_MIN),
            Self::Bulk => flow(rate_pps, BULK_TRAIN_PACKETS, mtu_bytes),
            Self::Hog => flow(rate_pps * hog_factor, 1, size_bytes),
            Self::HalfOpen | Self::Idle => None,
        }
    }
}

/// Which kinds there are, and how many of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, Option<u32>)>);

impl Mix {
    /// The kind of each of `tethers`. Kinds without a number share what is left in turn.
    ///
    /// # Errors
    /// The numbers and `tethers` do not fit.
    pub fn kinds(&self, tethers: u32) -> Result<Vec<Kind>, MixError> {
        let numbered: u32 = self.0.iter().filter_map(|(_, count)| *count).sum();
        let sharing: Vec<Kind> = self.0.iter().filter(|(_, count)| count.is_none()).map(|(kind, _)| *kind).collect();
        let left = tethers.checked_sub(numbered).ok_or(MixError::TooMany { numbered, tethers })?;
        if sharing.is_empty() && left > 0 {
            return Err(MixError::TooFew { numbered, tethers });
        }
        let shared = sharing.iter().copied().cycle().take(left as usize);
        let fixed = self.0.iter().flat_map(|&(kind, count)| (0..count.unwrap_or(0)).map(move |_| kind));
        Ok(shared.chain(fixed).collect())
    }
}

/// Why a mix is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// No such kind.
    #[error("no kind of tether is called \"{0}\"; there are {all}", all = Kind::ALL.map(Kind::word).join(", "))]
    Unknown(String),
    /// What stands behind "=" is no number.
    #[error("\"{0}\" is no number of tethers; write it as hog=1")]
    Count(String),
    /// More are numbered than there are.
    #[error(
        "--mix numbers {numbered} tethers, and --tethers says {tethers}: raise --tethers, or lower the numbers in --mix"
    )]
    TooMany {
        /// In the mix.
        numbered: u32,
        /// In all.
        tethers: u32,
    },
    /// All kinds are numbered, and tethers are left.
    #[error(
        "--mix numbers {numbered} tethers, and --tethers says {tethers}: leave one kind without a number for the rest"
    )]
    TooFew {
        /// In the mix.
        numbered: u32,
        /// In all.
        tethers: u32,
    },
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let one = |part: &str| {
            let (word, count) = part.split_once('=').map_or((part, None), |(word, count)| (word, Some(count)));
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word.trim());
            let count = count.map(|count| count.trim().parse().map_err(|_| MixError::Count(count.to_owned())));
            Ok((kind.ok_or_else(|| MixError::Unknown(word.to_owned()))?, count.transpose()?))
        };
        Ok(Self(text.split(',').map(one).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, count)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}", kind.word())?;
            count.map_or(Ok(()), |count| write!(f, "={count}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Plain =
        Plain { rate_pps: 10.0, size_bytes: 640, mtu_bytes: 1_500, hog_factor: 100.0, surge: None, end_ns: 1 };

    fn mix(text: &str) -> Mix {
        text.parse().expect("a mix")
    }

    #[test]
    fn kinds_without_a_number_share_what_the_others_leave() {
        let kinds = mix("steady,bursty,hog=1").kinds(4).expect("they fit");
        assert_eq!(kinds, [Kind::Steady, Kind::Bursty, Kind::Steady, Kind::Hog]);
        assert_eq!(mix("idle=2").kinds(2).expect("they fit"), [Kind::Idle, Kind::Idle]);
    }

    #[test]
    fn a_mix_that_does_not_fit_says_so() {
        assert_eq!(mix("hog=3").kinds(2), Err(MixError::TooMany { numbered: 3, tethers: 2 }));
        assert_eq!(mix("hog=1").kinds(2), Err(MixError::TooFew { numbered: 1, tethers: 2 }));
        assert_eq!("stedy".parse::<Mix>(), Err(MixError::Unknown("stedy".to_owned())));
        assert_eq!("hog=many".parse::<Mix>(), Err(MixError::Count("many".to_owned())));
    }

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            assert_eq!(mix(kind.word()).kinds(1), Ok(vec![kind]));
        }
        assert_eq!(mix("steady, hog=1").to_string(), "steady,hog=1");
    }

    #[test]
    fn each_kind_has_its_form_of_the_plain_flow() {
        let form = |kind: Kind| {
            kind.flow(&PLAIN, 0.0).map(|flow| (flow.schedule.rate_pps, flow.schedule.train, flow.size_bytes))
        };
        assert_eq!(form(Kind::Steady), Some((10.0, 1, 640)));
        assert_eq!(form(Kind::Bursty), Some((10.0, 32, 640)));
        assert_eq!(form(Kind::Small), Some((100.0, 1, 64)), "the same bytes");
        assert_eq!(form(Kind::Bulk), Some((10.0, 44, 1_500)));
        assert_eq!(form(Kind::Hog), Some((1_000.0, 1, 640)));
        assert_eq!((form(Kind::Idle), form(Kind::HalfOpen)), (None, None));
    }
}
