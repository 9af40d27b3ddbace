//! One event loop that runs every handler (SPED: single process, event driven).

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use super::{Server, spawn};
use crate::inputs::{BATCH, Inputs};
use crate::record::Run;

pub(super) fn start(sockets: Vec<UdpSocket>, run: Arc<Run>) -> io::Result<Server> {
    let inputs = Inputs::new(sockets)?;
    let waker = inputs.waker()?;
    let theirs = Arc::clone(&run);
    let thread = spawn("loop", move || serve(inputs, &theirs))?;
    // A loop that is not woken looks again within its longest wait.
    Ok(Server { run, threads: vec![thread], wake: Box::new(move || drop(waker.wake())), stages: None })
}

fn serve(mut inputs: Inputs, run: &Run) -> io::Result<()> {
    let mut requests = Vec::with_capacity(BATCH);
    while !run.is_stopping() {
        inputs.look()?;
        inputs.read(BATCH, &mut requests)?;
        for request in requests.drain(..) {
            run.cost.handle_all();
            run.served(request);
        }
    }
    Ok(())
}
