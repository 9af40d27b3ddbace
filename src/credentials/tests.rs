#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        let path = std::env::temp_dir().join(format!("wstether-credentials-{}", hex(&bytes)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("credentials.toml")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fresh() -> Result<Fresh, getrandom::Error> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)?;
    let id = hex(&bytes);
    Ok(Fresh { token: format!("wst1_{id}_secret"), verifier: hex(&[0xab; 64]), id })
}

/// Adds a credential whose token is shown to nobody.
fn add(store: &CredentialStore, name: &str) -> Result<Credential, CredentialError> {
    store.add(name, fresh, |_| Ok(()))
}

/// The credentials after a gateway's start, and the token that it showed.
fn started(path: &Path) -> (CredentialStore, Option<String>) {
    let mut shown = None;
    let show = |token: &str| {
        shown = Some(token.to_owned());
        Ok(())
    };
    CredentialStore::make_first(path, fresh, show).unwrap();
    (CredentialStore::load(path).unwrap(), shown)
}

#[test]
fn a_first_start_makes_one_token_and_a_second_none() {
    let folder = Folder::new();
    let (store, token) = started(&folder.file());
    let id = store.list()[0].id.clone();
    assert_eq!(token, Some(format!("wst1_{id}_secret")));
    let (again, token) = started(&folder.file());
    assert_eq!((again.list(), token), (store.list(), None));
}

#[test]
fn revoking_the_last_one_does_not_make_a_new_one_at_the_next_start() {
    let folder = Folder::new();
    let (store, _) = started(&folder.file());
    store.revoke(&store.list()[0].id).unwrap();
    let (store, token) = started(&folder.file());
    assert_eq!((store.list(), token), (vec![], None));
}

#[test]
fn only_the_owner_may_read_the_file_and_no_secret_is_in_it() {
    let folder = Folder::new();
    let mut token = String::new();
    let show = |shown: &str| {
        token = shown.to_owned();
        Ok(())
    };
    CredentialStore::load(&folder.file()).unwrap().add("Ada", fresh, show).unwrap();
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(folder.file()).unwrap();
    assert!(!text.contains(&token) && !text.contains("secret"), "{text}");
    assert!(text.contains(&"ab".repeat(32)), "{text}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn another_writers_change_holds_at_the_next_look() {
    let folder = Folder::new();
    let (gateway, command) =
        (CredentialStore::load(&folder.file()).unwrap(), CredentialStore::load(&folder.file()).unwrap());
    let credential = add(&command, "Ada").unwrap();
    assert_eq!(gateway.find(&credential.id), Some(credential.clone()));
    command.revoke(&credential.id).unwrap();
    assert_eq!(gateway.find(&credential.id), None);
}

#[test]
fn a_token_that_cannot_be_shown_leaves_the_file_as_it_was() {
    let folder = Folder::new();
    let full = |_: &str| Err(io::ErrorKind::StorageFull.into());
    assert!(matches!(CredentialStore::make_first(&folder.file(), fresh, full), Err(CredentialError::NotShown(_))));
    assert!(!folder.file().exists(), "the next start makes one");

    let store = CredentialStore::load(&folder.file()).unwrap();
    let credential = add(&store, "Ada").unwrap();
    let text = fs::read_to_string(folder.file()).unwrap();
    let error = store.add("Bob", fresh, full).unwrap_err();
    assert!(error.to_string().ends_with("so no credential was made"), "{error}");
    assert_eq!((fs::read_to_string(folder.file()).unwrap(), store.list()), (text, vec![credential]));
}

#[test]
fn a_credential_that_cannot_be_taken_out_again_is_named() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let error = store.add("Ada", fresh, |_| {
        fs::remove_file(folder.file())?;
        Err(io::ErrorKind::StorageFull.into())
    });
    let Err(CredentialError::LeftUnseen { id, .. }) = &error else { panic!("{error:?}") };
    let revoke = format!("\"wstether token --file {} revoke {id}\" does", folder.file().display());
    assert!(error.as_ref().unwrap_err().to_string().ends_with(&revoke));
}

