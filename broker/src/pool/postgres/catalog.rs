//! What one database says of itself: the names that may stand before a parenthesis without being anybody's own function.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::TryStreamExt;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};

/// Built-in functions and keywords, less any name that also exists outside `pg_catalog`: an overload may be the one called.
const QUERY: &str = "SELECT proname::text FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace \
     EXCEPT SELECT proname::text FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace \
       AND pronamespace <> 'information_schema'::regnamespace \
     UNION SELECT word FROM pg_catalog.pg_get_keywords()";

/// The names of one database, once they have been read. About 3,000 of them, 200 KiB.
#[derive(Default)]
pub struct Catalog {
    names: RwLock<Option<Arc<HashSet<String>>>>,
}

impl Catalog {
    /// The names, if they are known. Until then every function counts as somebody's own.
    pub fn names(&self) -> Option<Arc<HashSet<String>>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the names through `client`.
    pub async fn load(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
        let rows = client.query_raw(QUERY, none).await?;
        let names = rows.map_ok(|row| row.get::<_, Text>(0).0).try_collect().await?;
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(names));
        Ok(())
    }

    /// Forgets the names after a schema change.
    pub fn forget(&self) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A value as the server prints it.
struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
