//! The end of links: a goodbye that is not read would be lost if the socket were closed over unread bytes, since the
//! kernel then resets the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dial;
use crate::link::Link;

/// How long peers may take to hang up: a round trip on a bad network.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is read meanwhile is of no use to anybody.
const SINK_BYTES: usize = 16_384;

/// Waits until the peers of closed links have hung up, or for a moment.
pub(super) fn until_closed(links: &[Arc<Link>]) {
    let deadline = Instant::now() + PATIENCE;
    links.iter().for_each(|link| drain(link, deadline));
}

fn drain(link: &Link, deadline: Instant) {
    let mut sink = vec![0; SINK_BYTES];
    while Instant::now() < deadline {
        match link.transport().read(&mut sink) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !dial::wait(link.transport(), true, false, deadline).unwrap_or(false) {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}
