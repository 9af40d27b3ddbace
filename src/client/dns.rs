//! The file that the laptop's programs read their DNS servers from (resolv.conf(5)), pointed at the gateway and put back.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everybody reads the file, its owner writes it.
const FILE_MODE: u32 = 0o644;

/// The file as it was, and as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was there.
    pub original: Original,
    /// What the client wrote. Where the file says something else by now, it is somebody else's, and is left alone.
    pub written: String,
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

/// The text that names `servers`.
pub fn resolv_conf(servers: &[IpAddr]) -> String {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    format!("# Written by wstether; the original comes back when the tunnel ends.\n{lines}")
}

impl SavedFile {
    /// What is to be kept before `text` is written to `path`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn before(path: &Path, text: String) -> io::Result<Self> {
        let original = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Original::Absent,
            Err(error) => return Err(error),
            Ok(metadata) if metadata.is_symlink() => Original::Link(fs::read_link(path)?),
            Ok(_) => Original::Text(String::from_utf8_lossy(&fs::read(path)?).into_owned()),
        };
        Ok(Self { path: path.to_owned(), original, written: text })
    }

    /// Writes the text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn apply(&self) -> io::Result<()> {
        replace(&self.path, &self.written)
    }

    /// Whether the file says what the client wrote.
    pub fn is_in_place(&self) -> bool {
        fs::read(&self.path).is_ok_and(|bytes| bytes == self.written.as_bytes())
    }

    /// Puts back what was there, unless somebody else has written the file since; tells whether it did.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn restore(&self) -> io::Result<bool> {
        if !self.is_in_place() {
            return Ok(false);
        }
        match &self.original {
            Original::Absent => fs::remove_file(&self.path)?,
            Original::Text(text) => replace(&self.path, text)?,
            Original::Link(target) => {
                let beside = beside(&self.path);
                drop(fs::remove_file(&beside));
                symlink(target, &beside)?;
                fs::rename(beside, &self.path)?;
            }
        }
        Ok(true)
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("wstether-new")
}

/// Writes `text` to `path` in one step. A file that something is mounted on (a container's) cannot be replaced and is
/// written in place; so is one in a directory that takes no new file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let replaced = fs::write(&beside, text)
        .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(FILE_MODE)))
        .and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        drop(fs::remove_file(&beside));
        return fs::write(path, text);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    /// A file's path in a directory of its own.
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
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn ours() -> String {
        resolv_conf(&[[100, 64, 0, 1].into()])
    }

    #[test]
    fn the_text_names_each_server_in_order() {
        let text = resolv_conf(&[[100, 64, 0, 1].into(), [192, 0, 2, 53].into()]);
        let servers: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(servers, ["nameserver 100.64.0.1", "nameserver 192.0.2.53"]);
    }

    #[test]
    fn a_file_comes_back_as_it_was_and_a_second_time_changes_nothing() {
        let place = Place::new("file");
        fs::write(place.file(), "nameserver 192.0.2.1\n").unwrap();
        let saved = SavedFile::before(&place.file(), ours()).unwrap();
        saved.apply().unwrap();
        assert_eq!(fs::read_to_string(place.file()).unwrap(), ours());
        assert!(saved.restore().unwrap());
        assert!(!saved.restore().unwrap());
        assert_eq!(fs::read_to_string(place.file()).unwrap(), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn where_there_was_no_file_there_is_none_again() {
        let place = Place::new("absent");
        let saved = SavedFile::before(&place.file(), ours()).unwrap();
        saved.apply().unwrap();
        assert!(saved.restore().unwrap() && !place.file().exists());
    }

    #[test]
    fn a_symbolic_link_comes_back_and_what_it_leads_to_is_never_touched() {
        let place = Place::new("link");
        let stub = place.0.join("stub");
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        symlink("stub", place.file()).unwrap();
        let saved = SavedFile::before(&place.file(), ours()).unwrap();
        saved.apply().unwrap();
        assert!(!fs::symlink_metadata(place.file()).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&stub).unwrap(), "nameserver 127.0.0.53\n");
        assert!(saved.restore().unwrap());
        assert_eq!(fs::read_link(place.file()).unwrap(), Path::new("stub"));
    }

    #[test]
    fn what_somebody_else_has_written_since_is_left_alone() {
        let place = Place::new("other");
        let saved = SavedFile::before(&place.file(), ours()).unwrap();
        saved.apply().unwrap();
        fs::write(place.file(), "nameserver 192.0.2.9\n").unwrap();
        assert!(!saved.restore().unwrap());
        assert_eq!(fs::read_to_string(place.file()).unwrap(), "nameserver 192.0.2.9\n");
    }
}
