//! Files are read up to a bound: what is named by mistake may have no end, as `/dev/urandom`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest configuration, or token, that is read: a hundred times the example with all its comments.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

/// The text of a file that has at most `bytes_max` bytes.
///
/// # Errors
/// It cannot be read, is longer, or is no text.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    fits(bytes.len(), bytes_max)?;
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

    #[test]
    fn a_file_at_its_bound_is_read() {
        assert!(fits(1 << 20, FILE_BYTES_MAX).is_ok() && fits((1 << 20) + 1, FILE_BYTES_MAX).is_err());
    }
}
