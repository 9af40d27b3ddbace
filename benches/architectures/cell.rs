//! One cell of the comparison: an architecture under one load from so many tethers.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wstether::io::affinity;

use super::generator::{self, Offered, Sender};
use super::record::Run;
use super::request::Cost;
use super::server::{Architecture, Dropped};

/// Where a run takes place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) generator_core: usize,
    pub(crate) server_cores: Vec<usize>,
    pub(crate) cost: Cost,
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// Until it is as it will stay.
    pub(crate) warm_up: Duration,
    /// What is counted.
    pub(crate) measured: Duration,
}

/// What a cell gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) architecture: Architecture,
    pub(crate) tethers: u32,
    /// The load as a multiple of the peak.
    pub(crate) load: f64,
    pub(crate) offered_per_s: f64,
    pub(crate) delivered_per_s: f64,
    /// Delivered, as a part of the peak, or of what was offered where that is less.
    pub(crate) goodput: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p999_ms: Option<f64>,
    pub(crate) jain: Option<f64>,
    pub(crate) worst_share: Option<f64>,
    /// Requests that were never read: lost because the tether's socket was full, or waiting there at the end.
    pub(crate) unread: u64,
    /// Requests dropped by the server's queues. These two are of the whole cell, warm-up included.
    pub(crate) dropped: Dropped,
    /// Seconds that were counted.
    pub(crate) measured_s: f64,
}

/// Requests a tether on average below which shares say little: with fewer, one more or less is a tenth of a share.
const SHARE_MEAN_MIN: f64 = 10.0;

impl Cell {
    /// Requests that a tether was served, on average.
    pub(crate) fn served_a_tether(&self) -> f64 {
        self.delivered_per_s * self.measured_s / f64::from(self.tethers)
    }

    /// Whether that is so little that the shares are those of whole numbers, too.
    pub(crate) fn is_coarse(&self) -> bool {
        self.served_a_tether() < SHARE_MEAN_MIN
    }
}

/// What is asked of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) architecture: Architecture,
    pub(crate) tethers: u32,
    pub(crate) load: f64,
    pub(crate) peak_per_s: f64,
}

impl Place {
    /// Runs one cell.
    ///
    /// # Errors
    /// The machine refuses so many threads or descriptors.
    pub(crate) fn cell(&self, of: Load, length: Length) -> io::Result<Cell> {
        let rate_per_s = of.load * of.peak_per_s;
        let generate = move |sender: &Sender, run: &Run| generator::open_loop(sender, run, rate_per_s);
        let (run, offered, dropped) = self.run(of.architecture, of.tethers, length, generate)?;
        Ok(report(of, &run, offered, dropped, length))
    }

    /// What an architecture does when it is never idle and never swamped, in requests a second.
    pub(crate) fn peak_per_s(&self, architecture: Architecture, length: Length) -> io::Result<f64> {
        let generate = |sender: &Sender, run: &Run| generator::closed_loop(sender, run, PEAK_WINDOW);
        let (run, (), _) = self.run(architecture, PEAK_TETHERS, length, generate)?;
        Ok(run.shares().total as f64 / length.measured.as_secs_f64())
    }

    /// What the generator can send in a second, to so many tethers.
    pub(crate) fn generator_per_s(&self, tethers: u32) -> io::Result<f64> {
        let (ours, theirs) = generator::sockets(tethers)?;
        let core = self.generator_core;
        on_thread(move || {
            affinity::pin(&[core])?;
            generator::own_rate_per_s(&ours, &theirs)
        })
    }

    /// Starts a server, has `generate` run on the generator's core, and stops the server.
    fn run<G: Send + 'static>(
        &self,
        architecture: Architecture,
        tethers: u32,
        length: Length,
        generate: impl FnOnce(&Sender, &Run) -> io::Result<G> + Send + 'static,
    ) -> io::Result<(Arc<Run>, G, Dropped)> {
        let (ours, theirs) = generator::sockets(tethers)?;
        // The server's threads inherit the cores of this one.
        affinity::pin(&self.server_cores)?;
        let run = Arc::new(Run::new(self.cost, tethers, length.warm_up, length.measured));
        let server = architecture.start(theirs, &run, self.server_cores.len())?;
        let (core, theirs) = (self.generator_core, Arc::clone(&run));
        let generated = on_thread(move || {
            affinity::pin(&[core])?;
            // Only now: threads that are still starting would keep the generator off the core that it was started on.
            theirs.start_clock();
            generate(&ours, &theirs)
        });
        let dropped = server.dropped();
        server.stop()?;
        Ok((run, generated?, dropped))
    }
}

/// Has the generator's work done on a thread of its own, and waits for it.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    thread::spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("the generator panicked")))
}

/// The closed loop in which the peak is measured: a few tethers, and enough requests out for no thread to be idle.
const PEAK_TETHERS: u32 = 16;
const PEAK_WINDOW: u64 = 64;

fn report(of: Load, run: &Run, offered: Offered, dropped: Dropped, length: Length) -> Cell {
    let measured_s = length.measured.as_secs_f64();
    let shares = run.shares();
    let (offered_per_s, delivered_per_s) = (offered.counted as f64 / measured_s, shares.total as f64 / measured_s);
    let quantile_ms = |q| run.response().quantile(q).map(|time: Duration| time.as_secs_f64() * 1e3);
    Cell {
        architecture: of.architecture,
        tethers: of.tethers,
        load: of.load,
        offered_per_s,
        delivered_per_s,
        goodput: (offered.counted > 0).then(|| delivered_per_s / offered_per_s.min(of.peak_per_s)),
        p50_ms: quantile_ms(0.5),
        p90_ms: quantile_ms(0.9),
        p99_ms: quantile_ms(0.99),
        p999_ms: quantile_ms(0.999),
        jain: shares.jain,
        worst_share: shares.worst,
        unread: offered.ever.saturating_sub(run.served_ever() + dropped.queue_full + dropped.not_admitted),
        dropped,
        measured_s,
    }
}
