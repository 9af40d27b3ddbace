//! A registry for tests.

use std::net::IpAddr;

use super::*;
use crate::budget::{Budget, Part};
use crate::metrics::labels;
use crate::nat::{Filtering, Timers, Translation};
use crate::policy::Policy;

/// How long everything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A registry with room for four tethers and eight links, with `change` made to its terms.
pub(crate) fn registry(change: impl FnOnce(&mut Terms)) -> Arc<Registry> {
    let nowhere = CredentialStore::load("/nowhere".as_ref()).expect("no credential is a store too");
    registry_of(nowhere, change)
}

/// The same with these credentials.
pub(crate) fn registry_of(credentials: CredentialStore, change: impl FnOnce(&mut Terms)) -> Arc<Registry> {
    let addresses = vec![IpAddr::from([198, 51, 100, 1])];
    let translation = Translation::Gateway { addresses, ports: 10_000..=10_999, block_ports: 100 };
    let plan = Arc::new(AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan"));
    let budget = Budget::new(1 << 20);
    let (pool, overload, fixed) = (BufPool::drawing_on(&budget), Overload::default(), budget.share(Part::Fixed));
    let mut terms = Terms {
        mtu_bytes: 1_500,
        path: "/".into(),
        features: Features::default(),
        credit_bytes: 1 << 20,
        window_bytes_max: 1 << 20,
        message_bytes_max: 1 << 18,
        keep_alive: TIMEOUT,
        linger: TIMEOUT,
        handshake_timeout: TIMEOUT,
        handshakes_max: 4,
        handshakes_per_address: 4,
        tethers_max: 4,
        tethers_per_credential_max: 0,
        trimmed_to_percent: 50,
        overload_retry: Retry::DEFAULT,
        window: window::Settings::DEFAULT,
        credit: credit::Settings::DEFAULT,
    };
    change(&mut terms);
    Registry::new(Parts {
        terms,
        links_max: 8,
        credentials,
        guard_rules: Arc::new(ip_parse::Rules {
            plan: Arc::clone(&plan),
            policy: Arc::new(Policy::new(vec![], vec![], vec![])),
            mtu_bytes: 1_500.into(),
            pool: pool.clone(),
        }),
        nat_rules: Arc::new(nat::Rules {
            plan,
            timers: Timers::default(),
            filtering: Filtering::default(),
            resolver: None,
            mtu_bytes: 1_500,
            mappings_max: 100,
            mappings_per_second: 100,
            remotes_max: 4,
            pool: pool.clone(),
            overload: overload.clone(),
        }),
        pool,
        overload,
        fixed,
        metrics: GatewayMetrics::new(&labels::<accept::Reason>()),
    })
}
