//! From a request's headers and its connection to a principal.
//!
//! A bearer token is an API key or a JWT; without one a client certificate speaks, and beside one it must agree. The breaker is asked
//! before any secret is looked at.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use std::net::{IpAddr, Ipv4Addr};
use tokio::time::Instant;

use super::peer::Peer;
use crate::broker::Broker;
use crate::identity::key::secret_is;
use crate::identity::{Credential, Net};
use crate::observe::Event;

pub use crate::identity::{AuthError, Principal};

/// What is compared where there is no such key: as much work as for a known one, so that the time does not tell them apart.
const NOBODY: [u8; 32] = [0; 32];

/// A credential that was not taken, and what its failures are counted under.
type Refused = (AuthError, Option<Credential>);

/// Who sent these headers from there. It waits only for keys of a token's issuer that are not known yet.
pub async fn principal(
    broker: &Broker,
    headers: &HeaderMap,
    peer: Option<&Peer>,
    now: Instant,
) -> Result<Principal, AuthError> {
    let address = address(peer);
    let found = match (token(headers), certificate(broker, peer)) {
        (_, Err(error)) => Err((error, None)),
        (Err(AuthError::Missing), Ok(Some(certified))) => return Ok(certified.clone()),
        (Err(error), _) => {
            let refused = broker.breaker.admit(address.into(), None, now).err();
            Err((refused.unwrap_or(error), None))
        }
        (Ok(text), Ok(certified)) => {
            let found = bearer(broker, text, address.into(), now).await;
            match (found, certified) {
                // A certificate of one tenant with the key of another: one of them is not in its owner's hands.
                (Ok(found), Some(certified)) if found.tenant.id != certified.tenant.id => {
                    Err((AuthError::Mismatch, None))
                }
                (found, _) => found,
            }
        }
    };
    found.map_err(|refused| note(broker, refused, address, now))
}

/// Errors unless the headers carry the admin key. Without one configured nothing is asked: loopback only, as validated.
pub fn admin(broker: &Broker, headers: &HeaderMap, peer: Option<&Peer>, now: Instant) -> Result<(), AuthError> {
    let Some(wanted) = &broker.admin_key else { return Ok(()) };
    let address = address(peer);
    let credential = broker.breaker.admin();
    let checked = token(headers).and_then(|offered| {
        broker.breaker.admit(address.into(), Some(credential), now)?;
        if secret_is(offered, wanted) { Ok(()) } else { Err(AuthError::Invalid) }
    });
    match checked {
        Ok(()) => {
            broker.breaker.succeeded(address.into(), credential, now);
            Ok(())
        }
        Err(error) => Err(note(broker, (error, Some(credential)), address, now)),
    }
}

/// The id of a key that the headers claim, if there is one of that id.
pub fn claimed(broker: &Broker, headers: &HeaderMap) -> Option<String> {
    let (id, _) = token(headers).ok()?.split_once('.')?;
    (broker.keys.contains_key(id) || broker.directory.key(id).is_some()).then(|| id.to_owned())
}

async fn bearer(broker: &Broker, text: &str, net: Net, now: Instant) -> Result<Principal, Refused> {
    if broker.issuers.is_token(text) {
        // Boxed: what few requests need makes no other larger.
        return Box::pin(jwt(broker, text, net, now)).await;
    }
    let Some((id, secret)) = text.split_once('.') else {
        let refused = broker.breaker.admit(net, None, now).err();
        return Err((refused.unwrap_or(AuthError::Malformed), None));
    };
    let Some(key) = broker.keys.get(id) else { return stored(broker, id, secret, net, now) };
    let credential = Some(key.credential);
    broker.breaker.admit(net, credential, now).map_err(|error| (error, credential))?;
    let found = key.verify(secret, Timestamp::now()).map_err(|error| (error, credential))?;
    broker.breaker.succeeded(net, key.credential, now);
    Ok(found.clone())
}

/// The same for a key of the control database, or of nobody.
fn stored(broker: &Broker, id: &str, secret: &str, net: Net, now: Instant) -> Result<Principal, Refused> {
    let found = broker.directory.key(id);
    let credential = found.as_ref().map(|_| broker.breaker.key(id));
    let refused = |error| (error, credential);
    broker.breaker.admit(net, credential, now).map_err(refused)?;
    let is_right = secret_is(secret, found.as_ref().map_or(&NOBODY, |found| &found.sha256));
    let found = found.filter(|_| is_right).ok_or(refused(AuthError::Invalid))?;
    let principal = found.resolve(Timestamp::now(), broker).map_err(refused)?;
    broker.breaker.succeeded(net, broker.breaker.key(id), now);
    Ok(principal)
}

async fn jwt(broker: &Broker, text: &str, net: Net, now: Instant) -> Result<Principal, Refused> {
    let tenants = |name: &str| broker.tenant(name);
    let read = match broker.issuers.known_or_read(text, Timestamp::now().as_second(), &tenants) {
        // Verified before: no guess, whoever else guesses from there.
        Ok(Ok(known)) => return Ok(known),
        Ok(Err(read)) => read,
        Err(fault) => {
            let refused = broker.breaker.admit(net, None, now).err();
            return Err((refused.unwrap_or(fault.into()), None));
        }
    };
    let credential = read.credential(&broker.breaker);
    broker.breaker.admit(net, Some(credential), now).map_err(|error| (error, Some(credential)))?;
    let found = broker.issuers.verify(read, &tenants).await.map_err(|error| (error, Some(credential)))?;
    broker.breaker.succeeded(net, credential, now);
    Ok(found)
}

