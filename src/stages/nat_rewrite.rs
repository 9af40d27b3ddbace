//! nat-rewrite: finds or makes the mapping, rewrites, updates checksums incrementally (RFC 1624).

use crate::stages::ip_parse::FiveTuple;

/// Proof that a packet has the addresses of the side that it leaves to.
#[derive(Clone, Copy, Debug)]
pub struct Translated {
    inside: FiveTuple,
}

impl Translated {
    /// The flow's five-tuple as the inside sees it.
    pub fn inside(&self) -> &FiveTuple {
        &self.inside
    }
}
