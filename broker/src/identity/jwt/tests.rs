use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::config::{Scope, load_text};
use crate::identity::Grant;
use crate::identity::principal::tests::tenant;
use crate::observe::Metrics;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const BEFORE: &str = "fedcba9876543210fedcba9876543210";

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the end of time")
}

struct Gate {
    issuers: Issuers,
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
}

impl Gate {
    fn new(more: &str) -> Self {
        let text = format!(
            "[tenants.acme]\n[tenants.other]\n[identity.jwt.login]\nissuer = \"https://login.example\"\naudience = [\"hearth\", \"hearth-eu\"]\n\
             algorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\nprevious_secret = \"{BEFORE}\"\nscopes = [\"sql:read\", \"redis\"]\n{more}"
        );
        let config = load_text(&text, std::iter::empty()).expect("is good");
        let tenants = config.tenants.keys().map(|name| (TenantId::new(name), tenant(name))).collect();
        let mut fault = |path: String, message: String| panic!("{path}: {message}");
        let metrics = Metrics::new();
        let issuers = Issuers::new(&config.identity.jwt, &tenants, None, &metrics.auth, &mut fault);
        Self { issuers, tenants }
    }

    fn tenant(&self, name: &str) -> Result<Arc<Tenant>, AuthError> {
        Ok(self.tenants.get(name).map(Arc::clone).ok_or(TokenFault::Tenant)?)
    }

    fn known_or_read<'a>(&self, token: &'a str, now: i64) -> Result<Result<Principal, Unverified<'a>>, TokenFault> {
        self.issuers.known_or_read(token, now, &|name: &str| self.tenant(name))
    }

    async fn ask(&self, token: &str) -> Result<Principal, AuthError> {
        match self.known_or_read(token, now())? {
            Ok(known) => Ok(known),
            Err(unverified) => self.issuers.verify(unverified, &|name: &str| self.tenant(name)).await,
        }
    }

    async fn fault(&self, token: &str) -> Option<TokenFault> {
        match self.ask(token).await {
            Ok(_) => None,
            Err(AuthError::Token(fault)) => Some(fault),
            Err(other) => panic!("{other}"),
        }
    }
}

