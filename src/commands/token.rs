//! `wstether token`: makes, lists and revokes credentials.

use std::io::{self, Write};

use crate::cli::{Token, TokenAction};
use crate::credentials::{Credential, CredentialError, CredentialStore, Fresh};
use crate::wire::token::PREFIX;

/// Why a token was not made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file of credentials.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command; `make` makes a credential.
pub fn run(
    args: &Token,
    make: impl Fn() -> Result<Fresh, getrandom::Error>,
    out: &mut dyn Write,
) -> Result<(), TokenError> {
    match &args.action {
        TokenAction::New { name } => {
            CredentialStore::load(&args.file)?.add(name, make, |token| {
                writeln!(out, "{token}")?;
                out.flush()
            })?;
        }
        TokenAction::List { json: true } => {
            writeln!(out, "{}", as_json(&CredentialStore::load(&args.file)?.list()))?;
        }
        TokenAction::List { json: false } => list(&CredentialStore::load(&args.file)?.list(), out)?,
        TokenAction::Revoke { id } => {
            // Whoever has lost a token, or found one, has the token and not its id; and what is secret of it is never shown.
            let id = id.trim().strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()).unwrap_or(id);
            let Credential { id, name, .. } = CredentialStore::unread(&args.file).revoke(id)?;
            writeln!(out, "revoked {id} {name}")?;
        }
    }
    Ok(())
}

fn list(credentials: &[Credential], out: &mut dyn Write) -> io::Result<()> {
    if credentials.is_empty() {
        return writeln!(out, "no credentials; \"wstether token new\" makes one");
    }
    writeln!(out, "{:<8}  {:<20}  NAME", "ID", "CREATED")?;
    credentials
        .iter()
        .try_for_each(|Credential { id, created, name, .. }| writeln!(out, "{id:<8}  {created:<20}  {name}"))
}

fn as_json(credentials: &[Credential]) -> serde_json::Value {
    credentials
        .iter()
        .map(|Credential { id, created, name, .. }| serde_json::json!({ "id": id, "created": created, "name": name }))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use std::path::Path;

    use super::*;

    fn token(file: &Path, action: TokenAction) -> Result<String, TokenError> {
        let (id, token) = ("7f3a9c21".to_owned(), "wst1_7f3a9c21_secret".to_owned());
        let make = || Ok(Fresh { id: id.clone(), token: token.clone(), verifier: "0".repeat(128) });
        let mut out = Vec::new();
        run(&Token { file: file.to_owned(), action }, make, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_token_is_made_listed_and_revoked() {
        let folder = std::env::temp_dir().join(format!("wstether-token-{}", std::process::id()));
        let file = folder.join("credentials.toml");
        let made = token(&file, TokenAction::New { name: "Ada's laptop".into() }).unwrap();
        let id = made.trim().split('_').nth(1).unwrap().to_owned();

        let listed = token(&file, TokenAction::List { json: false }).unwrap();
        assert!(listed.contains(&id) && listed.contains("Ada's laptop") && !listed.contains("secret"), "{listed}");
        let json: serde_json::Value =
            serde_json::from_str(&token(&file, TokenAction::List { json: true }).unwrap()).unwrap();
        assert_eq!((&json[0]["id"], &json[0]["name"]), (&id.clone().into(), &"Ada's laptop".into()));

        let revoked = token(&file, TokenAction::Revoke { id: id.clone() }).unwrap();
        assert_eq!(revoked, format!("revoked {id} Ada's laptop\n"));
        let gone = token(&file, TokenAction::Revoke { id }).unwrap_err();
        let gone_by_token = token(&file, TokenAction::Revoke { id: made.trim().to_owned() }).unwrap_err();
        assert_eq!(gone_by_token.to_string(), gone.to_string(), "a token is taken for its id, and not shown");
        assert!(token(&file, TokenAction::List { json: false }).unwrap().contains("no credentials"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
