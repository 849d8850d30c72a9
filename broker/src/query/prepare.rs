//! From a statement's text to one prepared on a session, with the types of its placeholders and columns; and binding.

use std::sync::Arc;

use super::error::QueryError;
use super::statement::Statement;
use crate::encode::TextParam;
use crate::encode::columns::Field;
use crate::pool::Lease;
use crate::pool::postgres::ask::{self, AskError, Description, ToPrepare};
use crate::pool::postgres::types::Types;
use crate::pool::postgres::{Broken, Channel, Prepared, ServerError, Shape};

/// Why a statement could not be prepared. It had no effect.
#[derive(Debug)]
pub enum Unprepared {
    /// The request is at fault.
    Refused(QueryError),
    /// The server refused it.
    Server(Box<ServerError>),
    /// The connection is over.
    Broken(Broken),
}

impl From<AskError> for Unprepared {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error) => Self::Server(error),
            AskError::Broken(broken) => Self::Broken(broken),
        }
    }
}

/// The statement as it is prepared on the lease's session already.
pub fn known(lease: &mut Lease, statement: &Statement<'_>) -> Option<Arc<Prepared>> {
    lease.session_mut().prepared.get(&statement.key())
}

/// Prepares statements in one round trip, and one more for types that are met for the first time. The caller ends their
/// use with [`keep_or_close`].
///
/// The outer error ends the connection; an inner one is one statement's.
pub async fn prepare(
    lease: &mut Lease,
    statements: &[&Statement<'_>],
) -> Result<Vec<Result<Arc<Prepared>, Unprepared>>, Broken> {
    let mut named = Vec::with_capacity(statements.len());
    for statement in statements {
        let types = types(&mut lease.session_mut().channel, statement).await;
        if let Err(Unprepared::Broken(broken)) = types {
            return Err(broken);
        }
        named.push((lease.session_mut().next_name(), types));
    }
    let wanted: Vec<ToPrepare<'_>> = named
        .iter()
        .zip(statements)
        .filter_map(|((name, types), statement)| {
            Some(ToPrepare { name, sql: statement.sql, types: types.as_ref().ok()? })
        })
        .collect();
    let described = ask::prepare(&mut lease.session_mut().channel, &wanted).await?;
    learn_types(lease, &described).await?;
    let mut described = described.into_iter();
    let mut prepared = Vec::with_capacity(statements.len());
    for (name, types) in named {
        let answer = match types {
            Err(error) => Err(error),
            Ok(_) => match described.next().expect("one answer a statement") {
                Err(error) => Err(Unprepared::Server(error)),
                Ok(description) => Ok(made(lease, name, &description)),
            },
        };
        prepared.push(answer);
    }
    Ok(prepared)
}

fn made(lease: &Lease, name: String, description: &Description) -> Arc<Prepared> {
    let types = lease.database().types();
    let params = description.params.iter().map(|oid| types.get_or_text(*oid)).collect();
    let field = |(name, oid): &(String, u32)| Field { name: name.clone(), ty: types.get_or_text(*oid) };
    let fields = description.columns.iter().map(field).collect();
    Arc::new(Prepared { name, shape: Shape::new(params, fields) })
}

/// The shape of a statement whose types are all known already.
pub fn shape_of_known(types: &Types, description: &Description) -> Option<Shape> {
    let params: Option<Vec<_>> = description.params.iter().map(|oid| types.get(*oid)).collect();
    let field = |(name, oid): &(String, u32)| Some(Field { name: name.clone(), ty: types.get(*oid)? });
    let fields: Option<Vec<_>> = description.columns.iter().map(field).collect();
    Some(Shape::new(params?, fields?))
}

async fn learn_types(lease: &mut Lease, described: &[Result<Description, Box<ServerError>>]) -> Result<(), Broken> {
    let database = Arc::clone(lease.database());
    let mut met = Vec::new();
    for description in described.iter().flatten() {
        met.extend(description.params.iter().copied().chain(description.columns.iter().map(|column| column.1)));
    }
    match database.types().learn(&mut lease.session_mut().channel, &met).await {
        // A type that cannot be looked up reads as text.
        Ok(()) | Err(AskError::Refused(_)) => Ok(()),
        Err(AskError::Broken(broken)) => Err(broken),
    }
}

/// One statement, known or prepared now.
pub async fn one(lease: &mut Lease, statement: &Statement<'_>) -> Result<Arc<Prepared>, Unprepared> {
    if let Some(known) = known(lease, statement) {
        return Ok(known);
    }
    let made = prepare(lease, &[statement]).await.map_err(Unprepared::Broken)?;
    made.into_iter().next().expect("one answer a statement")
}

/// Once nothing more is sent of a unit: keeps its statements that were seen before, and closes the others along with whatever
/// is sent next.
pub fn keep_or_close<'s>(lease: &mut Lease, used: impl Iterator<Item = (&'s Statement<'s>, &'s Arc<Prepared>)>) {
    for (statement, prepared) in used {
        let is_new = known(lease, statement).is_none_or(|kept| kept.name != prepared.name);
        if is_new && lease.database().sightings().seen_before(&statement.key()) {
            lease.session_mut().keep(&statement.key(), prepared);
        }
    }
    lease.session_mut().close_loose();
}

/// The object ids of the types that the request names; empty where it leaves them to the server.
async fn types(channel: &mut Channel, statement: &Statement<'_>) -> Result<Vec<u32>, Unprepared> {
    let Some(names) = statement.types else { return Ok(Vec::new()) };
    if names.len() > statement.params.len() {
        let (types, params) = (names.len(), statement.params.len());
        return Err(Unprepared::Refused(QueryError::Refused(format!(
            "there are {types} `types` for {params} parameters"
        ))));
    }
    let list: Vec<String> = (1..=names.len()).map(|n| format!("pg_catalog.to_regtype(${n})::pg_catalog.oid")).collect();
    let given: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_deref().unwrap_or("unknown"))).collect();
    let rows = ask::rows(channel, &format!("SELECT {}", list.join(", ")), &given).await?;
    let found = rows.into_iter().next().unwrap_or_default();
    let mut types = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let oid = found.get(index).and_then(|oid| oid.as_deref()?.parse().ok());
        types.push(oid.ok_or_else(|| {
            let name = name.as_deref().unwrap_or_default();
            Unprepared::Refused(QueryError::Refused(format!("`types[{index}]`: there is no type `{name}`")))
        })?);
    }
    Ok(types)
}

/// The request's values as the statement's parameters. `results` are those of the batch's statements so far.
pub fn bind(statement: &Statement<'_>, shape: &Shape, results: &[Vec<u8>]) -> Result<Vec<TextParam>, QueryError> {
    let places = shape.params();
    if places.len() != statement.params.len() {
        return Err(QueryError::ParamCount { wanted: places.len(), given: statement.params.len() });
    }
    let made = statement.params.iter().zip(places).enumerate();
    made.map(|(index, (value, ty))| {
        value.bind(ty, results).map_err(|error| QueryError::Param { number: index + 1, error })
    })
    .collect()
}
