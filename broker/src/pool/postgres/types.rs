//! What a database's types are: one memory for all sessions of a pool.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tokio_postgres::types::{Field, Kind, Type};

use super::ask::{self, AskError};
use super::channel::Channel;

/// Everything about some types that writing their values needs. Composites come with their fields as JSON.
const QUERY: &str = "SELECT t.oid::text, t.typname::text, n.nspname::text, t.typtype::text, t.typelem::text, \
       coalesce(r.rngsubtype, 0)::text, t.typbasetype::text, \
       CASE WHEN t.typtype = 'c' THEN (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.atttypid::int8) \
         ORDER BY a.attnum), '[]') FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)::text END \
     FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid WHERE t.oid = ANY ($1::pg_catalog.oid[])";

/// Composites within composites deeper than this are taken as text; a server allows no type that holds itself.
const MAX_DEPTH: u32 = 32;

/// A type that is not built in, as the catalogue has it.
struct Row {
    name: String,
    schema: String,
    kind: String,
    element: u32,
    subtype: u32,
    base: u32,
    fields: Vec<(String, u32)>,
}

/// The types of one database that are not built in.
#[derive(Default)]
pub struct Types {
    known: RwLock<HashMap<u32, Type>>,
}

impl Types {
    /// The type of an object id, if it is built in or known.
    pub fn get(&self, oid: u32) -> Option<Type> {
        Type::from_oid(oid).or_else(|| self.known.read().unwrap_or_else(PoisonError::into_inner).get(&oid).cloned())
    }

    /// Looks up those of `oids` that are not known yet, and the types they are made of.
    pub async fn learn(&self, channel: &mut Channel, oids: &[u32]) -> Result<(), AskError> {
        let mut wanted: Vec<u32> = oids.iter().copied().filter(|oid| self.get(*oid).is_none()).collect();
        let mut rows: HashMap<u32, Row> = HashMap::new();
        while !wanted.is_empty() {
            wanted.sort_unstable();
            wanted.dedup();
            let list: Vec<String> = wanted.iter().map(u32::to_string).collect();
            let list = format!("{{{}}}", list.join(","));
            let found = ask::rows(channel, QUERY, &[Some(&list)]).await?;
            rows.extend(found.iter().filter_map(|columns| read(columns)));
            // A type that has just been dropped stays unknown, and is asked for no more.
            let missing = |oid: &u32| self.get(*oid).is_none() && !rows.contains_key(oid) && !wanted.contains(oid);
            wanted = rows.values().flat_map(Row::made_of).filter(missing).collect();
        }
        if rows.is_empty() {
            return Ok(());
        }
        let made: Vec<(u32, Type)> = rows.keys().map(|oid| (*oid, self.make(*oid, &rows, MAX_DEPTH))).collect();
        self.known.write().unwrap_or_else(PoisonError::into_inner).extend(made);
        Ok(())
    }

    /// The type of an object id; one that could not be learnt reads as text.
    pub fn get_or_text(&self, oid: u32) -> Type {
        self.get(oid).unwrap_or(Type::TEXT)
    }

    /// Forgets all: the schema has changed.
    pub fn forget(&self) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn make(&self, oid: u32, rows: &HashMap<u32, Row>, depth: u32) -> Type {
        if let Some(known) = self.get(oid) {
            return known;
        }
        let (Some(row), Some(depth)) = (rows.get(&oid), depth.checked_sub(1)) else { return Type::TEXT };
        let of = |oid| self.make(oid, rows, depth);
        let kind = match row.kind.as_str() {
            "e" => Kind::Enum(Vec::new()),
            "p" => Kind::Pseudo,
            _ if row.base != 0 => Kind::Domain(of(row.base)),
            _ if row.element != 0 => Kind::Array(of(row.element)),
            "c" => Kind::Composite(row.fields.iter().map(|(name, oid)| Field::new(name.clone(), of(*oid))).collect()),
            _ if row.subtype != 0 => Kind::Range(of(row.subtype)),
            _ => Kind::Simple,
        };
        Type::new(row.name.clone(), oid, kind, row.schema.clone())
    }
}

impl Row {
    fn made_of(&self) -> Vec<u32> {
        let fields = self.fields.iter().map(|(_, oid)| *oid);
        [self.element, self.subtype, self.base].into_iter().chain(fields).filter(|oid| *oid != 0).collect()
    }
}

fn read(columns: &[Option<String>]) -> Option<(u32, Row)> {
    let text = |at: usize| columns.get(at)?.clone();
    let oid = |at: usize| columns.get(at)?.as_deref()?.parse().ok();
    let fields = text(7).and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let row = Row {
        name: text(1)?,
        schema: text(2)?,
        kind: text(3)?,
        element: oid(4)?,
        subtype: oid(5)?,
        base: oid(6)?,
        fields,
    };
    Some((oid(0)?, row))
}
