//! Network namespaces: made, entered by a thread, entered by a child process before it runs its program.
#![allow(unsafe_code, reason = "unshare, setns and mount have no wrapper in std; pre_exec is unsafe by its nature")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::sys::check;

/// What a child process finds changed in its world, beside the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Isolation<'a> {
    /// This file stands in place of `/etc/resolv.conf`.
    pub resolv_conf: Option<&'a Path>,
    /// It gets SIGKILL when the *thread* that starts it ends. Start it from a thread that lives as long as it should.
    pub dies_with_parent: bool,
}

/// A new network namespace, which lives as long as the descriptor or anything in it. The calling thread stays where it
/// is.
///
/// # Errors
/// CAP_SYS_ADMIN is missing.
pub fn create() -> io::Result<OwnedFd> {
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; only this thread's own namespace changes.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            current()
        });
        thread.join().map_err(|_| io::Error::other("the thread of a new namespace panicked"))
    })?;
    made.map_err(|error| io::Error::new(error.kind(), format!("making a network namespace (CAP_SYS_ADMIN): {error}")))
}

/// The calling thread's network namespace.
///
/// # Errors
/// No `/proc`.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves the calling thread into a network namespace for good, with a `/sys` and a `/proc/sys/net` that show it.
///
/// # Errors
/// CAP_SYS_ADMIN is missing.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    enter_network(namespace.as_raw_fd())?;
    private_mounts()?;
    mount(c"sysfs", c"/sys", c"sysfs", 0)
}

/// Lets `command` start its program inside a network namespace.
///
/// # Errors
/// A path with a zero byte.
pub fn enter_before_exec(command: &mut Command, namespace: Arc<OwnedFd>, isolation: Isolation<'_>) -> io::Result<()> {
    let resolv_conf = isolation.resolv_conf.map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?;
    let dies_with_parent = isolation.dies_with_parent;
    let prepare = move || {
        enter(namespace.as_fd())?;
        if let Some(path) = &resolv_conf {
            mount(path, c"/etc/resolv.conf", c"none", libc::MS_BIND)?;
        }
        if dies_with_parent {
            // SAFETY: PR_SET_PDEATHSIG takes a signal number by value.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls; all memory that it reads was made before.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

fn enter_network(namespace: i32) -> io::Result<()> {
    // SAFETY: no pointers; only the calling thread moves.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })?;
    Ok(())
}

/// A mount namespace of the thread's own, from which nothing gets out.
fn private_mounts() -> io::Result<()> {
    // SAFETY: no pointers; only the calling thread (or the child, which has one) moves.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: three live C strings; no data.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) })?;
    Ok(())
}