fn claims() -> Value {
    json!({"iss": "https://login.example", "aud": "hearth", "sub": "user_42", "exp": now() + 600, "org": {"id": "acme"}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn signed(secret: &str, claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("is signed")
}

#[tokio::test]
async fn a_good_token_is_its_tenant_s_and_is_verified_once() {
    let gate = Gate::new("tenant = \"acme\"\nsettings = { \"app.user\" = \"sub\", \"app.all\" = \"*\" }");
    let token = signed(SECRET, &claims());
    assert!(gate.issuers.is_token(&token) && !gate.issuers.is_token("hk_abc.def"));
    let who = gate.ask(&token).await.expect("is good");
    assert_eq!((who.tenant.id.as_str(), &*who.identity.name), ("acme", "login/user_42"));
    assert_eq!(
        (who.scopes.as_slice(), who.settings["app.user"].as_str()),
        (&[Scope::SqlRead, Scope::Redis][..], "user_42")
    );
    assert!(who.settings["app.all"].contains("\"org\":{\"id\":\"acme\"}"));
    let again = gate.known_or_read(&token, now()).expect("is known");
    assert!(
        again.is_ok_and(|known| std::ptr::eq::<Grant>(&raw const *known, &raw const *who)),
        "no signature is looked at again"
    );
    let late = gate.known_or_read(&token, now() + 631).expect("can be read");
    assert!(late.is_err(), "past its end and the leeway it is known no more");
    assert_eq!(gate.fault(&signed(BEFORE, &claims())).await, None, "while secrets rotate both are good");
}

#[tokio::test]
async fn times_audience_issuer_and_types_are_held() {
    let gate = Gate::new("tenant = \"acme\"");
    for (claims, fault) in [
        (with("exp", json!(now() - 60)), Some(TokenFault::Expired)),
        (with("exp", json!(now() - 10)), None),
        (with("nbf", json!(now() + 60)), Some(TokenFault::NotYet)),
        (with("nbf", json!(now() + 10)), None),
        (with("nbf", json!("soon")), Some(TokenFault::Claims)),
        (with("exp", json!("never")), Some(TokenFault::Claims)),
        (with("exp", json!(-1)), Some(TokenFault::Claims)),
        (with("exp", Value::Null), Some(TokenFault::Claims)),
        (with("aud", json!("somebody else")), Some(TokenFault::Audience)),
        (with("aud", json!(["x", "hearth-eu"])), None),
        (with("aud", json!([])), Some(TokenFault::Audience)),
        (with("aud", json!(7)), Some(TokenFault::Claims)),
        (with("aud", Value::Null), Some(TokenFault::Claims)),
        (with("iss", json!("https://login.example/")), Some(TokenFault::Issuer)),
        (with("iss", json!(["https://login.example"])), Some(TokenFault::Issuer)),
        (with("iss", Value::Null), Some(TokenFault::Issuer)),
        (with("sub", json!(42)), Some(TokenFault::Claims)),
        (with("sub", json!({"a": 1})), Some(TokenFault::Malformed)),
    ] {
        assert_eq!(gate.fault(&signed(SECRET, &claims)).await, fault, "{claims}");
    }
}

#[tokio::test]
async fn what_is_not_signed_as_it_should_be_is_refused() {
    let gate = Gate::new("tenant = \"acme\"");
    let good = signed(SECRET, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let headed = |header: &str| format!("{}.{}.{}", base64(header), parts[1], parts[2]);
    let critical = {
        let asking = Header { crit: Some(vec!["exp".to_owned()]), ..Header::default() };
        encode(&asking, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).expect("is signed")
    };
    let payload = base64(&claims().to_string().replace("user_42", "user_43"));
    let huge = signed(SECRET, &with("x", json!("y".repeat(9_000))));
    for (token, fault) in [
        (format!("{}.{}.", base64("{\"alg\":\"none\"}"), parts[1]), TokenFault::Algorithm),
        (headed("{\"alg\":\"None\",\"typ\":\"JWT\"}"), TokenFault::Algorithm),
        (headed("{\"alg\":\"HS512\"}"), TokenFault::Algorithm),
        (headed("{\"alg\":\"RS256\"}"), TokenFault::Algorithm),
        (headed("{\"alg\":\"ES256\"}"), TokenFault::Algorithm),
        (headed("{\"typ\":\"JWT\"}"), TokenFault::Malformed),
        (headed("{\"alg\":\"HS256\",\"alg\":\"none\"}"), TokenFault::Malformed),
        (headed("{\"alg\":\"HS256\",\"b64\":false}"), TokenFault::Signature),
        (critical, TokenFault::Critical),
        (signed("another secret of thirty-two byte", &claims()), TokenFault::Signature),
        (format!("{}.{payload}.{}", parts[0], parts[2]), TokenFault::Signature),
        (format!("{}.{}.", parts[0], parts[1]), TokenFault::Signature),
        (format!("{}.{}.{}!", parts[0], parts[1], parts[2]), TokenFault::Malformed),
        (format!("{}..{}", parts[0], parts[2]), TokenFault::Malformed),
        ("eyJ.eyJ.x".to_owned(), TokenFault::Malformed),
        ("..".to_owned(), TokenFault::Malformed),
        (huge, TokenFault::TooLong),
    ] {
        assert_eq!(gate.fault(&token).await, Some(fault), "{token}");
    }
    assert_eq!(gate.issuers.tokens.len(), 0, "nothing of these is remembered");
}

#[tokio::test]
async fn a_claim_names_the_tenant_and_roles_within_what_is_allowed() {
    let more = "tenant_claim = \"org.id\"\ntenants = [\"acme\"]\nscopes_claim = \"roles\"\nroles = { reader = [\"sql:read\"], all = [\"sql:read\", \"sql:write\", \"redis\"] }";
    let gate = Gate::new(more);
    let scopes =
        async |roles: Value| gate.ask(&signed(SECRET, &with("roles", roles))).await.map(|who| who.scopes.clone());
    assert_eq!(scopes(json!("reader other")).await, Ok(vec![Scope::SqlRead]));
    assert_eq!(scopes(json!(["all"])).await, Ok(vec![Scope::SqlRead, Scope::Redis]), "never more than the issuer may");
    assert_eq!(scopes(json!("sql:read redis")).await, Ok(vec![]), "roles are the issuer's words, not ours");
    assert_eq!(scopes(Value::Null).await, Ok(vec![]));
    assert_eq!(scopes(json!(["all", 1])).await, Err(TokenFault::Claims.into()));
    for org in
        [json!({"id": "other"}), json!({"id": "nobody"}), json!({"id": ["acme"]}), json!({"id": ""}), json!("acme")]
    {
        assert_eq!(gate.fault(&signed(SECRET, &with("org", org.clone()))).await, Some(TokenFault::Tenant), "{org}");
    }
    let plain = Gate::new("tenant = \"acme\"\nscopes_claim = \"scope\"");
    let who = plain.ask(&signed(SECRET, &with("scope", json!("openid redis sql:write")))).await.expect("is good");
    assert_eq!(who.scopes, [Scope::Redis]);
}

#[tokio::test]
async fn known_tokens_are_bounded_and_what_is_used_stays() {
    let gate = Gate::new("tenant = \"acme\"");
    let kept = signed(SECRET, &claims());
    let first = gate.ask(&kept).await.expect("is good");
    for n in 0..20_000 {
        let hash: [u8; 32] = Sha256::digest(format!("{n}")).into();
        let issuer = gate.issuers.by_issuer.values().next().expect("there is one");
        let (expires, issuer) = (now() + 600, Arc::clone(issuer));
        gate.issuers.tokens.put(hash, Cached { principal: first.clone(), expires, version: 0, issuer });
        if n % 500 == 0 {
            let known = gate.known_or_read(&kept, now()).expect("can be read");
            assert!(known.is_ok(), "after {n}");
        }
    }
    assert!(gate.issuers.tokens.len() <= 16_384);
}
