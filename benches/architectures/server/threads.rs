//! A thread a tether: it blocks in its socket, and runs every handler itself.

use std::io;
use std::net::{Shutdown, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;

use socket2::SockRef;

use super::Server;
use crate::record::Run;
use crate::request::{REQUEST_BYTES, Request};

/// Ten thousand of the default 2 MiB would not fit into every machine's address space limits; the handlers need little.
const STACK_BYTES: usize = 64 << 10;

pub(super) fn start(sockets: Vec<UdpSocket>, run: Arc<Run>) -> io::Result<Server> {
    let sockets: Arc<[UdpSocket]> = sockets.into();
    let all = Arc::clone(&sockets);
    // A blocking read returns once its socket is shut. That it is not connected is told, and makes no difference.
    let wake = Box::new(move || {
        for socket in all.iter() {
            drop(SockRef::from(socket).shutdown(Shutdown::Both));
        }
    });
    let mut server = Server { run: Arc::clone(&run), threads: Vec::new(), wake, stages: None };
    for tether in 0..sockets.len() {
        let (sockets, run) = (Arc::clone(&sockets), Arc::clone(&run));
        let body = move || serve(&sockets[tether], &run);
        match Builder::new().stack_size(STACK_BYTES).spawn(body) {
            Ok(thread) => server.threads.push(thread),
            Err(error) => {
                server.stop()?;
                return Err(error);
            }
        }
    }
    Ok(server)
}

fn serve(socket: &UdpSocket, run: &Run) -> io::Result<()> {
    let mut bytes = [0; REQUEST_BYTES];
    while !run.stopping.load(Ordering::Relaxed) {
        if socket.recv(&mut bytes)? == REQUEST_BYTES {
            run.cost.handle_all();
            run.served(Request::decode(bytes));
        }
    }
    Ok(())
}
