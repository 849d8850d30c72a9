use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::config::Shadow;

fn limits(config: &LimitsConfig, before: Option<&Limits>) -> Arc<Limits> {
    Arc::new(Limits::new(&TenantId::new("acme"), config, None, &Metrics::new(), before))
}

fn remaining(limits: &Limits, policy: &str) -> u64 {
    limits.left_of_all().find(|(name, ..)| *name == policy).expect("is there").2.remaining
}

fn used(limits: &Arc<Limits>, rows: u64, bytes: usize, database: Duration) {
    let mut admission = limits.admit().expect("is let in");
    admission.used_rows(|| rows);
    admission.sent(bytes);
    admission.to_database();
    admission.used_database(database);
}

#[tokio::test(start_paused = true)]
async fn every_window_holds_and_a_refusal_is_charged_to_none() {
    let config = LimitsConfig {
        requests_per_second: Some(10),
        requests_per_minute: Some(25),
        requests_per_hour: Some(30),
        ..LimitsConfig::default()
    };
    let limits = limits(&config, None);
    let mut refused = Vec::new();
    for _ in 0..4 {
        let refusals = (0..20).filter_map(|_| limits.admit().err()).collect::<Vec<_>>();
        refused.push((20 - refusals.len(), refusals.last().map(AdmissionError::policy)));
        advance(Duration::from_secs(1)).await;
    }
    // 25 a minute come back by one in 2.4 s.
    let minute = Some("requests-per-minute");
    assert_eq!(refused, [(10, Some("requests")), (10, Some("requests")), (5, minute), (1, minute)]);
    assert_eq!(remaining(&limits, "requests"), 10, "refusals of the minute have cost the second nothing");
    assert_eq!(remaining(&limits, "requests-per-hour"), 4);
    advance(Duration::from_mins(1)).await;
    assert_eq!((0..20).filter(|_| limits.admit().is_ok()).count(), 4, "the hour is used up");
    assert_eq!(limits.admit().err().map(|error| error.policy()), Some("requests-per-hour"));
    assert_eq!(remaining(&limits, "requests-per-minute"), 21);
}

#[tokio::test(start_paused = true)]
async fn a_full_house_costs_no_rate_and_a_used_up_rate_no_place() {
    let config = LimitsConfig { requests_per_second: Some(2), in_flight: Some(1), ..LimitsConfig::default() };
    let limits = limits(&config, None);
    let first = limits.admit().expect("is let in");
    assert!(matches!(limits.admit(), Err(AdmissionError::TooManyInFlight { limit: 1 })));
    assert_eq!(remaining(&limits, "requests"), 1);
    drop(first);
    drop(limits.admit().expect("is let in"));
    assert!(matches!(limits.admit(), Err(AdmissionError::RateLimited { policy: "requests", .. })));
    assert_eq!(limits.in_flight.limit.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn quotas_are_charged_with_what_was_used_and_outlive_a_reload() {
    let config = LimitsConfig {
        requests_per_second: Some(1000),
        requests_per_day: Some(4),
        rows_per_day: Some(100),
        bytes_per_day: Some(10_000),
        database_ms_per_day: Some(5_000),
        ..LimitsConfig::default()
    };
    let before = limits(&config, None);
    used(&before, 60, 500, Duration::from_secs(1));
    used(&before, 60, 500, Duration::from_secs(1));
    let error = before.admit().err().expect("120 rows are more than 100");
    assert_eq!(error.policy(), "rows-per-day");
    assert!(
        matches!(error, AdmissionError::QuotaExhausted { limit: 100, retry_after, .. } if retry_after <= Duration::from_hours(24))
    );
    let raised = LimitsConfig { rows_per_day: Some(1000), ..config.clone() };
    let after = limits(&raised, Some(&before));
    assert_eq!(remaining(&after, "rows-per-day"), 880);
    assert_eq!(remaining(&after, "bytes-per-day"), 9_000);
    assert_eq!(remaining(&after, "database-ms-per-day"), 3_000);
    assert_eq!(remaining(&after, "requests-per-day"), 2, "a refusal of another quota was not charged");
    used(&after, 0, 0, Duration::ZERO);
    used(&after, 0, 0, Duration::ZERO);
    let rate = remaining(&after, "requests");
    assert_eq!(after.admit().err().map(|error| error.policy()), Some("requests-per-day"));
    assert_eq!(remaining(&after, "requests"), rate, "nor to the rate");
}

#[tokio::test(start_paused = true)]
async fn database_time_is_charged_after_the_fact_and_paid_back_by_waiting() {
    let config = LimitsConfig { database_ms_per_second: Some(100), ..LimitsConfig::default() };
    let limits = limits(&config, None);
    used(&limits, 0, 0, Duration::from_secs(3));
    let Err(AdmissionError::RateLimited { policy: "database-ms", retry_after }) = limits.admit() else {
        panic!("three seconds were used, and one may be");
    };
    assert!((Duration::from_secs(20)..Duration::from_secs(21)).contains(&retry_after), "{retry_after:?}");
    advance(retry_after).await;
    limits.admit().expect("is paid");
}

#[tokio::test(start_paused = true)]
async fn limits_in_shadow_are_counted_and_refuse_nothing() {
    let config = LimitsConfig {
        requests_per_second: Some(2),
        requests_per_minute: Some(3),
        in_flight: Some(1),
        shadow: Shadow::Some(vec!["requests".to_owned(), "in-flight".to_owned()]),
        ..LimitsConfig::default()
    };
    let metrics = Metrics::new();
    let limits = Arc::new(Limits::new(&TenantId::new("acme"), &config, None, &metrics, None));
    let told: Vec<_> = (0..3).map(|_| limits.admit().expect("is let in")).map(|a| a.shadows.clone()).collect();
    assert_eq!(told, [vec![], vec![], vec!["requests"]]);
    assert_eq!(limits.admit().err().map(|error| error.policy()), Some("requests-per-minute"), "that one is enforced");
    assert_eq!(
        limits.left().map(|(name, _)| name).collect::<Vec<_>>(),
        ["requests-per-minute"],
        "callers hear of that alone"
    );
    advance(Duration::from_mins(1)).await;
    let held = [limits.admit(), limits.admit()].map(|admitted| admitted.expect("is let in"));
    assert_eq!(held[1].shadows, ["in-flight"]);
    assert_eq!(limits.in_flight.limit.count(), 2, "what runs is counted all the same");
    drop(held);
    assert_eq!(limits.in_flight.limit.count(), 0);
    let text = metrics.text();
    let line = "hearth_limit_decisions_total{tenant=\"acme\",policy=\"requests\",outcome=\"shadow_refused\"} 2";
    assert!(text.contains(line), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_limits_has_nothing_to_be_told_or_charged() {
    let limits = limits(&LimitsConfig::default(), None);
    drop(limits.admit().expect("is let in"));
    assert_eq!(limits.left().count(), 0);
}
