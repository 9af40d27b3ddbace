//! Figures of the process, as every Prometheus exporter names them.

/// The process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Processor time, user and system.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_memory_bytes: f64,
    /// Virtual memory.
    pub virtual_memory_bytes: f64,
    /// Open file descriptors.
    pub open_fds: f64,
    /// File descriptors that may be open.
    pub max_fds: f64,
    /// Threads.
    pub threads: f64,
    /// How often a thread left its core because it waited for something: as often it was woken.
    pub voluntary_switches: u64,
    /// How often one had to leave it to another.
    pub involuntary_switches: u64,
    /// When the process started, since 1970-01-01 UTC.
    pub start_time_seconds: f64,
}

#[cfg(feature = "kernel")]
mod linux {
    use super::Process;
    use crate::io::process::context_switches;
    use std::fs;

    /// Clock ticks a second in /proc: fixed at 100 in the interface to user space (proc(5), `sysconf(_SC_CLK_TCK)`).
    const TICKS_PER_SECOND: f64 = 100.0;

    /// Places of fields in /proc/self/stat behind the command's name, which ends with the last `)` (proc(5)).
    const STAT_UTIME: usize = 11;
    const STAT_STIME: usize = 12;
    const STAT_STARTTIME: usize = 19;

    impl Process {
        /// This process now, from /proc and getrusage(2). What cannot be read there is 0.
        pub fn read() -> Self {
            let [stat, status, limits, boot] =
                ["/proc/self/stat", "/proc/self/status", "/proc/self/limits", "/proc/stat"]
                    .map(|file| fs::read_to_string(file).unwrap_or_default());
            let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let ticks = |place| number(behind_name.split_ascii_whitespace().nth(place)) / TICKS_PER_SECOND;
            let (voluntary_switches, involuntary_switches) = context_switches().unwrap_or_default();
            Self {
                cpu_seconds: ticks(STAT_UTIME) + ticks(STAT_STIME),
                resident_memory_bytes: field(&status, "VmRSS:") * 1024.0,
                virtual_memory_bytes: field(&status, "VmSize:") * 1024.0,
                open_fds: open_fds() as f64,
                max_fds: field(&limits, "Max open files"),
                threads: field(&status, "Threads:"),
                voluntary_switches,
                involuntary_switches,
                start_time_seconds: field(&boot, "btime ") + ticks(STAT_STARTTIME),
            }
        }
    }

    /// Since Linux 6.2 the folder's size is the number of its entries (proc_pid_fd(5)); to count ten thousand one by one was a
    /// third of what a gateway did that had nothing to do.
    fn open_fds() -> u64 {
        const FOLDER: &str = "/proc/self/fd";
        let told = fs::metadata(FOLDER).map_or(0, |folder| folder.len());
        if told > 0 { told } else { fs::read_dir(FOLDER).map_or(0, Iterator::count) as u64 }
    }

    /// The first number on the line that starts with `name`.
    fn field(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        number(line.and_then(|rest| rest.split_ascii_whitespace().next()))
    }

    fn number(word: Option<&str>) -> f64 {
        word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
    }
}
