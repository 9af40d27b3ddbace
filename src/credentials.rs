//! The file of credentials: who may make a tether. It holds hashes only; a token is shown once, when it is made.
//!
//! The file is TOML, readable for its owner alone, and replaced as a whole (written beside, then renamed), so that a
//! reader sees the old or the new one. Writers take turns by a lock on its folder. It keeps its owner: root may run
//! `wstether token` for a gateway that runs as another user.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::file;
use crate::utc::rfc3339;

/// Where credentials are, unless the configuration says otherwise (`tethers.credentials`).
pub const DEFAULT_FILE: &str = "/var/lib/wstether/credentials.toml";

/// A name longer than this does not help a list to be read.
const NAME_CHARS_MAX: usize = 64;

/// The longest file that is read: 200,000 credentials, twice as many as there can be tethers.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The heading of the file.
const HEADING: &str = "# Credentials of wstether: hashes only. Change it with \"wstether token\".\n\n";

/// Hexadecimal digits of a verifier: two keys of 32 bytes.
const VERIFIER_DIGITS: usize = 128;

/// A credential that was just made. Its token is for a person and is kept nowhere.
#[derive(Debug)]
pub struct Fresh {
    /// Its public name, a part of the token.
    pub id: String,
    /// The text that the client needs.
    pub token: String,
    /// What is kept to judge proofs: hexadecimal digits.
    pub verifier: String,
}

/// One credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its public name, a part of the token.
    pub id: String,
    /// Whose it is, for people.
    pub name: String,
    /// When it was made (RFC 3339, UTC).
    pub created: String,
    /// The stored key and the server key, as hexadecimal digits: enough to judge a proof, too little to make one.
    pub verifier: String,
}

/// Why a file of credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The kernel refused to read it.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused to write it.
    #[error("{}: cannot be written: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// It is no file of credentials.
    #[error("{}: no file of credentials: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No credential has this id.
    #[error("no credential has the id \"{id}\"; \"{list}\" shows them", list = on(path, "list"))]
    NoSuchId {
        /// The file.
        path: PathBuf,
        /// What none has.
        id: String,
    },
    /// The name does not fit in a list.
    #[error("a name has at most {NAME_CHARS_MAX} characters and no control characters")]
    BadName,
    /// The token of a fresh credential could not be shown.
    #[error("the token cannot be shown ({0}), so no credential was made")]
    NotShown(io::Error),
    /// The same, and the credential could not be taken out of the file again.
    #[error(
        "the token cannot be shown ({error}), and its credential not be taken away again ({undo}); \"{revoke}\" does",
        revoke = on(path, &format!("revoke {id}"))
    )]
    LeftUnseen {
        /// The file.
        path: PathBuf,
        /// The credential.
        id: String,
        /// Why its token was not shown.
        error: io::Error,
        /// Why it is still there.
        undo: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

/// The credentials of one file, as fresh as the file.
#[derive(Debug)]
pub struct CredentialStore {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    version: Option<Version>,
    credentials: Vec<Credential>,
    /// The file was not there at the last of the looks that are taken now and then.
    was_gone: bool,
}

/// Tells one version of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    // The change of anything, its rights too, not of the text alone.
    changed_s: i64,
    changed_ns: i64,
    length_bytes: u64,
}

