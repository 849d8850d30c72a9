//! What one database says of itself: the names that may stand before a parenthesis without being anybody's own function.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::ask::{self, AskError};
use super::channel::Channel;

/// Built-in functions and keywords, less any name that also exists outside `pg_catalog`: an overload may be the one called.
/// Beside each, whether every overload is free of effects by the server's own account. Then the functions of others that one
/// argument is enough for: `u.f` calls `f(u)`.
const QUERY: &str = "SELECT name, pg_catalog.bool_and(free)::text FROM (\
       SELECT proname::text AS name, provolatile <> 'v' AS free FROM pg_catalog.pg_proc \
         WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace \
       UNION ALL SELECT word, true FROM pg_catalog.pg_get_keywords()) AS builtin \
     WHERE name NOT IN (SELECT proname::text FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
       AND pronamespace <> 'information_schema'::pg_catalog.regnamespace) GROUP BY name \
     UNION ALL SELECT DISTINCT proname::text, 'own' FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
       AND pronamespace <> 'information_schema'::pg_catalog.regnamespace AND pronargs >= 1 AND pronargs - pronargdefaults <= 1";

/// Functions that the server calls volatile only because they answer something else each time.
const FREE_ALL_THE_SAME: [&str; 6] =
    ["random", "clock_timestamp", "timeofday", "gen_random_uuid", "pg_sleep", "pg_sleep_for"];

/// How long the names are believed: migrations that do not pass through the broker make functions too.
const BELIEVED: Duration = Duration::from_mins(5);

/// The names of one database.
#[derive(Debug, Default)]
pub struct Names {
    /// Name → free of effects.
    builtin: HashMap<String, bool>,
    /// Functions of others that can be called as if they were a column.
    of_a_row: HashSet<String>,
}

impl Names {
    /// Takes the server's names, each with whether it is free of effects, and those of others' functions of one row.
    pub fn new(names: impl Iterator<Item = (String, bool)>, of_a_row: impl Iterator<Item = String>) -> Self {
        let free = |(name, free): (String, bool)| {
            let free = free || FREE_ALL_THE_SAME.contains(&name.as_str());
            (name, free)
        };
        Self { builtin: names.map(free).collect(), of_a_row: of_a_row.collect() }
    }

    /// True for a function or keyword of the server's own, and of nobody else's.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains_key(name)
    }

    /// True for somebody's own function that a name behind a dot may call.
    pub fn is_own_of_a_row(&self, name: &str) -> bool {
        self.of_a_row.contains(name)
    }

    /// True for a built-in that changes nothing.
    pub fn is_free_of_effects(&self, name: &str) -> bool {
        self.builtin.get(name).is_some_and(|free| *free)
    }
}

/// What is known of one database's names, once they have been read. About 3,000 of them, 200 KiB.
#[derive(Default)]
pub struct Catalog {
    names: RwLock<Option<(Instant, Arc<Names>)>>,
}

impl Catalog {
    /// The names, if they are known. Until then every function counts as somebody's own.
    pub fn names(&self) -> Option<Arc<Names>> {
        let held = self.names.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|(read, _)| read.elapsed() < BELIEVED).map(|(_, names)| Arc::clone(names))
    }

    /// Reads the names over `channel`.
    pub async fn load(&self, channel: &mut Channel) -> Result<(), AskError> {
        let rows = ask::rows(channel, QUERY, &[]).await?;
        let text = |value: Option<String>| value.unwrap_or_default();
        let read = rows.into_iter().filter_map(|row| <[_; 2]>::try_from(row).ok());
        let read = read.map(|[name, kind]| (text(name), text(kind)));
        let (own, builtin): (Vec<_>, Vec<_>) = read.partition(|(_, kind)| kind == "own");
        let builtin = builtin.into_iter().map(|(name, free)| (name, free == "true"));
        let names = Names::new(builtin, own.into_iter().map(|(name, _)| name));
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::new(names)));
        Ok(())
    }

    /// Forgets the names after a schema change.
    pub fn forget(&self) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
