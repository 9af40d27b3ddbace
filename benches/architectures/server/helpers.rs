//! An event loop with helper threads (AMPED: asymmetric multi-process, event driven; the web server Flash). The loop reads
//! and runs every handler but one, which a pool of helpers runs; what is done there comes back to the loop.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mio::Waker;

use super::{Server, spawn};
use crate::inputs::{BATCH, Inputs};
use crate::record::Run;
use crate::request::{HANDLERS, HELPED_HANDLER, Request};

/// Helpers for each core: while one is put aside another goes on.
const HELPERS_A_CORE: usize = 2;

/// Requests that may be with the helpers at once, waiting or not. A loop that finds no room leaves the rest in the sockets.
const WITH_HELPERS_MAX: usize = 256;

/// What lies between the loop and its helpers.
struct Desk {
    piles: Mutex<Piles>,
    work_came: Condvar,
    done_came: Condvar,
    waker: Arc<Waker>,
}

#[derive(Default)]
struct Piles {
    to_do: VecDeque<Request>,
    done: VecDeque<Request>,
    helpers_idle: usize,
    stopping: bool,
}

impl Desk {
    fn piles(&self) -> MutexGuard<'_, Piles> {
        self.piles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `requests` to the helpers, and takes what they have done. Without room there is nothing to read for, so
    /// the loop waits for a helper, and does not wake for what comes in.
    fn exchange(&self, requests: &mut Vec<Request>, done: &mut Vec<Request>, must_wait: bool) {
        let mut piles = self.piles();
        while must_wait && piles.done.is_empty() && !piles.stopping {
            piles = self.done_came.wait(piles).unwrap_or_else(PoisonError::into_inner);
        }
        done.extend(piles.done.drain(..));
        let wake = piles.helpers_idle.min(requests.len());
        piles.to_do.extend(requests.drain(..));
        drop(piles);
        for _ in 0..wake {
            self.work_came.notify_one();
        }
    }
}

pub(super) fn start(sockets: Vec<UdpSocket>, run: Arc<Run>, cores: usize) -> io::Result<Server> {
    let inputs = Inputs::new(sockets)?;
    let waker = inputs.waker()?;
    let desk = Arc::new(Desk {
        piles: Mutex::default(),
        work_came: Condvar::new(),
        done_came: Condvar::new(),
        waker: Arc::clone(&waker),
    });
    let wake_desk = Arc::clone(&desk);
    let wake = Box::new(move || {
        wake_desk.piles().stopping = true;
        wake_desk.work_came.notify_all();
        wake_desk.done_came.notify_all();
        // A loop that is not woken looks again within its longest wait.
        drop(waker.wake());
    });
    let mut server = Server { run: Arc::clone(&run), threads: Vec::new(), wake, stages: None };
    for _ in 0..cores * HELPERS_A_CORE {
        let (desk, run) = (Arc::clone(&desk), Arc::clone(&run));
        server.threads.push(spawn("helper", move || help(&desk, &run))?);
    }
    server.threads.push(spawn("loop", move || serve(inputs, &desk, &run))?);
    Ok(server)
}

fn serve(mut inputs: Inputs, desk: &Desk, run: &Run) -> io::Result<()> {
    let (mut requests, mut done, mut with_helpers) = (Vec::new(), Vec::new(), 0);
    while !run.is_stopping() {
        let room = (WITH_HELPERS_MAX - with_helpers).min(BATCH);
        if room > 0 {
            inputs.look()?;
            inputs.read(room, &mut requests)?;
        }
        with_helpers += requests.len();
        for _ in &requests {
            (0..HELPED_HANDLER).for_each(|_| run.cost.handle());
        }
        desk.exchange(&mut requests, &mut done, room == 0);
        with_helpers -= done.len();
        for request in done.drain(..) {
            (HELPED_HANDLER + 1..HANDLERS).for_each(|_| run.cost.handle());
            run.served(request);
        }
    }
    Ok(())
}

fn help(desk: &Desk, run: &Run) -> io::Result<()> {
    let mut piles = desk.piles();
    while !piles.stopping {
        let Some(request) = piles.to_do.pop_front() else {
            piles.helpers_idle += 1;
            piles = desk.work_came.wait(piles).unwrap_or_else(PoisonError::into_inner);
            piles.helpers_idle -= 1;
            continue;
        };
        drop(piles);
        run.cost.handle();
        piles = desk.piles();
        piles.done.push_back(request);
        // One that waits already was told.
        if piles.done.len() == 1 {
            desk.done_came.notify_one();
            desk.waker.wake()?;
        }
    }
    Ok(())
}