impl CredentialStore {
    /// Reads `path`. A file that is not there holds no credentials.
    pub fn load(path: &Path) -> Result<Self, CredentialError> {
        let known = read(path)?;
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// The store of `path` before it was read: for who wants to change it, whatever it holds.
    pub fn unread(path: &Path) -> Self {
        Self { path: path.to_owned(), known: Mutex::default() }
    }

    /// Where `path` is not there, makes it with one credential, whose token is for `show`.
    pub fn make_first(
        path: &Path,
        make: impl Fn() -> Result<Fresh, getrandom::Error>,
        show: impl FnOnce(&str) -> io::Result<()>,
    ) -> Result<(), CredentialError> {
        let store = Self::load(path)?;
        if store.known().version.is_none() {
            store.add("first", make, show)?;
        }
        Ok(())
    }

    /// Every credential, in the order they were made.
    pub fn list(&self) -> Vec<Credential> {
        self.refresh();
        self.known().credentials.clone()
    }

    /// The version of the file that is known; `None` where there is no file. Who follows the file asks now and then: at the
    /// second time that there is none, none of its credentials holds any more.
    pub fn version(&self) -> Option<Version> {
        self.refresh();
        let mut known = self.known();
        let is_gone = known.version.is_none() && matches!(self.path.try_exists(), Ok(false));
        if std::mem::replace(&mut known.was_gone, is_gone) && is_gone && !known.credentials.is_empty() {
            known.credentials.clear();
            tracing::error!("{}: is still not there; no credential holds any more", self.path.display());
        }
        known.version
    }

    /// The ids in the version that is known. The file is not looked at.
    pub fn known_ids(&self) -> HashSet<String> {
        self.known().credentials.iter().map(|credential| credential.id.clone()).collect()
    }

    /// The credential with this id. It looks at the file's date first, so what `wstether token` did holds at once.
    pub fn find(&self, id: &str) -> Option<Credential> {
        self.refresh();
        self.known().credentials.iter().find(|credential| credential.id == id).cloned()
    }

    /// Adds the credential that `make` makes and has `show` show its token, which works by then. Where it cannot be shown,
    /// the file becomes again what it was: nobody could ever use the credential.
    pub fn add(
        &self,
        name: &str,
        make: impl Fn() -> Result<Fresh, getrandom::Error>,
        show: impl FnOnce(&str) -> io::Result<()>,
    ) -> Result<Credential, CredentialError> {
        if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(CredentialError::BadName);
        }
        // Kept until the token is shown, so that the file can go back without another's change.
        let _turn = self.wait_for_turn()?;
        let before = read(&self.path)?;
        let Fresh { id, token, verifier } = loop {
            let fresh = make().map_err(CredentialError::NoRandomness)?;
            if before.credentials.iter().all(|credential| credential.id != fresh.id) {
                break fresh;
            }
        };
        let created = rfc3339(SystemTime::now());
        let credential = Credential { id, name: name.to_owned(), created, verifier };
        self.write(&[&before.credentials[..], std::slice::from_ref(&credential)].concat())?;
        if let Err(error) = show(&token) {
            return Err(match self.put_back(&before) {
                Ok(()) => CredentialError::NotShown(error),
                Err(undo) => CredentialError::LeftUnseen { path: self.path.clone(), id: credential.id, error, undo },
            });
        }
        *self.known() = read(&self.path)?;
        Ok(credential)
    }

    fn put_back(&self, before: &Known) -> io::Result<()> {
        if before.version.is_some() { write(&self.path, &before.credentials) } else { fs::remove_file(&self.path) }
    }

    /// Takes a credential away, with every copy of it: revoking mends a file that has an id twice.
    pub fn revoke(&self, id: &str) -> Result<Credential, CredentialError> {
        let _turn = self.wait_for_turn()?;
        let (mut gone, rest): (Vec<_>, Vec<_>) =
            read_any(&self.path)?.credentials.into_iter().partition(|credential| credential.id == id);
        let no_such_id = || CredentialError::NoSuchId { path: self.path.clone(), id: id.to_owned() };
        let revoked = gone.pop().ok_or_else(no_such_id)?;
        self.write(&rest)?;
        self.refresh();
        Ok(revoked)
    }

    /// Reads the file anew where it changed. One that cannot be read leaves what was known, and the log says so; so does one
    /// that is not there, until [`CredentialStore::version`] finds that it stays away: while somebody replaces it by hand there
    /// is none for a moment, and whom a gateway refuses then does not come back.
    fn refresh(&self) {
        let version = version_of(&self.path);
        if version == self.known().version {
            return;
        }
        let (version, why) = match read(&self.path) {
            Ok(fresh) if fresh.version.is_some() => {
                *self.known() = fresh;
                return;
            }
            Ok(_) => (None, format!("{}: is not there", self.path.display())),
            Err(error) => (version, error.to_string()),
        };
        tracing::error!("{why}; the credentials known before still hold");
        // Told once, not at every look.
        self.known().version = version;
    }

