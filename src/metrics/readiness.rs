//! Whether the gateway serves, and if not, why.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ready, or a reason why not. It begins as not ready: starting.
#[derive(Debug)]
pub struct Readiness(Mutex<State>);

#[derive(Debug)]
struct State {
    why_not: Option<Cow<'static, str>>,
    /// Whether that is for good.
    is_over: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Mutex::new(State { why_not: Some(Cow::Borrowed("starting")), is_over: false }))
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

    /// The gateway will not serve again, for this reason, whatever else is said of it.
    pub fn end(&self, why: impl Into<Cow<'static, str>>) {
        *self.state() = State { why_not: Some(why.into()), is_over: true };
    }

    /// Why the gateway does not serve; `None` when it does.
    pub fn why_not(&self) -> Option<Cow<'static, str>> {
        self.state().why_not.clone()
    }

    /// Whether the gateway serves.
    pub fn is_ready(&self) -> bool {
        self.why_not().is_none()
    }

    fn set(&self, why_not: Option<Cow<'static, str>>) {
        let mut state = self.state();
        if !state.is_over {
            state.why_not = why_not;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_begun_to_stop_does_not_become_ready_again() {
        let readiness = Readiness::default();
        assert_eq!(readiness.why_not().as_deref(), Some("starting"));
        readiness.set_ready();
        readiness.set_not_ready("egress: eth0 is down");
        readiness.set_ready();
        assert!(readiness.is_ready());
        readiness.end("stopping");
        readiness.set_ready();
        readiness.set_not_ready("egress: eth0 is down");
        assert_eq!(readiness.why_not().as_deref(), Some("stopping"));
    }
}
