//! What the relay page's close codes mean (RFC 6455 §7.4).
//!
//! A page may close with 1000 and 3000 to 4999 alone. What one side closed with goes to the other as it is where that is
//! allowed, and moved up by 3900 where it is not: 1001 arrives as 4901, 1006 (no close frame) as 4906.

use std::fmt;

/// 1000 moved up to 4900, and so on to 1015: the codes that a page may not send.
const MAPPED: std::ops::RangeInclusive<u16> = 4900..=4915;

/// How far they are moved.
const MAPPED_BY: u16 = 3900;

const STOPPED: u16 = 1000;
/// By the browser itself: what the other side closed with comes moved up.
const PAGE_LEFT: u16 = 1001;
const UNREACHABLE: u16 = 4920;
const OVERRUN: u16 = 4921;
const SILENT: u16 = 4922;
const SUBPROTOCOL: u16 = 4923;

/// Why the page closed a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a person who pressed Stop, or the other side is done.
    Stopped,
    /// The page was closed, or another one opened in its place.
    PageLeft,
    /// The page could not reach the gateway.
    GatewayUnreachable,
    /// The laptop sent more than the page holds before the gateway was there.
    Overrun,
    /// The gateway was reached, and did not speak in time.
    GatewaySilent,
    /// The other side agreed on another subprotocol.
    Subprotocol,
    /// The other side closed with this code.
    OtherSide(u16),
}

impl From<u16> for Ended {
    fn from(code: u16) -> Self {
        match code {
            STOPPED => Self::Stopped,
            PAGE_LEFT => Self::PageLeft,
            UNREACHABLE => Self::GatewayUnreachable,
            OVERRUN => Self::Overrun,
            SILENT => Self::GatewaySilent,
            SUBPROTOCOL => Self::Subprotocol,
            mapped if MAPPED.contains(&mapped) => Self::OtherSide(mapped - MAPPED_BY),
            code => Self::OtherSide(code),
        }
    }
}

impl Ended {
    /// The code to close with.
    pub fn code(self) -> u16 {
        match self {
            Self::Stopped => STOPPED,
            Self::PageLeft => PAGE_LEFT,
            Self::GatewayUnreachable => UNREACHABLE,
            Self::Overrun => OVERRUN,
            Self::GatewaySilent => SILENT,
            Self::Subprotocol => SUBPROTOCOL,
            Self::OtherSide(code @ 1001..=1015) => code + MAPPED_BY,
            Self::OtherSide(code) => code,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => write!(f, "the phone's page was stopped"),
            Self::PageLeft => write!(f, "the phone's page was closed or reloaded"),
            Self::GatewayUnreachable => write!(f, "the phone cannot reach the gateway"),
            Self::Overrun => write!(f, "more was sent than the phone holds while it dials the gateway"),
            Self::GatewaySilent => write!(f, "the phone reached the gateway, which said nothing"),
            Self::Subprotocol => write!(f, "the phone reached something that is not a wstether gateway"),
            Self::OtherSide(1006) => write!(f, "the phone's connection to the gateway broke"),
            Self::OtherSide(code) => write!(f, "the gateway closed the phone's connection with code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_a_page_may_not_send_is_found_again() {
        assert_eq!(Ended::from(4901), Ended::OtherSide(1001));
        assert_eq!(Ended::from(4906), Ended::OtherSide(1006));
        assert_eq!(Ended::from(4321), Ended::OtherSide(4321));
        assert_eq!(Ended::from(1001), Ended::PageLeft, "by the browser itself");
    }

    #[test]
    fn every_code_is_one_that_a_page_may_send_and_means_the_same_when_it_arrives() {
        for code in (1000..=1015).chain(3000..MAPPED.start().to_owned()) {
            let sent = Ended::OtherSide(code).code();
            assert!(sent == 1000 || (3000..=4999).contains(&sent), "{sent}");
            assert_eq!(Ended::from(sent).code(), sent);
        }
        for ended in
            [Ended::Stopped, Ended::GatewayUnreachable, Ended::Overrun, Ended::GatewaySilent, Ended::Subprotocol]
        {
            assert_eq!(Ended::from(ended.code()), ended);
        }
    }

    #[test]
    fn the_page_sends_these_codes() {
        let script = super::super::page::file("/relay.js").expect("the script").bytes;
        let codes = format!(
            "stopped: {STOPPED}, mapped: {}, unreachable: {UNREACHABLE}, overrun: {OVERRUN}, silent: {SILENT}, \
             subprotocol: {SUBPROTOCOL} }}",
            MAPPED.start()
        );
        assert!(String::from_utf8_lossy(script).contains(&codes), "{codes}");
        assert_eq!(MAPPED.start() - MAPPED_BY, 1000);
    }
}
