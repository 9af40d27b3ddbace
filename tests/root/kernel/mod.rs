//! What touches the kernel, against the real kernel, in namespaces of the tests' own.

mod support;

mod devices;
mod egress;
mod netlink;
mod slow_link;
mod state;
