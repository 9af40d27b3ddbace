//! Whether the gateway serves, and if not, why.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// Ready, or a reason why not. It begins as not ready: starting.
#[derive(Debug)]
pub struct Readiness(Mutex<Option<Cow<'static, str>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Mutex::new(Some(Cow::Borrowed("starting"))))
    }
}

impl Readiness {
    /// The gateway serves.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// The gateway does not serve, for this reason (in words for an operator: "egress: no default route").
    pub fn set_not_ready(&self, why: impl Into<Cow<'static, str>>) {
        self.set(Some(why.into()));
    }

    /// Why the gateway does not serve; `None` when it does.
    pub fn why_not(&self) -> Option<Cow<'static, str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the gateway serves.
    pub fn is_ready(&self) -> bool {
        self.why_not().is_none()
    }

    fn set(&self, why_not: Option<Cow<'static, str>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why_not;
    }
}
