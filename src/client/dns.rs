//! The file that the laptop's programs read their DNS servers from (resolv.conf(5)), pointed at the gateway and put back.
//!
//! What a client writes there carries what was there before. The runtime directory is empty after a reboot; this file is as
//! it was, and so it can always be put back.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state;

/// A new file's mode: everybody reads it, its owner writes it.
const FILE_MODE: u32 = 0o644;

/// The first line of a client's file.
const HEADER: &str =
    "# Written by wstether. The original comes back when the tunnel ends, or by \"wstether client --down\".";

/// In front of the line that carries what was there before.
const CARRIES: &str = "# wstether keeps: ";

/// Whose the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No client's.
    Somebody,
    /// This client's, or one's that has ended without putting back what was there.
    This(Original),
    /// Another client's that runs. This is its lock.
    Another(PathBuf),
}

/// What was at the file's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Original {
    /// Nothing.
    Absent,
    /// A file with this text.
    Text(String),
    /// A symbolic link to this file: systemd-resolved and others keep theirs elsewhere.
    Link(PathBuf),
}

/// What a client's file carries beside the servers.
#[derive(Serialize, Deserialize)]
struct Carried {
    servers: Vec<IpAddr>,
    original: Original,
    /// The lock that the client holds while it runs.
    lock: PathBuf,
}

/// Whose the file at `path` is, for a client that holds `lock`. One that cannot be read is somebody's.
pub fn look(path: &Path, lock: &Path) -> Owner {
    // To look into a pipe would be to wait for whoever writes to it.
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let carried = if is_file { fs::read_to_string(path).ok().and_then(|text| carried(&text)) } else { None };
    match carried {
        None => Owner::Somebody,
        Some(carried) if carried.lock != lock && state::is_held(&carried.lock) => Owner::Another(carried.lock),
        Some(carried) => Owner::This(carried.original),
    }
}

/// Has the file at `path` name `servers`, on behalf of the client that holds `lock`. What was there is kept in it; a file that
/// an ended client left is not what was there, but carries that.
///
/// # Errors
/// The file cannot be read or written.
pub fn point(path: &Path, servers: &[IpAddr], lock: &Path) -> io::Result<()> {
    let original = match look(path, lock) {
        Owner::This(original) => original,
        Owner::Somebody => original(path)?,
        Owner::Another(_) => return Err(io::ErrorKind::ResourceBusy.into()),
    };
    let text = text(&Carried { servers: servers.to_vec(), original, lock: lock.to_owned() })?;
    if fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes()) { Ok(()) } else { replace(path, &text) }
}

/// Puts back what was there before a client wrote the file, unless it is somebody else's by now; tells whether it did.
///
/// # Errors
/// The file cannot be written.
pub fn restore(path: &Path, lock: &Path) -> io::Result<bool> {
    let Owner::This(original) = look(path, lock) else { return Ok(false) };
    match original {
        Original::Absent => fs::remove_file(path)?,
        Original::Text(text) => replace(path, &text)?,
        Original::Link(target) => {
            let beside = beside(path);
            drop(fs::remove_file(&beside));
            symlink(target, &beside)?;
            fs::rename(beside, path)?;
        }
    }
    Ok(true)
}

fn text(carried: &Carried) -> io::Result<String> {
    let servers: String = carried.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    // JSON has no line breaks of its own, so all of it is one comment.
    Ok(format!("{HEADER}\n{servers}{CARRIES}{}\n", serde_json::to_string(carried)?))
}

/// What a client's file carries. What somebody has added to it since is kept behind the original, or the tunnel's servers
/// would stay in it for good.
fn carried(file: &str) -> Option<Carried> {
    let kept = file.strip_prefix(HEADER)?.lines().find_map(|line| line.strip_prefix(CARRIES))?;
    let mut carried: Carried = serde_json::from_str(kept).ok()?;
    let written = text(&carried).ok()?;
    let added: String =
        file.lines().filter(|line| !written.lines().any(|own| own == *line)).map(|line| format!("{line}\n")).collect();
    if !added.is_empty() {
        carried.original = match carried.original {
            Original::Absent => Original::Text(added),
            Original::Text(text) if text.is_empty() || text.ends_with('\n') => Original::Text(text + &added),
            Original::Text(text) => Original::Text(format!("{text}\n{added}")),
            // Whoever keeps the file that it leads to knows better.
            link @ Original::Link(_) => link,
        };
    }
    Some(carried)
}

fn original(path: &Path) -> io::Result<Original> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Original::Absent),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_symlink() => Ok(Original::Link(fs::read_link(path)?)),
        Ok(metadata) if !metadata.is_file() => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        Ok(_) => Ok(Original::Text(String::from_utf8_lossy(&fs::read(path)?).into_owned())),
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("wstether-new")
}

