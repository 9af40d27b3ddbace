//! The file that holds a client's token.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::file;
use crate::wire::token::{Token, TokenError};

/// Why there is no token in a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}; it should hold the token that \"wstether token new\" printed", path.display())]
pub struct TokenFileError {
    path: PathBuf,
    why: NoToken,
}

#[derive(Debug, thiserror::Error)]
enum NoToken {
    /// The kernel refuses, or it is no text.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// As `/dev/null` is, and what a shell made whose command failed.
    #[error("it is empty")]
    Empty,
    /// Something else is in it.
    #[error("{0}")]
    Other(#[from] TokenError),
}

/// The token in the file at `path`.
///
/// # Errors
/// [`TokenFileError`].
pub(super) fn read(path: &Path) -> Result<Token, TokenFileError> {
    token_in(path).map_err(|why| TokenFileError { path: path.to_owned(), why })
}

fn token_in(path: &Path) -> Result<Token, NoToken> {
    let text = file::read(path, file::FILE_BYTES_MAX)?;
    if text.trim().is_empty() { Err(NoToken::Empty) } else { Ok(text.parse()?) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_name_and_not_with_what_is_in_it() {
        let scratch = Scratch::new().unwrap();
        let (file, token) = (scratch.file("token"), Token::random().unwrap().reveal().to_string());
        let told = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file).unwrap_err().to_string()
        };
        let with = |why: &str| {
            format!("{}: {why}; it should hold the token that \"wstether token new\" printed", file.display())
        };
        assert_eq!(told(" \n"), with("it is empty"));
        assert_eq!(told("secret"), with("a token starts with \"wst1_\""));
        let null = read("/dev/null".as_ref()).unwrap_err().to_string();
        assert!(null.starts_with("/dev/null: it is empty; "), "{null}");
        let nowhere = read("/nonexistent/token".as_ref()).unwrap_err().to_string();
        assert!(nowhere.starts_with("/nonexistent/token: No such file"), "{nowhere}");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        assert_eq!(read(&file).unwrap().reveal().to_string(), token);
    }
}
