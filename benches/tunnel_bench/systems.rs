//! What is measured: each a system by one path, started in namespaces of its own.

pub(crate) mod kernel;
pub(crate) mod ocserv;
pub(crate) mod openvpn;
pub(crate) mod roofline;
pub(crate) mod wireguard;
pub(crate) mod wstether;

use std::any::Any;
use std::fmt;
use std::process::Command;

use ::wstether::lab::Program;

use crate::site::{Error, Site, ran};
use wstether::Build;

/// One row of the table.
pub(crate) trait System {
    /// The system and its path, such as `wstether` and `direct ws raw`.
    fn name(&self) -> (&'static str, String);
    /// The version that runs; an error is why it cannot run here.
    fn version(&self) -> Result<String, Error>;
    /// Starts it. When this returns the laptop reaches the internet through it.
    fn start(&self, site: &Site) -> Result<Running, Error>;
    /// The gateway's interface in front of the slowest link of the path, and the other end's.
    fn slow_link(&self) -> SlowLink {
        SlowLink::LaptopToGateway
    }
    /// Its gateway with nobody but the tethers that `wstether load` simulates.
    fn gateway_alone(&self, _site: &Site) -> Result<Alone, Error> {
        Err("simulated tethers speak to wstether's gateway alone, directly and over ws".into())
    }
    /// Whether the quick setting measures it, too.
    fn is_quick(&self) -> bool {
        true
    }
}

/// Which cable is made slow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SlowLink {
    /// The one that leads past the phone.
    LaptopToGateway,
    /// The phone's mobile network.
    PhoneToGateway,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Gateway,
    Relay,
}

/// A gateway, a sink, and the command that offers a load. They end when dropped.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) gateway: Program,
    pub(crate) _sink: Program,
    /// The command, and the arguments that every load has.
    pub(crate) load: Vec<String>,
}

/// A running system. It ends when dropped, in order where [`Running::end`] is called.
#[derive(Default)]
pub(crate) struct Running {
    programs: Vec<(Role, Program)>,
    /// Processes that are somebody else's to end.
    others: Vec<(Role, u32)>,
    kept: Vec<Box<dyn Any>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Running {
    /// Programs, the first to end first.
    pub(crate) fn of(programs: impl IntoIterator<Item = (Role, Program)>) -> Self {
        Self { programs: programs.into_iter().collect(), ..Self::default() }
    }

    /// What counts a process that is somebody else's to end.
    pub(crate) fn counting(role: Role, id: u32) -> Self {
        Self { others: vec![(role, id)], ..Self::default() }
    }

    /// One more program, to be ended after those that are there.
    pub(crate) fn add(&mut self, role: Role, program: Program) {
        self.programs.push((role, program));
    }

    /// Keeps `it`, which has the process `id`, until the end.
    pub(crate) fn keep(&mut self, role: Role, id: u32, it: impl Any) {
        self.others.push((role, id));
        self.kept.push(Box::new(it));
    }

    /// The processes whose time and memory count.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (Role, u32)> {
        let programs = self.programs.iter().map(|(role, program)| (*role, program.id()));
        programs.chain(self.others.iter().copied())
    }

    /// Asks the programs to end, one after the other, and waits for each.
    pub(crate) fn end(self) -> Result<(), Error> {
        drop(self.kept);
        for (_, program) in self.programs {
            program.end()?;
        }
        Ok(())
    }
}

/// The first line of what a program says of its version.
fn version_of(program: &str, args: &[&str]) -> Result<String, Error> {
    let told = ran(program, Command::new(program).args(args).output())?;
    Ok(told.lines().next().unwrap_or_default().trim().to_owned())
}

/// The systems, in the order of the table. `build` is wstether.
pub(crate) fn all(build: &Build) -> Vec<Box<dyn System>> {
    let mut all: Vec<Box<dyn System>> = vec![
        Box::new(kernel::Kernel),
        Box::new(roofline::Roofline { plain: false }),
        Box::new(roofline::Roofline { plain: true }),
    ];
    all.extend(wstether::variants(build).map(|variant| Box::new(variant) as Box<dyn System>));
    all.push(Box::new(wireguard::WireguardGo));
    all.push(Box::new(openvpn::OpenVpn));
    all.push(Box::new(ocserv::Ocserv));
    all
}
