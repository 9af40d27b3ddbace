//! What the client changed on this machine, in a file that outlives it: written before each change, so that after a
//! crash the next start, or `wstether client --down`, can undo it. Undoing twice changes nothing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dns::{self, Owner};

/// The file in the runtime directory.
const STATE_FILE: &str = "client.json";
/// The lock beside it, held while a client runs.
const LOCK_FILE: &str = "client.lock";

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    /// Routes past the tunnel. Those through it vanish with its device.
    pub routes: Vec<SavedRoute>,
    /// The resolver's file, which carries what was there before.
    pub dns: Option<PathBuf>,
}

impl Changes {
    /// What undoing them does, in words; `None` where there is nothing to undo.
    fn undone(&self, lock: &Path) -> Option<String> {
        let routes = match self.routes.len() {
            0 => None,
            1 => Some("1 route past the tunnel".to_owned()),
            count => Some(format!("{count} routes past the tunnel")),
        };
        let dns = self.dns.as_ref().map(|path| {
            let is_ours = matches!(dns::look(path, lock), Owner::This(_));
            let left = if is_ours { "" } else { " (left as it is: somebody else has written it since)" };
            format!("DNS in {}{left}", path.display())
        });
        let parts: Vec<String> = routes.into_iter().chain(dns).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// A route that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRoute {
    /// Where it leads.
    pub address: IpAddr,
    /// The prefix length of that in bits.
    pub bits: u8,
    /// The next hop, where there is one.
    pub via: Option<IpAddr>,
    /// The interface's name. Its number may be another one's by the time of undoing.
    pub interface: String,
}

/// Why the state cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another client holds the lock.
    #[error("another client runs with {}; stop it, or give this one another runtime.directory, tun.name and --listen, with \
             routes.default = false", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{}: cannot be read ({source}); remove it once routes and DNS are right", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The file, locked, and its content.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    changes: Changes,
    lock: PathBuf,
    _held: File,
}

impl State {
    /// Takes the lock in `directory`, which is made if it is not there, and reads what an earlier run left. What it left in
    /// `dns_file` is found even where the directory is not the one of that run, as after a reboot.
    ///
    /// # Errors
    /// Another client runs, or the directory cannot be used.
    pub fn open(directory: &Path, dns_file: &Path) -> Result<Self, StateError> {
        let made = fs::create_dir_all(directory).and_then(|()| fs::canonicalize(directory));
        let directory = made.map_err(|source| StateError::File { path: directory.to_owned(), source })?;
        let (path, lock) = (directory.join(STATE_FILE), directory.join(LOCK_FILE));
        let held = self::lock(&lock)?;
        let mut changes: Changes = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StateError::Unreadable { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Changes::default(),
            Err(source) => return Err(StateError::File { path, source }),
        };
        if changes.dns.is_none() && matches!(dns::look(dns_file, &lock), Owner::This(_)) {
            changes.dns = Some(dns_file.to_owned());
        }
        Ok(Self { path, changes, lock, _held: held })
    }

    /// The lock that is held.
    pub fn lock(&self) -> &Path {
        &self.lock
    }

    /// What undoing the changes does, in words; `None` where there is nothing to undo.
    pub fn undone(&self) -> Option<String> {
        self.changes.undone(&self.lock)
    }

    /// What was changed.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Changes what is kept, and has it on disk before it returns. With nothing left to undo the file goes.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn update(&mut self, change: impl FnOnce(&mut Changes)) -> Result<(), StateError> {
        change(&mut self.changes);
        let written = if self.changes == Changes::default() { self.remove() } else { self.write() };
        written.map_err(|source| StateError::File { path: self.path.clone(), source })
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.changes)?;
        let new = self.path.with_extension("new");
        fs::write(&new, bytes)?;
        File::open(&new)?.sync_all()?;
        fs::rename(new, &self.path)
    }
}

/// Whether a client holds the lock at `path`.
pub(super) fn is_held(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        // One that cannot be looked at may be held.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn lock(path: &Path) -> Result<File, StateError> {
    let opened = File::options().create(true).write(true).truncate(false).open(path);
    let path = path.to_owned();
    let locked = opened.map_err(TryLockError::Error).and_then(|file| file.try_lock().map(|()| file));
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => StateError::Locked { path },
        TryLockError::Error(source) => StateError::File { path, source },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    /// A directory that goes with the value.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("wstether-state-{name}-{}", std::process::id())))
        }

        fn open(&self) -> Result<State, StateError> {
            State::open(&self.0, &self.dns_file())
        }

        fn dns_file(&self) -> PathBuf {
            self.0.join("resolv.conf")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn changes() -> Changes {
        let address = IpAddr::from([198, 51, 100, 1]);
        let route = SavedRoute { address, bits: 32, via: Some([192, 0, 2, 1].into()), interface: "eth0".to_owned() };
        Changes { routes: vec![route], dns: Some("/etc/resolv.conf".into()) }
    }

    #[test]
    fn what_one_run_changed_the_next_one_finds() {
        let directory = Directory::new("finds");
        let mut state = directory.open().unwrap();
        assert_eq!(state.changes(), &Changes::default());
        state.update(|kept| *kept = changes()).unwrap();
        drop(state);
        assert_eq!(directory.open().unwrap().changes(), &changes());
    }

    #[test]
    fn what_is_undone_is_told_in_words() {
        let undone = |changes: &Changes| changes.undone(Path::new("/run/wstether/client.lock"));
        assert_eq!(undone(&Changes::default()), None);
        let both = undone(&changes()).unwrap();
        assert!(both.starts_with("1 route past the tunnel, DNS in /etc/resolv.conf (left as it is: "), "{both}");
        let route = changes().routes[0].clone();
        let routes = Changes { routes: vec![route.clone(), route], dns: None };
        assert_eq!(undone(&routes).unwrap(), "2 routes past the tunnel");
    }

    #[test]
    fn with_nothing_left_to_undo_the_file_goes() {
        let directory = Directory::new("goes");
        let mut state = directory.open().unwrap();
        state.update(|kept| *kept = changes()).unwrap();
        assert!(directory.0.join(STATE_FILE).exists());
        for _ in 0..2 {
            state.update(|kept| *kept = Changes::default()).unwrap();
            assert!(!directory.0.join(STATE_FILE).exists());
        }
    }

    #[test]
    fn what_a_run_left_in_the_resolvers_file_is_found_when_the_directory_has_forgotten_it() {
        let directory = Directory::new("forgotten");
        let before = directory.open().unwrap();
        dns::point(&directory.dns_file(), &[[100, 64, 0, 1].into()], before.lock()).unwrap();
        drop(before);
        let state = directory.open().unwrap();
        assert_eq!(state.changes().dns, Some(directory.dns_file()));
        assert_eq!(state.undone().unwrap(), format!("DNS in {}", directory.dns_file().display()));
    }

    #[test]
    fn a_second_client_with_the_same_directory_is_turned_away() {
        let directory = Directory::new("locked");
        let first = directory.open().unwrap();
        assert!(matches!(directory.open(), Err(StateError::Locked { .. })));
        drop(first);
        assert!(directory.open().is_ok());
    }

    #[test]
    fn a_file_that_is_not_ours_is_told_and_left() {
        let directory = Directory::new("foreign");
        fs::create_dir_all(&directory.0).unwrap();
        fs::write(directory.0.join(STATE_FILE), "not JSON").unwrap();
        let error = directory.open().unwrap_err();
        assert!(matches!(error, StateError::Unreadable { .. }), "{error}");
        assert!(directory.0.join(STATE_FILE).exists());
    }
}