#[test]
fn a_token_works_as_soon_as_it_is_shown() {
    let folder = Folder::new();
    let gateway = CredentialStore::load(&folder.file()).unwrap();
    let show = |token: &str| {
        assert!(token.split('_').nth(1).is_some_and(|id| gateway.find(id).is_some()));
        Ok(())
    };
    CredentialStore::load(&folder.file()).unwrap().add("Ada", fresh, show).unwrap();
}

#[test]
fn an_id_is_given_once() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let rounds = std::cell::Cell::new(0);
    let make = || {
        let round = rounds.replace(rounds.get() + 1);
        Ok(Fresh { id: format!("id{}", round / 2), ..fresh()? })
    };
    let ids = ["Ada", "Bob"].map(|name| store.add(name, make, |_| Ok(())).unwrap().id);
    assert_eq!((ids, rounds.get()), (["id0", "id1"].map(String::from), 3));
}

#[test]
fn two_writers_lose_nothing() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for name in ["Ada", "Bob", "Cyd", "Dan"] {
            let file = folder.file();
            scope.spawn(move || add(&CredentialStore::load(&file).unwrap(), name).unwrap());
        }
    });
    assert_eq!(CredentialStore::load(&folder.file()).unwrap().list().len(), 4);
}

#[test]
fn a_file_that_is_broken_revokes_none_and_is_not_written_over() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let credential = add(&store, "Ada").unwrap();
    fs::write(folder.file(), "[[credential").unwrap();
    assert_eq!(store.find(&credential.id), Some(credential));
    assert!(matches!(add(&store, "Bob"), Err(CredentialError::Malformed { .. })));
}

#[test]
fn a_file_that_is_gone_revokes_all_once_it_was_missed_twice_however_often_somebody_is_looked_up_meanwhile() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let credential = add(&store, "Ada").unwrap();
    let finds = || [(); 3].map(|()| store.find(&credential.id).is_some());
    let aside = folder.0.join("aside.toml");
    fs::rename(folder.file(), &aside).unwrap();
    assert_eq!((finds(), store.version(), finds()), ([true; 3], None, [true; 3]));
    fs::rename(&aside, folder.file()).unwrap();
    assert!(store.version().is_some() && finds() == [true; 3]);
    fs::rename(folder.file(), &aside).unwrap();
    assert_eq!((store.version(), finds()), (None, [true; 3]), "what was missed before it came back does not count");
    assert_eq!((store.version(), finds()), (None, [false; 3]));
    fs::rename(&aside, folder.file()).unwrap();
    assert_eq!(finds(), [true; 3], "the file is followed again");
}

#[test]
fn a_file_that_nobody_may_see_is_not_taken_for_gone() {
    let folder = Folder::new();
    let inner = folder.0.join("inner");
    fs::create_dir(&inner).unwrap();
    let store = CredentialStore::load(&inner.join("credentials.toml")).unwrap();
    let credential = add(&store, "Ada").unwrap();
    // A file in the folder's place: what is asked for below it is refused, whoever asks.
    fs::rename(&inner, folder.0.join("aside")).unwrap();
    fs::write(&inner, "").unwrap();
    assert_eq!([(); 3].map(|()| store.version()), [None; 3]);
    assert_eq!(store.find(&credential.id), Some(credential));
}

#[test]
fn an_id_that_is_there_twice_is_told_and_revoked_with_every_copy() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let [ada, bob, cyd] = ["Ada", "Bob", "Cyd"].map(|name| add(&store, name).unwrap());
    let copied = [&ada, &bob, &cyd, &bob, &ada].map(Credential::clone);
    write(&folder.file(), &copied).unwrap();

    let error = CredentialStore::load(&folder.file()).unwrap_err().to_string();
    let told = format!(
        "{file}: no file of credentials: the id \"{id}\" is in it twice; \"wstether token --file {file} revoke {id}\" takes \
         every copy away",
        file = folder.file().display(),
        id = bob.id
    );
    assert_eq!(error, told);
    assert_eq!(store.list(), [ada.clone(), bob.clone(), cyd.clone()], "what was known still holds");
    assert!(matches!(add(&store, "Dan"), Err(CredentialError::Malformed { .. })));

    let revoke = |credential: &Credential| CredentialStore::unread(&folder.file()).revoke(&credential.id).unwrap();
    assert_eq!(revoke(&ada), ada);
    assert_eq!(read_any(&folder.file()).unwrap().credentials, [bob.clone(), cyd.clone(), bob.clone()]);
    assert_eq!(revoke(&bob), bob);
    assert_eq!(store.list(), [cyd]);
}

