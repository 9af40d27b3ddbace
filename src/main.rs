//! The `wstether` command.

fn main() {}