/// Writes `text` to `path`, in one step where that can be. Owner and mode of a file stay as they are.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let replaced = write_beside(path, &beside, text).and_then(|()| fs::rename(&beside, path));
    let Err(error) = replaced else { return Ok(()) };
    drop(fs::remove_file(&beside));
    // What a link leads to is somebody else's; and where the disk is full, writing in place would lose what is there.
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if is_full || fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(error);
    }
    // A file that something is mounted on (a container's) cannot be replaced, nor can one in a directory that takes no new
    // file, nor one of another owner without becoming ours.
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    write_through(&file, text)?;
    // Cut only now, so that the old text is there until the new one is.
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// Makes the file that is to replace `path`; fails where it would be of another owner.
fn write_beside(path: &Path, beside: &Path, text: &str) -> io::Result<()> {
    let file = File::create(beside)?;
    let (mode, is_the_same_owners) = match fs::symlink_metadata(path).ok().filter(|metadata| metadata.is_file()) {
        None => (FILE_MODE, true),
        Some(old) => {
            let new = file.metadata()?;
            (old.mode(), (old.uid(), old.gid()) == (new.uid(), new.gid()))
        }
    };
    if !is_the_same_owners {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    write_through(&file, text)
}

/// Writes and waits until it is on the disk: after a power cut the file is the old or the new one, and not an empty one.
fn write_through(mut file: &File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    /// A file's path in a directory of its own, and the lock of a client.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("wstether-dns-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn file(&self) -> PathBuf {
            self.0.join("resolv.conf")
        }

        fn lock(&self) -> PathBuf {
            self.0.join("client.lock")
        }

        fn point(&self) {
            point(&self.file(), &[[100, 64, 0, 1].into()], &self.lock()).unwrap();
        }

        fn restore(&self) -> bool {
            restore(&self.file(), &self.lock()).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn servers(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn the_text_names_each_server_in_order_and_the_rest_is_comments() {
        let place = Place::new("text");
        fs::write(place.file(), "search example\nnameserver 192.0.2.1\n").unwrap();
        point(&place.file(), &[[100, 64, 0, 1].into(), [192, 0, 2, 53].into()], &place.lock()).unwrap();
        assert_eq!(servers(&place.text()), ["nameserver 100.64.0.1", "nameserver 192.0.2.53"]);
    }

    #[test]
    fn a_file_comes_back_as_it_was_and_a_second_time_changes_nothing() {
        let place = Place::new("file");
        fs::write(place.file(), "nameserver 192.0.2.1\n").unwrap();
        fs::set_permissions(place.file(), fs::Permissions::from_mode(0o640)).unwrap();
        place.point();
        assert_eq!(servers(&place.text()), ["nameserver 100.64.0.1"]);
        assert!(place.restore());
        assert!(!place.restore());
        assert_eq!(place.text(), "nameserver 192.0.2.1\n");
        assert_eq!(fs::metadata(place.file()).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn where_there_was_no_file_there_is_none_again() {
        let place = Place::new("absent");
        place.point();
        assert!(place.restore() && !place.file().exists());
    }

    #[test]
    fn a_symbolic_link_comes_back_and_what_it_leads_to_is_never_touched() {
        let place = Place::new("link");
        let stub = place.0.join("stub");
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        symlink("stub", place.file()).unwrap();
        place.point();
        assert!(!fs::symlink_metadata(place.file()).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&stub).unwrap(), "nameserver 127.0.0.53\n");
        assert!(place.restore());
        assert_eq!(fs::read_link(place.file()).unwrap(), Path::new("stub"));
    }

    #[test]
    fn what_somebody_else_has_written_since_is_left_alone() {
        let place = Place::new("other");
        place.point();
        fs::write(place.file(), "nameserver 192.0.2.9\n").unwrap();
        assert!(!place.restore());
        assert_eq!(place.text(), "nameserver 192.0.2.9\n");
    }

    #[test]
    fn what_somebody_has_added_since_stays_behind_the_original_and_is_never_taken_for_it() {
        for (original, comes_back) in [
            (Some("nameserver 192.0.2.1"), "nameserver 192.0.2.1\nnameserver 192.0.2.8\n"),
            (Some("nameserver 192.0.2.1\n"), "nameserver 192.0.2.1\nnameserver 192.0.2.8\n"),
            (None, "nameserver 192.0.2.8\n"),
        ] {
            let place = Place::new("added");
            if let Some(original) = original {
                fs::write(place.file(), original).unwrap();
            }
            place.point();
            fs::write(place.file(), place.text() + "nameserver 192.0.2.8\n").unwrap();
            // The next client, where this one was killed.
            place.point();
            assert_eq!(servers(&place.text()), ["nameserver 100.64.0.1"]);
            assert!(place.restore());
            assert_eq!(place.text(), comes_back);
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let place = Place::new("pipe");
        let made = std::process::Command::new("mkfifo").arg(place.file()).status().unwrap();
        assert!(made.success());
        assert_eq!(look(&place.file(), &place.lock()), Owner::Somebody);
        let error = point(&place.file(), &[[100, 64, 0, 1].into()], &place.lock()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(!place.restore());
    }

    #[test]
    fn a_file_that_an_ended_client_left_is_never_taken_for_the_original() {
        let place = Place::new("left");
        fs::write(place.file(), "nameserver 192.0.2.1\n").unwrap();
        let ended = place.0.join("ended.lock");
        fs::write(&ended, "").unwrap();
        point(&place.file(), &[[100, 64, 0, 9].into()], &ended).unwrap();
        place.point();
        assert_eq!(servers(&place.text()), ["nameserver 100.64.0.1"]);
        assert!(place.restore());
        assert_eq!(place.text(), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn the_file_of_another_client_that_runs_is_known_by_its_lock_and_not_put_back() {
        let place = Place::new("another");
        let lock = place.0.join("another.lock");
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        point(&place.file(), &[[100, 64, 0, 9].into()], &lock).unwrap();
        assert_eq!(look(&place.file(), &place.lock()), Owner::Another(lock.clone()));
        assert!(!place.restore());
        drop(held);
        assert_eq!(look(&place.file(), &place.lock()), Owner::This(Original::Absent));
    }
}
