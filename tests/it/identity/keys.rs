//! Keys: rotation with overlap, moments, and when they were last used.

use hearth_broker::cli::key::NewKey;
use hearth_tests::{Options, Stack};
use serde_json::{Value, json};

async fn keys(stack: &Stack) -> Vec<Value> {
    let answer = stack.send(reqwest::Client::new().get(format!("{}/admin/v1/keys", stack.admin_url))).await;
    assert!(!answer.text.contains("sha256"), "{}", answer.text);
    answer.body["keys"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_with_overlap_and_their_last_use_is_told() {
    let [old, new, later] = [(); 3].map(|()| NewKey::random());
    let entry = |key: &NewKey, more: &str| {
        format!("{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\"]{more} }}", key.id, key.sha256)
    };
    let more = format!(
        "[tenants.rotating]\nkeys = [{}, {}, {}]\n",
        entry(&old, ""),
        entry(&new, ", expires = \"2099-01-01T00:00:00Z\""),
        entry(&later, ", not_before = \"2098-01-01T00:00:00Z\"")
    );
    let stack = Stack::with(Options { more, ..Options::default() }).await;
    let status = async |key: &NewKey| stack.send(stack.get("/v1/whoami").bearer_auth(key.token())).await.status;
    let told = async |key: &NewKey| keys(&stack).await.into_iter().find(|told| told["id"] == key.id.as_str());
    assert_eq!(told(&old).await.expect("is there")["last_used"], Value::Null);
    assert_eq!((status(&old).await, status(&new).await, status(&later).await), (200, 200, 401));
    let early = stack.send(stack.get("/v1/whoami").bearer_auth(later.token())).await;
    assert!(early.text.contains("not valid yet"), "{}", early.text);
    let used = told(&old).await.expect("is there");
    assert!(used["last_used"].as_str().is_some_and(|at| at.starts_with("20")), "{used}");
    assert_eq!((&used["tenant"], &used["scopes"]), (&json!("rotating"), &json!(["sql:read"])));
    assert_eq!(told(&later).await.expect("is there")["last_used"], Value::Null, "a refusal is no use");
    assert_eq!(told(&new).await.expect("is there")["expires"], "2099-01-01T00:00:00Z");
    // Nobody uses the old one any more: it goes, and the uses of the others are remembered.
    stack.edit(&format!("{}, ", entry(&old, "")), "");
    assert_eq!(stack.reload().await.status, 200);
    assert_eq!((status(&old).await, told(&old).await), (401, None));
    assert_ne!(told(&new).await.expect("is there")["last_used"], Value::Null);
    let list = keys(&stack).await;
    let ids: Vec<_> = list.iter().map(|key| (key["tenant"].as_str(), key["id"].as_str())).collect();
    assert!(ids.is_sorted(), "{ids:?}");
}
