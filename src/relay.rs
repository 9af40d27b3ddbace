//! The relay: whatever joins the laptop's WebSocket to the gateway's, one message in, one message out.

pub mod ended;
pub mod headless;
pub mod page;
