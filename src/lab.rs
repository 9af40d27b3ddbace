//! A throw-away world for the demo and the tests: network namespaces, the cables between them, slow links, and somebody
//! who listens. Nothing here outlives its value, and the machine's own network is never touched.

mod namespace;

pub use crate::io::netns::Isolation;
pub use namespace::{Error, Namespace, veth};
