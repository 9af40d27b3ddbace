//! A neighbour that takes most of the gateway's core, so that a generator with a core for itself can offer several times what
//! is left for the gateway, with handlers as they are.

use std::process::Child;
use std::time::{Duration, Instant};

use wstether::lab::Isolation;

use crate::site::{GATEWAY_CORE, Site};
use crate::{NEIGHBOUR, Outcome};

/// What it leaves of the core: the generator, which sends about 1.6 times what a whole core serves, is then at five times.
pub(crate) const LEAVES: f64 = 0.3;

/// It comes and goes so often that the gateway has a slower core, and not one that is away for longer than what may wait
/// in a queue (5 ms).
const PERIOD: Duration = Duration::from_millis(1);

/// Any real-time priority goes before all that has none.
const PRIORITY: &str = "1";

/// Gone when dropped.
pub(crate) struct Neighbour(Child);

impl Neighbour {
    /// Moves in on the core of a site's gateway.
    pub(crate) fn of(site: &Site) -> Outcome<Self> {
        let mut command =
            site.world.gateway.command("chrt", Isolation { resolv_conf: None, dies_with_parent: true })?;
        command.args(["--fifo", PRIORITY, "taskset", "-c", GATEWAY_CORE]).arg(std::env::current_exe()?).arg(NEIGHBOUR);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It never ends by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Is the neighbour, until it is killed.
pub(crate) fn live() -> ! {
    let mut begins = Instant::now();
    loop {
        while begins.elapsed() < PERIOD.mul_f64(1.0 - LEAVES) {
            std::hint::spin_loop();
        }
        begins += PERIOD;
        std::thread::sleep(begins.saturating_duration_since(Instant::now()));
    }
}
