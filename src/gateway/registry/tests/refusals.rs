//! Whom the registry refuses for lack of something.

use super::super::*;
use crate::link::testing::connected;
use crate::metrics::labels;
use crate::nat::{Filtering, Timers, Translation};
use crate::policy::Policy;
use crate::wire::proof::{CredentialId, Nonce, Proof};

const TIMEOUT: Duration = Duration::from_secs(10);

fn registry(name: &str) -> Arc<Registry> {
    let addresses = vec![IpAddr::from([198, 51, 100, 1])];
    let translation = Translation::Gateway { addresses, ports: 10_000..=10_999, block_ports: 100 };
    let plan = Arc::new(AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan"));
    let pool = BufPool::new(1 << 20);
    let file = std::env::temp_dir().join(format!("wstether-{name}-{}.toml", std::process::id()));
    let (credentials, _) = CredentialStore::load_or_make(&file, crate::gateway::fresh).expect("credentials");
    std::fs::remove_file(&file).expect("it was made");
    Registry::new(Parts {
        terms: Terms {
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
            tethers_max: 4,
        },
        links_max: 8,
        credentials,
        guard_rules: Arc::new(ip_parse::Rules {
            plan: Arc::clone(&plan),
            policy: Arc::new(Policy::new(vec![], vec![], vec![])),
            mtu_bytes: 1_500,
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
        }),
        pool,
        metrics: GatewayMetrics::new(&labels::<accept::Reason>()),
    })
}

fn refused(registry: &Registry, reason: accept::Reason) -> u64 {
    registry.metrics.connections_refused.at(reason.index()).expect("a counter").get()
}

fn hello() -> Hello {
    Hello {
        features: Features::default(),
        credential: CredentialId::new(*b"abcd1234").expect("its letters"),
        nonce: Nonce([2; 32]),
        ticket: Vec::new(),
        link: 0,
        mtu: 1_500,
        proof: Proof([3; 32]),
    }
}

#[test]
fn a_handshake_that_takes_too_long_is_turned_away_and_counted() {
    let registry = registry("slow");
    let (link, _peer) = connected();
    let lane = std::iter::from_fn(|| registry.links.reserve()).find(|&lane| lane == link.lane()).expect("a place");
    registry.links.put(lane, Arc::clone(&link));
    registry.pending.put(lane, Arc::new(Pending::new(Arc::clone(&link))));
    registry.metrics.handshakes.add(1);
    registry.tidy(link.born() + TIMEOUT);
    assert_eq!((refused(&registry, accept::Reason::TooSlow), registry.metrics.handshakes.get()), (0, 1));
    registry.tidy(link.born() + TIMEOUT + Duration::from_millis(1));
    assert_eq!((refused(&registry, accept::Reason::TooSlow), registry.metrics.handshakes.get()), (1, 0));
    assert!(link.is_closed() && registry.pending.get(lane).is_none());
}

#[test]
fn while_memory_is_short_no_tether_is_opened() {
    let registry = registry("short");
    let now = Instant::now();
    let held: Vec<_> = std::iter::repeat_with(|| registry.pool.take(60_000).expect("a buffer")).take(15).collect();
    let (link, _peer) = connected();
    let refusal = registry.new_tether(now, &link, &hello()).expect_err("no memory");
    assert_eq!((refusal.reason, registry.metrics.tethers.get()), (RefusalReason::Busy, 0));
    drop(held);
    let tether = registry.new_tether(now, &link, &hello()).expect("a tether");
    registry.tidy(now);
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.nat_blocks_in_use.get()), (1, 1));
    tether.finish();
    tether.leave(&link, now);
    registry.tidy(now);
    registry.tidy(now);
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.nat_blocks_in_use.get()), (0, 0));
}
