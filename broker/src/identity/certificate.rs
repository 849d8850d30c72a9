//! Client certificates: the names in them that stand for tenants. The listener has verified the certificate.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::error::AuthError;
use super::principal::{Grant, Identity, Principal, Via};
use crate::base::TenantId;
use crate::config::{CertificateConfig, TenantConfig};
use crate::tenant::Tenant;

/// Principals by the name in a certificate.
#[derive(Default)]
pub struct Certificates(HashMap<String, Principal>);

impl Certificates {
    /// Resolves what the tenants' configurations say.
    pub fn new<'a>(
        configs: impl Iterator<Item = (&'a String, &'a TenantConfig)>,
        tenants: &BTreeMap<TenantId, Arc<Tenant>>,
    ) -> Self {
        let of = |(tenant, config): (&String, &'a TenantConfig)| {
            let tenant = Arc::clone(&tenants[tenant.as_str()]);
            config.certificates.iter().map(move |one| (one.name.clone(), resolve(one, &tenant)))
        };
        Self(configs.flat_map(of).collect())
    }

    /// Whose a certificate with these names is, if anybody's. Errors: [`AuthError::Mismatch`] where its names are of several
    /// tenants.
    pub fn principal(&self, names: &[String]) -> Result<Option<&Principal>, AuthError> {
        let mut known = names.iter().filter_map(|name| self.0.get(name));
        let Some(first) = known.next() else { return Ok(None) };
        if known.any(|other| other.tenant.id != first.tenant.id) { Err(AuthError::Mismatch) } else { Ok(Some(first)) }
    }
}

fn resolve(config: &CertificateConfig, tenant: &Arc<Tenant>) -> Principal {
    let grant = Grant {
        tenant: Arc::clone(tenant),
        identity: Identity::new(Via::Certificate, &config.name),
        scopes: config.scopes.clone(),
        statements: config.statements.as_deref().map(Arc::from),
        settings: BTreeMap::new(),
    };
    grant.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Scope;
    use crate::identity::principal::tests::tenant;

    #[test]
    fn a_name_finds_its_tenant_exactly_and_names_of_two_tenants_find_none() {
        let config = |names: &[&str]| TenantConfig {
            certificates: names
                .iter()
                .map(|name| CertificateConfig {
                    name: (*name).to_owned(),
                    scopes: vec![Scope::SqlRead],
                    statements: None,
                })
                .collect(),
            ..TenantConfig::default()
        };
        let configs = BTreeMap::from([
            ("acme".to_owned(), config(&["spiffe://corp/orders", "orders.corp"])),
            ("other".to_owned(), config(&["spiffe://corp/stock"])),
        ]);
        let tenants = configs.keys().map(|name| (TenantId::new(name), tenant(name))).collect();
        let known = Certificates::new(configs.iter(), &tenants);
        let told = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            known.principal(&names).map(|found| found.map(|who| (who.tenant.id.to_string(), who.identity.to_string())))
        };
        let acme = Some(("acme".to_owned(), "spiffe://corp/orders".to_owned()));
        assert_eq!(told(&["unknown", "spiffe://corp/orders", "orders.corp"]), Ok(acme));
        assert_eq!(told(&["spiffe://corp/ordersX", "SPIFFE://corp/orders"]), Ok(None));
        assert_eq!(told(&[]), Ok(None));
        assert_eq!(told(&["spiffe://corp/orders", "spiffe://corp/stock"]), Err(AuthError::Mismatch));
    }
}