#[test]
fn the_first_credential_makes_the_folder_for_the_owner_alone() {
    let folder = Folder::new();
    let file = folder.0.join("lib/wstether/credentials.toml");
    started(&file);
    assert_eq!(fs::metadata(folder.0.join("lib/wstether")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_leftover_of_a_killed_writer_is_no_hindrance() {
    let folder = Folder::new();
    fs::write(folder.0.join("credentials.toml.new"), "half").unwrap();
    assert!(add(&CredentialStore::load(&folder.file()).unwrap(), "Ada").is_ok());
}

const SHORT_VERIFIER: &str = "[[credential]]\nid = \"1\"\nname = \"\"\ncreated = \"\"\nverifier = \"abcd\"";

#[test]
fn errors_name_the_file_or_the_id() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let list = format!("\"wstether token --file {} list\" shows them", folder.file().display());
    assert_eq!(store.revoke("00").unwrap_err().to_string(), format!("no credential has the id \"00\"; {list}"));
    let no_such_id = CredentialError::NoSuchId { path: DEFAULT_FILE.into(), id: "00".into() };
    assert_eq!(no_such_id.to_string(), "no credential has the id \"00\"; \"wstether token list\" shows them");
    assert!(matches!(add(&store, "a\nb"), Err(CredentialError::BadName)));
    fs::write(folder.0.join("file"), "").unwrap();
    let nowhere = folder.0.join("file/credentials.toml");
    let error = CredentialStore::load(&nowhere).unwrap_err();
    assert!(error.to_string().starts_with(&nowhere.display().to_string()), "{error}");
    for wrong in ["credential = 1", "x = 1", "[[credential]]\nid = \"1\"", "[[credential]]\nid=1", SHORT_VERIFIER] {
        fs::write(folder.file(), wrong).unwrap();
        assert!(matches!(CredentialStore::load(&folder.file()), Err(CredentialError::Malformed { .. })), "{wrong}");
    }
}

#[test]
fn a_device_is_refused_by_its_name() {
    let error = CredentialStore::load(Path::new("/dev/urandom")).unwrap_err();
    assert!(error.to_string().starts_with("/dev/urandom: cannot be read: it is no regular file"), "{error}");
}

#[test]
fn a_fifo_in_the_files_place_keeps_nobody_waiting_and_revokes_none() {
    let folder = Folder::new();
    let store = CredentialStore::load(&folder.file()).unwrap();
    let credential = add(&store, "Ada").unwrap();
    let aside = folder.0.join("aside.toml");
    fs::rename(folder.file(), &aside).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.file()).status().unwrap();
    assert!(made.success());
    assert_eq!(store.find(&credential.id), Some(credential.clone()));
    assert!(matches!(CredentialStore::load(&folder.file()), Err(CredentialError::Unreadable { .. })));
    fs::rename(&aside, folder.file()).unwrap();
    store.revoke(&credential.id).unwrap();
    assert_eq!(store.find(&credential.id), None, "the file is followed again");
}

proptest! {
    #[test]
    fn a_credential_is_read_as_it_was_written(name in "\\PC{0,64}", id in "[a-z0-9]{8}", keys in any::<[[u8; 32]; 2]>()) {
        let folder = Folder::new();
        let verifier = hex(keys.as_flattened());
        let make = || Ok(Fresh { id: id.clone(), token: String::new(), verifier: verifier.clone() });
        let store = CredentialStore::load(&folder.file()).unwrap();
        let credential = store.add(&name, make, |_| Ok(())).unwrap();
        prop_assert_eq!((&credential.id, &credential.name, &credential.verifier), (&id, &name, &verifier));
        prop_assert_eq!(CredentialStore::load(&folder.file()).unwrap().find(&id), Some(credential));
    }

    #[test]
    fn any_file_is_read_without_panic(text in "(credential|\\[|\\]|=|\"|id|name|\\PC|\n){0,30}") {
        drop(toml::from_str::<Contents>(&text));
    }
}
