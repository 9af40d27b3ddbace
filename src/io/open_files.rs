//! How many descriptors this process may hold: RLIMIT_NOFILE.
#![allow(unsafe_code, reason = "getrlimit(2) and setrlimit(2) have no wrapper in std")]

use std::io;

use super::sys::check;

/// Has the process hold `count` descriptors, where it may not yet. The hard limit is raised too where it is in the way,
/// which needs CAP_SYS_RESOURCE.
///
/// # Errors
/// The kernel's: not permitted, or more than `fs.nr_open`.
pub fn allow(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur >= count {
        return Ok(());
    }
    let limit = libc::rlimit { rlim_cur: count, rlim_max: limit.rlim_max.max(count) };
    // SAFETY: the kernel reads one live rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_already_is_no_error_and_what_no_kernel_gives_is_one() {
        allow(1).unwrap();
        allow(u64::MAX - 1).unwrap_err();
    }
}
