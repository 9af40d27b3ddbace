//! Processor time of processes with their children, and of the whole machine.

use std::fs;

use crate::systems::{Role, Running};

/// The kernel's unit in /proc: USER_HZ, which is 100 on every architecture that Debian has.
const TICKS_PER_S: f64 = 100.0;

/// Processor seconds up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) client_s: f64,
    pub(crate) gateway_s: f64,
    pub(crate) relay_s: f64,
    /// Everything that was not idle: the programs, the generator and its sink, and the rest of the machine.
    pub(crate) machine_s: f64,
    /// What the machine spent in soft interrupts, which no process accounts for.
    pub(crate) softirq_s: f64,
    /// How often a thread of the tunnel's programs went to sleep: each time costs a wake-up.
    pub(crate) sleeps: f64,
}

impl Spent {
    /// Reads the clocks now.
    pub(crate) fn read(running: &Running) -> Self {
        let mut spent = Self::default();
        let processes = Process::all();
        for (role, id) in running.processes() {
            let s: f64 = family(&processes, id).map(|process| process.cpu_s).sum();
            spent.sleeps += family(&processes, id).map(|process| sleeps(process.id)).sum::<f64>();
            *match role {
                Role::Client => &mut spent.client_s,
                Role::Gateway => &mut spent.gateway_s,
                Role::Relay => &mut spent.relay_s,
            } += s;
        }
        let machine = machine_ticks().unwrap_or_default();
        spent.machine_s = machine.0 / TICKS_PER_S;
        spent.softirq_s = machine.1 / TICKS_PER_S;
        spent
    }

    /// What was spent since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            client_s: self.client_s - before.client_s,
            gateway_s: self.gateway_s - before.gateway_s,
            relay_s: self.relay_s - before.relay_s,
            machine_s: self.machine_s - before.machine_s,
            softirq_s: self.softirq_s - before.softirq_s,
            sleeps: self.sleeps - before.sleeps,
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            client_s: self.client_s + other.client_s,
            gateway_s: self.gateway_s + other.gateway_s,
            relay_s: self.relay_s + other.relay_s,
            machine_s: self.machine_s + other.machine_s,
            softirq_s: self.softirq_s + other.softirq_s,
            sleeps: self.sleeps + other.sleeps,
        }
    }

    /// The tunnel's own programs.
    pub(crate) fn tunnel_s(self) -> f64 {
        self.client_s + self.gateway_s + self.relay_s
    }
}

/// A process of the machine.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
    parent: u32,
    name: String,
    cpu_s: f64,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // proc(5): the name stands in brackets; behind it come state (3), parent (4), … utime (14), stime (15).
        let (front, behind) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let name = front.split_once('(')?.1.to_owned();
        Some(Self { id, parent: fields.get(1)?.parse().ok()?, name, cpu_s: (number(11)? + number(12)?) / TICKS_PER_S })
    }

    /// Every process there is.
    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| Self::of(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
    }
}

/// A process and all below it.
pub(crate) fn family(all: &[Process], ancestor: u32) -> impl Iterator<Item = &Process> {
    let mut ids = vec![ancestor];
    let mut at = 0;
    while at < ids.len() {
        let parent = ids[at];
        ids.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.id));
        at += 1;
    }
    all.iter().filter(move |process| ids.contains(&process.id))
}

/// The number of this program's child of that name.
pub(crate) fn child(name: &str) -> Option<u32> {
    let own = std::process::id();
    Process::all().into_iter().find(|process| process.parent == own && process.name == name).map(|process| process.id)
}

/// How often the threads of a process have gone to sleep by themselves.
fn sleeps(id: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<f64>().ok()
    };
    statuses.filter_map(count).sum()
}

/// Ticks that the machine was busy, and those of them in soft interrupts (proc(5), /proc/stat).
fn machine_ticks() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq, softirq))
}
