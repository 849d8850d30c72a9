//! Tokens that name a tenant of the control database.

use hearth_tests::Served;
use hearth_tests::issuer::claims;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::{World, soon};

const ISSUER: &str = "https://login.example";
const SECRET: &str = "a secret of the issuer of 32 bytes";

fn token(tenant: &str) -> String {
    let mut claims = claims(ISSUER, "user_42");
    claims["org"] = json!(tenant);
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("is signed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_its_stored_tenant_as_that_is_now() {
    let world = World::new().await;
    let login = format!(
        "[identity.jwt.login]\nissuer = \"{ISSUER}\"\naudience = [\"hearth\"]\nalgorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\n\
         tenant_claim = \"org\"\ntenants = [\"acme\", \"filed\"]\nscopes = [\"sql:read\"]\nstatements = [\"one\"]\n"
    );
    let broker = Served::start(&world.ground, "one", &world.config(&login)).await;
    let [acme, filed, other] = ["acme", "filed", "other"].map(token);
    world.whoami(&broker, &acme).await.assert_problem(401, "unauthenticated", "not_applied");
    world.tenant("other").await;
    world.tenant("acme").await;
    soon(&world, &broker, &acme, 200).await;
    let told = world.whoami(&broker, &acme).await.body;
    assert_eq!((&told["tenant"], &told["key_id"]), (&json!("acme"), &json!("login/user_42")));
    assert_eq!(told["scopes"], json!(["sql:read"]));
    assert_eq!(world.whoami(&broker, &filed).await.body["tenant"], "filed");
    // It is there, and not for tokens of this issuer.
    world.whoami(&broker, &other).await.assert_problem(401, "unauthenticated", "not_applied");

    // The token is known by now. What it may do is what its tenant may do now.
    let named = async || {
        let path = format!("{}/v1/db/app/statements/one", broker.url);
        world.send(world.http.post(path).bearer_auth(&acme).body("{}")).await
    };
    assert_eq!(named().await.status, 200);
    let patched = world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"policy": {"databases": []}}))).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    assert_eq!(named().await.status, 404, "in force with the answer");
    let patched = world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"policy": {"databases": ["app"]}}))).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    assert_eq!(named().await.status, 200);

    world.cli(&["tenant", "suspend", "acme"]).await.says("suspended");
    soon(&world, &broker, &acme, 403).await;
    world.cli(&["tenant", "resume", "acme"]).await.says("acme");
    soon(&world, &broker, &acme, 200).await;
    world.cli(&["tenant", "delete", "acme", "--yes"]).await.says("acme");
    soon(&world, &broker, &acme, 401).await;
    assert_eq!(world.whoami(&broker, &filed).await.status, 200, "nobody else notices");
}
