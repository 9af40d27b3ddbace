//! Which cores a thread runs on: for measurements that must not starve themselves.
#![allow(unsafe_code, reason = "sched_setaffinity(2) and sched_getaffinity(2) have no wrapper in std")]

use std::io;
use std::mem::{size_of, zeroed};

use super::sys::check;

/// The calling thread, as the kernel's calls name it.
const SELF: libc::pid_t = 0;

/// The cores that the calling thread may run on, by their number.
///
/// # Errors
/// The kernel's: a machine of more cores than the C library's set holds (1,024).
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the kernel writes at most the size given to a live set.
    check(unsafe { libc::sched_getaffinity(SELF, size_of::<libc::cpu_set_t>(), &mut set) })?;
    let count = libc::CPU_SETSIZE as usize;
    // SAFETY: the index is below the set's size.
    Ok((0..count).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect())
}

/// Keeps the calling thread, and the threads that it starts from now on, to `cores`.
///
/// # Errors
/// The kernel's; `InvalidInput` for a core beyond the C library's set.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    for &core in cores {
        if core >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the index is below the set's size.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the kernel reads a live set of the size given.
    check(unsafe { libc::sched_setaffinity(SELF, size_of::<libc::cpu_set_t>(), &set) })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_and_those_that_it_starts_may_run_on_that_core_alone() {
        let before = allowed().unwrap();
        let core = before[0];
        let (own, inherited) = std::thread::spawn(move || {
            pin(&[core]).unwrap();
            (allowed().unwrap(), std::thread::spawn(allowed).join().unwrap().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((own, inherited), (vec![core], vec![core]));
        assert_eq!(allowed().unwrap(), before, "other threads are left alone");
    }

    #[test]
    fn no_core_and_a_core_that_cannot_be_are_refused() {
        assert_eq!(pin(&[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(pin(&[1 << 20]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
