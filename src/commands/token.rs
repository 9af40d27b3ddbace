//! `wstether token`: makes, lists and revokes credentials.

use std::io::{self, Write};

use crate::cli::{Token, TokenAction};
use crate::credentials::{Credential, CredentialError, CredentialStore, Fresh};

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

/// Runs the command; `make` turns an id into a token and what is kept of it.
pub fn run(args: &Token, make: impl FnOnce(&str) -> Fresh, out: &mut dyn Write) -> Result<(), TokenError> {
    let store = CredentialStore::load(&args.file)?;
    match &args.action {
        TokenAction::New { name } => {
            let (_, token) = store.add(name, make)?;
            writeln!(out, "{token}")?;
        }
        TokenAction::List { json: true } => writeln!(out, "{}", as_json(&store.list()))?,
        TokenAction::List { json: false } => list(&store.list(), out)?,
        TokenAction::Revoke { id } => {
            let Credential { id, name, .. } = store.revoke(id)?;
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
