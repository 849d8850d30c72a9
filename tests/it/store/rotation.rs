//! Keys are rotated under traffic, and nobody is refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_with_overlap_and_no_request_fails() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let first = world.tenant("acme").await;
    super::soon(&world, &broker, &first, 200).await;
    let current = Arc::new(Mutex::new(first));
    let (done, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let now = || current.lock().expect("is whole").clone();
    let caller = async || {
        while !done.load(Ordering::Acquire) {
            let key = now();
            let answer = world.query(&broker, &key).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            served.fetch_add(1, Ordering::AcqRel);
        }
    };
    let rotate = async || {
        for _ in 0..6 {
            let old = now();
            let id = old.split('.').next().expect("has an id");
            let path = format!("/tenants/acme/keys/{id}/rotate");
            let made = world.admin(&broker, "POST", &path, Some(serde_json::json!({"overlap": "30s"}))).await;
            assert_eq!(made.status, 201, "{}", made.text);
            // Callers have it the moment it was answered.
            *current.lock().expect("is whole") = made.body["key"].as_str().expect("is text").to_owned();
            let before = served.load(Ordering::Acquire);
            hearth_tests::eventually("it is used", async || served.load(Ordering::Acquire) > before + 20).await;
        }
        done.store(true, Ordering::Release);
    };
    tokio::join!(caller(), caller(), caller(), rotate());
    eprintln!("{} requests went well over 6 rotations", served.load(Ordering::Acquire));
}
