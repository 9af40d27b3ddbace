//! What stood before, in a file that survives a crash of the gateway.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::io::nft;
use crate::io::sysctl::{self, PortSet};

/// What has been set up, with what is needed to undo it. It is saved before the kernel is touched.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Memory {
    /// The nftables table.
    pub(super) table: Option<String>,
    /// The reserved ports.
    pub(super) reserved: Option<Reserved>,
    /// The TUN.
    pub(super) tun: Option<TunMemory>,
    /// Sysctls by name, with the values that they had.
    sysctls: BTreeMap<String, String>,
}

/// Our reserved ports, and which ports were reserved before.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reserved {
    before: String,
    first: u16,
    last: u16,
}

/// A TUN that is in use.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunMemory {
    pub(super) name: String,
    /// Whether we made it.
    pub(super) ours: bool,
}

impl Reserved {
    pub(super) fn new(before: String, ports: &RangeInclusive<u16>) -> Self {
        Self { before, first: *ports.start(), last: *ports.end() }
    }

    pub(super) fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl Memory {
    /// What an earlier run left; nothing where there was none. A file that cannot be understood is an error: what it
    /// remembers must not be overwritten.
    pub(super) fn load(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::StateUnreadable { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::StateFile { path, source }),
        }
    }

    /// Saves it so that a crash leaves either the old or the new one.
    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        let save = || {
            let new = path.with_extension("new");
            let mut file = fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        save().map_err(|source| Error::StateFile { path: path.to_owned(), source })
    }

    pub(super) fn forget(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::StateFile { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Remembers the value of a sysctl that is about to be changed, unless an earlier run did.
    pub(super) fn remember_sysctl(&mut self, name: &str) -> Result<(), Error> {
        if !self.sysctls.contains_key(name) {
            self.sysctls.insert(name.to_owned(), sysctl::read(name)?);
        }
        Ok(())
    }

    pub(super) fn undo_sysctls(&mut self) -> Result<(), Error> {
        for (name, before) in std::mem::take(&mut self.sysctls) {
            sysctl::write(&name, &before)?;
        }
        Ok(())
    }

    /// Takes our ports out again; what others reserved before or meanwhile stays.
    pub(super) fn undo_reserved(&mut self) -> Result<(), Error> {
        let Some(reserved) = self.reserved.take() else { return Ok(()) };
        let now = PortSet::parse(&sysctl::read(sysctl::RESERVED_PORTS)?);
        let without = now.without(&reserved.ports(), &PortSet::parse(&reserved.before));
        Ok(sysctl::write(sysctl::RESERVED_PORTS, &without.to_string())?)
    }

    pub(super) fn undo_table(&mut self) -> Result<(), Error> {
        self.table.take().map_or(Ok(()), |name| Ok(nft::remove(&name)?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    #[test]
    fn a_file_that_is_not_ours_is_told_with_what_to_do_and_left() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("gateway.json");
        fs::write(&file, "not JSON").unwrap();
        let told = Memory::load(&file).unwrap_err().to_string();
        assert!(told.starts_with(&format!("state file {}: cannot be read (", file.display())), "{told}");
        assert!(told.contains("); remove it once \"nft list tables\", "), "{told}");
        assert!(file.exists());
    }
}
