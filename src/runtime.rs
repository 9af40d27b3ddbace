//! The staged runtime (SEDA: Welsh, Culler, Brewer 2001): queues, lanes, pools, batches, counting and controllers, the
//! same for each stage. Handlers see none of it.

pub mod attend;
pub mod batch;
pub mod codel;
pub mod controller;
pub mod cores;
pub mod fq_codel;
pub mod hand_over;
pub mod inlet;
pub mod keeper;
pub mod lanes;
pub mod port;
pub mod queue;
pub mod rest;
pub mod ring;
pub mod shedding;
#[cfg(test)]
mod simulator;
mod slab;
pub mod stage;
mod sync;
#[cfg(test)]
mod testing;
pub mod tuning;
mod waiting;
pub mod work;
