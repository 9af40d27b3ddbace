//! `wstether check`: judges a configuration, and prints an example.

use std::io::{self, Write};
use std::path::Path;

use crate::cli::{Check, RoleName};
use crate::config::{self, Client, ConfigError, Gateway, Misfit, Role};
use crate::exit::Status;
use crate::gateway;

/// Why `check` did not say that all is right.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl CheckError {
    /// How the command ends.
    pub fn status(&self) -> Status {
        match self {
            Self::Config(_) => Status::BadConfiguration,
            Self::Output(_) => Status::Failed,
        }
    }
}

/// Runs the command.
pub fn run(args: &Check, out: &mut dyn Write) -> Result<(), CheckError> {
    match args.role {
        RoleName::Gateway => run_for::<Gateway>(args.file.as_deref(), gateway::misfit, out),
        RoleName::Client => run_for::<Client>(args.file.as_deref(), super::client::misfit, out),
    }
}

/// With no file it prints the example.
fn run_for<R: Role>(
    file: Option<&Path>,
    misfit: impl FnOnce(&R) -> Option<Misfit>,
    out: &mut dyn Write,
) -> Result<(), CheckError> {
    let Some(file) = file else {
        return Ok(out.write_all(config::example::<R>().as_bytes())?);
    };
    let config = config::load_for(Some(file), &[], misfit)?;
    let remarks = config.remarks().into_iter().map(|remark| format!("but {remark}"));
    let verdict = std::iter::once(format!("a {} can run with this", R::NAME)).chain(remarks);
    let lines: String = verdict.map(|line| format!("{}: {line}\n", file.display())).collect();
    match out.write_all(lines.as_bytes()) {
        // Who reads no words has the exit status.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    fn check(role: RoleName, file: Option<&str>) -> Result<String, CheckError> {
        let mut out = Vec::new();
        run(&Check { file: file.map(Into::into), role, example: file.is_none() }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_examples_are_right() {
        for (role, file) in [(RoleName::Gateway, "config/gateway.toml"), (RoleName::Client, "config/client.toml")] {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/").to_owned() + file;
            let said = check(role, Some(&path)).unwrap();
            assert!(said.starts_with(&path), "{said}");
            assert_eq!(check(role, None).unwrap(), std::fs::read_to_string(&path).unwrap());
        }
    }

    #[test]
    fn a_budget_that_a_start_would_refuse_is_told_with_the_least_that_will_do() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("gateway.toml");
        let check = |budget: &str| {
            std::fs::write(&file, format!("[memory]\nbudget = \"{budget}\"")).unwrap();
            check(RoleName::Gateway, file.to_str())
        };
        let told = check("16MiB").unwrap_err().to_string();
        assert!(told.contains("line 2: memory.budget: 16MiB is too little: these settings need "), "{told}");
        assert!(told.contains("stages.*.threads_max"), "a buffer a thread: {told}");
        let least = told.split_whitespace().find(|word| word.ends_with("MiB") && *word != "16MiB").unwrap();
        check(least).unwrap();
        let less = least.trim_end_matches("MiB").parse::<u64>().unwrap() - 1;
        assert!(check(&format!("{less}MiB")).unwrap_err().to_string().contains(least));
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let error = check(RoleName::Gateway, Some("/dev/urandom")).unwrap_err();
        assert_eq!(error.to_string(), "/dev/urandom: it is longer than 1 MiB; is this the right file?");
    }

    #[test]
    fn a_file_of_the_other_role_is_wrong() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/client.toml");
        let error = check(RoleName::Gateway, Some(path)).unwrap_err();
        assert!(error.to_string().contains("[client]: unknown section"), "{error}");
        let hint = "client.toml: is this a client's file? \"wstether check --role client\" judges it as one";
        assert!(error.to_string().ends_with(hint), "{error}");
    }

    #[test]
    fn what_a_clients_file_leaves_to_its_command_line_is_told_and_a_page_that_no_phone_reaches() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("client.toml");
        let check = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let said = check(RoleName::Client, file.to_str()).unwrap();
            said.replace(&format!("{}: ", file.display()), "")
        };
        let right = "a client can run with this\n";
        let gateway = "but client.gateway is empty: set it, such as to \"wss://gateway.example/wstether\", or start the \
                       client with --gateway\n";
        let token = "but client.token and client.token_file are empty: set one of them, or start the client with --token-file\n";
        assert_eq!(check(""), [right, gateway, token].concat());
        let whole = "[client]\ngateway = \"wss://gateway.example/wstether\"\ntoken_file = \"/etc/wstether/token\"\n";
        assert_eq!(check(whole), right);
        let page = "but phone.listen is 127.0.0.1:8088, which this machine alone reaches, and no phone; 0.0.0.0 is every \
                    address of it\n";
        let own = "[phone]\nlisten = \"127.0.0.1:8088\"\n";
        assert_eq!(check(&format!("{whole}{own}")), [right, page].concat());
        assert_eq!(check(&format!("{whole}via = \"direct\"\n{own}")), right);
    }

    #[test]
    fn a_token_that_no_client_takes_is_told_and_not_shown() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("client.toml");
        std::fs::write(&file, "[client]\ntoken = \"wst1_abc\"").unwrap();
        let told = check(RoleName::Client, file.to_str()).unwrap_err().to_string();
        assert!(told.contains("line 2: client.token: a token has 57 characters, this has 8"), "{told}");
        assert!(!told.contains("abc"), "{told}");
    }
}
