//! The stages: a file each, all of the same shape. Drop reasons first, then the handler, then its tests.
//!
//! A handler is plain code: packets and `now` in, a [`Verdict`] a packet out. It sees no queue, thread, socket or clock.

use crate::packet::Packet;
use ip_parse::Parsed;

#[cfg(feature = "kernel")]
pub mod accept;
pub mod ballast;
#[cfg(feature = "kernel")]
pub mod cut;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ip_parse;
pub mod nat_rewrite;
#[cfg(feature = "kernel")]
pub mod outward;
#[cfg(feature = "kernel")]
pub mod raw_recv;
#[cfg(feature = "kernel")]
pub mod raw_send;
#[cfg(feature = "kernel")]
pub mod source;
#[cfg(all(test, feature = "kernel"))]
mod testing;
#[cfg(feature = "kernel")]
pub mod tethered;
#[cfg(feature = "kernel")]
pub mod tun_read;
#[cfg(feature = "kernel")]
pub mod tun_write;
#[cfg(feature = "kernel")]
pub mod ws_decode;
#[cfg(feature = "kernel")]
pub mod ws_encode;

/// What becomes of a packet. A silent drop does not type-check.
#[derive(Debug)]
pub enum Verdict<Out, Reason> {
    /// On to the next stage.
    Forward(Out),
    /// Turned round, changed in place: an echo reply, a hairpinned packet. It enters as downlink.
    Turn(Packet<Parsed>),
    /// Dropped for `Reason`, and its sender is told by a packet that the gateway makes (an ICMP error), which is counted
    /// apart. A tether is told by what enters as downlink, the internet by what leaves with the uplink.
    Reply(Reason, Packet<Parsed>),
    /// Dropped for a counted reason.
    Drop(Reason),
}

/// Why a stage may drop a packet: a closed set, each with one label that log, metric and code share.
pub trait Reason: Copy + std::fmt::Debug + Eq + 'static {
    /// Every reason, in the order of their indices.
    const ALL: &'static [Self];

    /// The reason's place in [`Reason::ALL`].
    fn index(self) -> usize;

    /// The label in metrics and logs.
    fn label(self) -> &'static str;

    /// What it means, for docs/metrics.md: the words of its own documentation.
    fn meaning(self) -> &'static str;
}

/// Defines a stage's drop reasons, their labels and their meaning in one place.
#[macro_export]
macro_rules! reasons {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[doc = $doc])* $variant,)+ }

        impl $crate::stages::Reason for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn index(self) -> usize {
                self as usize
            }

            fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*).trim_ascii_start(),)+ }
            }
        }
    };
}
