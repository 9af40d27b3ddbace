//! The documents against the code: what they link to is there.
