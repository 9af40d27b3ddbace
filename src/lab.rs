//! A throw-away world for the demo and the tests: network namespaces, the cables between them, slow links, and somebody
//! who listens. Nothing here outlives its value, and the machine's own network is never touched.

mod capture;
mod delay_box;
pub mod dns;
pub mod internet;
mod namespace;
pub mod probe;
mod program;
mod scratch;
pub mod tethering;
pub mod world;

pub use crate::io::ethtool::Offloads;
pub use crate::io::netns::Isolation;
pub use capture::Capture;
pub use delay_box::{Counts, DelayBox, Way};
pub use namespace::{Error, Namespace, veth};
pub use program::Program;
pub use scratch::Scratch;