fn certificate<'b>(broker: &'b Broker, peer: Option<&Peer>) -> Result<Option<&'b Principal>, AuthError> {
    match peer.and_then(|peer| peer.names.as_deref()) {
        Some(names) => broker.certificates.principal(names),
        None => Ok(None),
    }
}

/// Counts a refusal, and what follows from it.
fn note(broker: &Broker, (error, credential): Refused, address: IpAddr, now: Instant) -> AuthError {
    if let AuthError::TooManyFailures { by, .. } = &error {
        broker.metrics.auth.refused(by.as_str());
    }
    if let Some(reason) = error.reason() {
        broker.metrics.auth.failed(reason);
    }
    let may_be_a_guess = error.may_be_a_guess();
    if may_be_a_guess && broker.breaker.failed(address.into(), credential, &broker.breaker_limits, now) {
        tracing::warn!(client.address = %address, "too many failed attempts from {address}: refused for a while");
        if let Some(audit) = &broker.audit {
            audit.tell(Event { address: Some(address), outcome: "blocked", ..Event::new("authenticate") });
        }
    }
    error
}

fn address(peer: Option<&Peer>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address)
}

fn token(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        // Whoever stands before us may have looked at the other one.
        return Err(AuthError::Malformed);
    }
    let text = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(AuthError::Malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthError::Malformed) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::base::hex::hex;
    use crate::config::load_text;
    use crate::identity::Via;

    /// A key and its entry in the configuration.
    fn key(id: &str) -> (String, String) {
        let sha256 = hex(&Sha256::digest(format!("secret of {id}").replace(' ', "-")));
        (format!("{id}.secret-of-{id}"), format!("{{ id = \"{id}\", sha256 = \"{sha256}\", scopes = [\"redis\"] }}"))
    }

    fn broker(acme: &str, other: &str) -> Arc<Broker> {
        let text = format!(
            "[tenants.acme]\nkeys = [{acme}]\ncertificates = [{{ name = \"spiffe://corp/acme\", scopes = [\"sql:read\"] }}]\n\
             [tenants.other]\nkeys = [{other}]\n",
        );
        Broker::new(&load_text(&text, std::iter::empty()).expect("is good")).expect("is built")
    }

    fn headers(token: Option<&str>) -> HeaderMap {
        let bearer = |token| HeaderValue::from_str(&format!("Bearer {token}")).expect("is text");
        token.map(|token| (AUTHORIZATION, bearer(token))).into_iter().collect()
    }

    fn peer(names: Option<&[&str]>) -> Peer {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        Peer { address: IpAddr::from([192, 0, 2, 7]), names }
    }

    #[tokio::test]
    async fn a_certificate_speaks_alone_and_must_agree_with_what_is_beside_it() {
        let [(acme, acme_entry), (other, other_entry)] = ["acme", "other"].map(key);
        let broker = broker(&acme_entry, &other_entry);
        let ask = async |token: Option<&str>, names: Option<&[&str]>| {
            let who = principal(&broker, &headers(token), Some(&peer(names)), Instant::now()).await?;
            Ok::<_, AuthError>((who.tenant.id.to_string(), who.identity.via))
        };
        let acme_s = Some(&["host.corp", "spiffe://corp/acme"][..]);
        assert_eq!(ask(None, acme_s).await, Ok(("acme".to_owned(), Via::Certificate)));
        assert_eq!(ask(Some(&acme), acme_s).await, Ok(("acme".to_owned(), Via::Key)));
        assert_eq!(ask(Some(&other), acme_s).await, Err(AuthError::Mismatch), "replayed by another tenant");
        assert_eq!(ask(Some("hk_none.wrong"), acme_s).await, Err(AuthError::Invalid), "no way around the key");
        assert_eq!(ask(Some(&other), Some(&["unknown.corp"])).await, Ok(("other".to_owned(), Via::Key)));
        for names in [None, Some(&[][..]), Some(&["unknown.corp"][..])] {
            assert_eq!(ask(None, names).await, Err(AuthError::Missing));
        }
    }

    #[tokio::test]
    async fn certificates_of_others_shown_again_and_again_are_refused_before_the_key() {
        let [(acme, acme_entry), (other, other_entry)] = ["acme", "other"].map(key);
        let broker = broker(&acme_entry, &other_entry);
        let ask = async |token: &str, names: Option<&[&str]>| {
            principal(&broker, &headers(Some(token)), Some(&peer(names)), Instant::now()).await.map(|_| ())
        };
        for _ in 0..broker.breaker_limits.address_failures {
            assert_eq!(ask(&other, Some(&["spiffe://corp/acme"])).await, Err(AuthError::Mismatch));
        }
        assert!(matches!(ask(&acme, None).await, Err(AuthError::TooManyFailures { .. })));
        assert_eq!(ask(&other, None).await, Ok(()), "its own key was good from there");
    }

    #[test]
    fn an_authorization_header_stands_once_and_is_a_bearer_s() {
        let mut twice = headers(Some("a.b"));
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer c.d"));
        assert_eq!(token(&twice), Err(AuthError::Malformed));
        for (text, told) in [
            ("bearer  a.b ", Ok("a.b")),
            ("Basic a.b", Err(AuthError::Malformed)),
            ("Bearer", Err(AuthError::Malformed)),
            ("", Err(AuthError::Malformed)),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(text).expect("is text"))]);
            assert_eq!(token(&headers), told, "{text}");
        }
    }
}
