//! Files are read up to a bound: what is named by mistake may have no end, as `/dev/urandom`.

use std::fs::File;
#[cfg(feature = "kernel")]
use std::fs::OpenOptions;
use std::io::{self, Read};
#[cfg(feature = "kernel")]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest configuration, token or file of certificates that is read: a hundred times the example with all its
/// comments, and five times Mozilla's whole list of authorities.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

/// What has the name of a file is none.
#[cfg(feature = "kernel")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no regular file but a FIFO, a device or a folder; put a regular file in its place")]
pub struct NotRegular;

/// The text of a file that has at most `bytes_max` bytes.
///
/// # Errors
/// It cannot be read, is longer, or is no text.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<String> {
    text(bytes_of(File::open(path)?, bytes_max)?)
}

/// The bytes of a regular file that has at most `bytes_max` of them, for what others wait for: whoever opens a FIFO waits
/// for its writer.
///
/// # Errors
/// It cannot be read, is longer, or is [`NotRegular`].
#[cfg(feature = "kernel")]
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // It is looked at once it is open, so that nothing else can take its place between the two.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, NotRegular));
    }
    bytes_of(file, bytes_max)
}

fn bytes_of(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    fits(bytes.len(), bytes_max)?;
    Ok(bytes)
}

/// The bytes of a file as text.
///
/// # Errors
/// They are none.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text (UTF-8)"))
}

/// Fails where a file of so many bytes would not be read.
///
/// # Errors
/// It is too long.
pub fn fits(bytes: usize, bytes_max: u64) -> io::Result<()> {
    if bytes as u64 <= bytes_max {
        return Ok(());
    }
    let what = format!("it is longer than {} MiB; is this the right file?", bytes_max / MIB);
    Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused_and_so_is_one_that_is_no_text() {
        let read = |path: &str| read(path.as_ref(), FILE_BYTES_MAX).map_err(|error| error.to_string());
        for endless in ["/dev/zero", "/dev/urandom"] {
            assert_eq!(read(endless), Err("it is longer than 1 MiB; is this the right file?".into()), "{endless}");
        }
        assert_eq!(read("/dev/null"), Ok(String::new()));
        assert!(read("/proc/self/exe").is_err());
    }

    #[cfg(feature = "kernel")]
    #[test]
    fn what_is_no_regular_file_is_refused_where_others_wait_for_it() {
        for path in ["/dev/null", "/dev/zero", "/proc/self"] {
            let error = read_regular(path.as_ref(), FILE_BYTES_MAX).unwrap_err();
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NotRegular>());
            assert_eq!(inner, Some(&NotRegular), "{path}: {error}");
        }
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(read_regular(own.as_ref(), FILE_BYTES_MAX).unwrap().starts_with(b"[package]"));
    }

    #[test]
    fn a_file_at_its_bound_is_read() {
        assert!(fits(1 << 20, FILE_BYTES_MAX).is_ok() && fits((1 << 20) + 1, FILE_BYTES_MAX).is_err());
    }
}
