//! The pipeline's places: what stands where, before anything is opened. The running pipeline is built from these, and the
//! diagram is printed from them.

use crate::config::gateway::{StageName, Way};
use crate::metrics::labels;
use crate::runtime::stage::WhenFull;
use crate::runtime::work::RUNTIME_REASONS;
use crate::stages::{ip_parse, nat_rewrite, raw_recv, raw_send, tun_read, tun_write, ws_decode, ws_encode};

/// From the laptop to the internet.
pub const UPLINK: &str = "uplink";
/// From the internet to the laptop.
pub const DOWNLINK: &str = "downlink";

/// Whose lanes a stage has: what belongs to one of these stays in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A link: socket, TLS and WebSocket are one thing.
    Link,
    /// A tether.
    Tether,
    /// The tether that a peek tells, or the flow where it tells none.
    Steered,
}

impl Owner {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Tether | Self::Steered => "tether",
        }
    }
}

/// Where a stage with a queue stands.
pub(super) struct Place {
    pub(super) name: StageName,
    pub(super) direction: &'static str,
    pub(super) lanes: Owner,
    pub(super) when_full: WhenFull,
    pub(super) reasons: fn() -> Vec<&'static str>,
    /// Whether it hands packets on to the next one; the others take them out of the pipeline.
    pub(super) goes_on: bool,
    /// Whether packets turn round here. They enter the downlink at [`NAT_IN`]; what turns there leaves with the uplink's last
    /// stage.
    pub(super) turns: bool,
}

pub(super) const ACCEPT: Place = Place {
    name: StageName::Accept,
    direction: UPLINK,
    lanes: Owner::Link,
    when_full: WhenFull::Park,
    // It drops no packets: what it refuses are connections, which have a counter of their own.
    reasons: Vec::new,
    goes_on: false,
    turns: false,
};

pub(super) const WS_DECODE: Place = Place {
    name: StageName::WsDecode,
    direction: UPLINK,
    lanes: Owner::Link,
    when_full: WhenFull::Park,
    reasons: labels::<ws_decode::Reason>,
    goes_on: true,
    turns: false,
};

pub(super) const PARSE_OUT: Place = Place {
    name: StageName::IpParse,
    direction: UPLINK,
    lanes: Owner::Tether,
    when_full: WhenFull::Park,
    reasons: labels::<ip_parse::Reason>,
    goes_on: true,
    turns: true,
};

pub(super) const NAT_OUT: Place = Place {
    name: StageName::NatRewrite,
    direction: UPLINK,
    lanes: Owner::Tether,
    when_full: WhenFull::Park,
    reasons: labels::<nat_rewrite::Reason>,
    goes_on: true,
    turns: true,
};

pub(super) const RAW_SEND: Place = Place {
    name: StageName::RawSend,
    direction: UPLINK,
    lanes: Owner::Tether,
    when_full: WhenFull::Park,
    reasons: labels::<raw_send::Reason>,
    goes_on: false,
    turns: false,
};

pub(super) const TUN_WRITE: Place =
    Place { name: StageName::TunWrite, reasons: labels::<tun_write::Reason>, ..RAW_SEND };

pub(super) const PARSE_IN: Place = Place {
    name: StageName::IpParse,
    direction: DOWNLINK,
    lanes: Owner::Steered,
    when_full: WhenFull::Drop,
    reasons: labels::<ip_parse::Reason>,
    goes_on: true,
    turns: true,
};

pub(super) const NAT_IN: Place = Place {
    name: StageName::NatRewrite,
    direction: DOWNLINK,
    lanes: Owner::Tether,
    when_full: WhenFull::Drop,
    reasons: labels::<nat_rewrite::Reason>,
    goes_on: true,
    turns: true,
};

pub(super) const WS_ENCODE: Place = Place {
    name: StageName::WsEncode,
    direction: DOWNLINK,
    lanes: Owner::Tether,
    when_full: WhenFull::Drop,
    reasons: labels::<ws_encode::Reason>,
    goes_on: false,
    turns: false,
};

/// The source from the internet: it has no queue, and is no stage of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourcePlace {
    pub(super) name: &'static str,
    pub(super) reasons: fn() -> Vec<&'static str>,
}

pub(super) const RAW_RECV: SourcePlace = SourcePlace { name: "raw-recv", reasons: labels::<raw_recv::Reason> };
pub(super) const TUN_READ: SourcePlace = SourcePlace { name: "tun-read", reasons: labels::<tun_read::Reason> };

/// One stage of the diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Its name in the configuration; a source has none.
    pub config: Option<StageName>,
    /// [`UPLINK`] or [`DOWNLINK`].
    pub direction: &'static str,
    /// Whose lanes it has; a source has none.
    pub lanes: Option<Owner>,
    /// What happens when its queue is full; a source has none.
    pub when_full: Option<WhenFull>,
    /// What it may drop packets for.
    pub reasons: Vec<&'static str>,
    /// The next stage's name, in the same direction.
    pub next: Option<&'static str>,
    /// Where packets that turn round here go: direction and name.
    pub turned_to: Option<(&'static str, &'static str)>,
}

impl Place {
    /// The labels of all reasons for a drop: the runtime's first.
    pub(super) fn all_reasons(&self) -> Vec<&'static str> {
        RUNTIME_REASONS.into_iter().chain((self.reasons)()).collect()
    }

    fn describe(&self) -> Description {
        Description {
            name: self.name.word(),
            config: Some(self.name),
            direction: self.direction,
            lanes: Some(self.lanes),
            when_full: Some(self.when_full),
            reasons: self.all_reasons(),
            next: None,
            turned_to: self.turns.then(|| (DOWNLINK, NAT_IN.name.word())),
        }
    }
}

impl SourcePlace {
    fn describe(&self) -> Description {
        Description {
            name: self.name,
            config: None,
            direction: DOWNLINK,
            lanes: None,
            when_full: None,
            reasons: (self.reasons)(),
            next: None,
            turned_to: None,
        }
    }
}

/// The stages of a gateway with this way out, in the order of the data's way. Nothing is opened.
pub fn describe(way: &Way) -> Vec<Description> {
    let (out, source) = match way {
        Way::Raw(_) => (&RAW_SEND, &RAW_RECV),
        Way::Tun { .. } => (&TUN_WRITE, &TUN_READ),
    };
    let uplink = [&ACCEPT, &WS_DECODE, &PARSE_OUT, &NAT_OUT, out];
    let downlink = [&PARSE_IN, &NAT_IN, &WS_ENCODE];
    let mut stages: Vec<Description> = uplink.into_iter().map(Place::describe).collect();
    stages.push(source.describe());
    stages.extend(downlink.into_iter().map(Place::describe));
    let goes_on: Vec<bool> = uplink
        .map(|place| place.goes_on)
        .into_iter()
        .chain([true])
        .chain(downlink.map(|place| place.goes_on))
        .collect();
    for stage in stages.iter_mut().filter(|stage| stage.turned_to == Some((stage.direction, stage.name))) {
        stage.turned_to = Some((UPLINK, out.name.word()));
    }
    for at in 1..stages.len() {
        stages[at - 1].next = goes_on[at - 1].then(|| stages[at].name);
    }
    stages
}