    /// The writers' lock, on the file's folder, which is made where it is not there.
    fn wait_for_turn(&self) -> Result<File, CredentialError> {
        let folder = folder_of(&self.path);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let lock = made.and_then(|()| File::open(folder)).map_err(|error| self.unwritable(error))?;
        lock.lock().map_err(|error| self.unwritable(error))?;
        Ok(lock)
    }

    fn write(&self, credentials: &[Credential]) -> Result<(), CredentialError> {
        write(&self.path, credentials).map_err(|error| self.unwritable(error))
    }

    fn unwritable(&self, error: io::Error) -> CredentialError {
        CredentialError::Unwritable { path: self.path.clone(), error }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // What is known is replaced as a whole, so a panic elsewhere leaves it right.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to type for `action` on the file.
fn on(path: &Path, action: &str) -> String {
    if path == Path::new(DEFAULT_FILE) {
        format!("wstether token {action}")
    } else {
        format!("wstether token --file {} {action}", path.display())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    credential: Vec<Credential>,
}

/// Reads the file, where each id stands in it once: of two with the same, nobody could say which one counts.
fn read(path: &Path) -> Result<Known, CredentialError> {
    let known = read_any(path)?;
    let mut ids = HashSet::new();
    match known.credentials.iter().find(|credential| !ids.insert(&credential.id)) {
        None => Ok(known),
        Some(Credential { id, .. }) => {
            let revoke = on(path, &format!("revoke {id}"));
            let what = format!("the id \"{id}\" is in it twice; \"{revoke}\" takes every copy away");
            Err(CredentialError::Malformed { path: path.to_owned(), what })
        }
    }
}

fn read_any(path: &Path) -> Result<Known, CredentialError> {
    // The version is taken before the text: a change between the two is then seen as a change.
    let version = version_of(path);
    let text = match file::read_regular(path, FILE_BYTES_MAX).and_then(file::text) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(error) => return Err(CredentialError::Unreadable { path: path.to_owned(), error }),
    };
    let malformed = |what: String| CredentialError::Malformed { path: path.to_owned(), what };
    // The message alone: an error's full text would show the lines around it.
    let contents: Contents = toml::from_str(&text).map_err(|error| malformed(error.message().to_owned()))?;
    for Credential { id, verifier, .. } in &contents.credential {
        if verifier.len() != VERIFIER_DIGITS || !verifier.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed(format!("the verifier of \"{id}\" is not {VERIFIER_DIGITS} hexadecimal digits")));
        }
    }
    Ok(Known { version, credentials: contents.credential, was_gone: false })
}

fn version_of(path: &Path) -> Option<Version> {
    let found = fs::metadata(path).ok()?;
    Some(Version {
        inode: found.ino(),
        changed_s: found.ctime(),
        changed_ns: found.ctime_nsec(),
        length_bytes: found.len(),
    })
}

fn write(path: &Path, credentials: &[Credential]) -> io::Result<()> {
    let contents = Contents { credential: credentials.to_vec() };
    let text = HEADING.to_owned() + &toml::to_string(&contents).map_err(io::Error::other)?;
    // What cannot be read again must not take the place of what can.
    file::fits(text.len(), FILE_BYTES_MAX)?;
    let folder = folder_of(path);
    let mut beside_name = path.file_name().unwrap_or_default().to_owned();
    beside_name.push(".new");
    let beside = folder.join(beside_name);
    // A leftover of a writer that was killed; the lock says that nobody writes it now.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    give_to_owner(&file, &beside, path, folder)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// The new file belongs to whom the old one belonged; the first one, to the folder's owner.
fn give_to_owner(file: &File, beside: &Path, path: &Path, folder: &Path) -> io::Result<()> {
    let model = fs::metadata(path).or_else(|_| fs::metadata(folder))?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) == (model.uid(), model.gid()) || own.uid() == model.uid() {
        return Ok(());
    }
    chown(beside, Some(model.uid()), Some(model.gid()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
