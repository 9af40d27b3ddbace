use std::fs;
use std::path::Path;

use super::example::example;
use super::*;

/// Set to any value, it writes the example files anew instead of comparing them.
const WRITE_EXAMPLES: &str = "WRITE_EXAMPLES";

fn assert_example_is_current<R: Role>() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(format!("{}.toml", R::NAME));
    let expected = example::<R>();
    if std::env::var_os(WRITE_EXAMPLES).is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not what the declarations say; run the test with {WRITE_EXAMPLES}=1",
        path.display()
    );
}

#[test]
fn the_gateways_example_holds_every_key_as_declared() {
    assert_example_is_current::<Gateway>();
}

#[test]
fn the_clients_example_holds_every_key_as_declared() {
    assert_example_is_current::<Client>();
}
