//! How the kernel's scheduler treats a thread: its policy (sched(7)).
#![allow(unsafe_code, reason = "sched_getscheduler(2) and sched_setscheduler(2) have no wrapper in std")]

use std::io;

use super::sys::check;

/// The calling thread, as the kernel's calls name it.
const SELF: libc::pid_t = 0;

/// Has the calling thread, and the threads that it starts from now on, run as a batch does (SCHED_BATCH): who wakes them
/// is not interrupted for it. An idle core takes them as soon as ever, and their share of a busy one stays the same. Another
/// policy than the usual one is somebody's choice, and stays.
///
/// A thread that wakes another one for a packet has mostly more packets to come. Interrupted, it would hand on each by
/// itself: docs/decisions/0022-batch-policy.md.
///
/// # Errors
/// The kernel's, where a filter of system calls is in the way.
pub fn as_batch() -> io::Result<()> {
    // SAFETY: no pointers.
    if check(unsafe { libc::sched_getscheduler(SELF) })? != libc::SCHED_OTHER {
        return Ok(());
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one live sched_param.
    check(unsafe { libc::sched_setscheduler(SELF, libc::SCHED_BATCH, &parameters) })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// The calling thread's policy, from where the kernel tells it to everybody (proc_pid_stat(5): the 41st field).
    fn policy() -> libc::c_int {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The second field, a name in parentheses, may hold spaces.
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
    }

    fn set(policy: libc::c_int) {
        // SAFETY: the kernel reads one live sched_param.
        check(unsafe { libc::sched_setscheduler(SELF, policy, &libc::sched_param { sched_priority: 0 }) }).unwrap();
    }

    #[test]
    fn a_thread_and_those_that_it_starts_run_as_a_batch_and_others_as_before() {
        let before = policy();
        let (own, started) = thread::spawn(|| {
            set(libc::SCHED_OTHER);
            as_batch().unwrap();
            (policy(), thread::spawn(policy).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((own, started), (libc::SCHED_BATCH, libc::SCHED_BATCH));
        assert_eq!(policy(), before);
    }

    #[test]
    fn a_policy_that_was_chosen_stays() {
        let policy = thread::spawn(|| {
            set(libc::SCHED_IDLE);
            as_batch().unwrap();
            policy()
        });
        assert_eq!(policy.join().unwrap(), libc::SCHED_IDLE);
    }
}
