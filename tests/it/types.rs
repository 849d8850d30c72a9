//! Every type: what the broker answers is what the server itself says, by `::text` and by `to_json`.

use hearth_tests::{Answer, Stack};
use serde_json::json;
use serde_json::value::RawValue;

/// Types of our own, and a few values of each hard-to-read kind.
const TYPES: &str = "
    CREATE EXTENSION hstore;
    CREATE EXTENSION citext;
    CREATE DOMAIN positive AS int8 CHECK (VALUE > 0);
    CREATE DOMAIN names AS text[];
    CREATE TYPE mood AS ENUM ('sad', 'so so', '\"happy\"');
    CREATE TYPE address AS (street text, number int4, codes int8[], since timestamptz, extra jsonb);
    CREATE TYPE person AS (name text, home address, moods mood[], balance numeric);
    CREATE TYPE floats AS RANGE (subtype = float8);
";

/// Expressions beyond one value a type: edges, nesting, emptiness.
const EXPRESSIONS: &[&str] = &[
    "NULL::int8",
    "NULL::text[]",
    "true",
    "false",
    "'a\"b\\c\u{1}\n\t\u{8}é'::text",
    "''::text",
    "' '::\"char\"",
    "'NaN'::float8",
    "'Infinity'::float4",
    "'-Infinity'::float8",
    "1e20::float8",
    "1e-300::float8",
    "-0.0::float8",
    "0.1::float4",
    "'NaN'::numeric",
    "'Infinity'::numeric",
    "12345678901234567890.123456789::numeric",
    "1e20::numeric",
    "0.10::numeric",
    "9223372036854775807::int8",
    "(-32768)::int2",
    "'0044-03-15 12:00:00+00 BC'::timestamptz",
    "'0044-03-15 BC'::date",
    "'infinity'::timestamptz",
    "'-infinity'::date",
    "'2026-02-03 04:05:06.789+05:30'::timestamptz",
    "'294276-12-31 23:59:59.999999'::timestamp",
    "'24:00'::time",
    "'12:34:56.7+05:45'::timetz",
    "'1 year -2 mons 3 days -04:05:06.7'::interval",
    "'{}'::int4[]",
    "'{1,NULL,3}'::int8[]",
    "'{{1,2},{3,4}}'::int4[]",
    "'[0:1]={5,6}'::int4[]",
    "'[-1:0][2:3]={{1,2},{3,4}}'::int8[]",
    "ARRAY['a,b','c\"d','e\\f','{}','NULL',NULL,'',' x ']::text[]",
    "ARRAY[true,NULL]",
    "ARRAY['NaN',1.5]::float8[]",
    "ARRAY['2026-01-01 00:00:00+00'::timestamptz, 'infinity']",
    "ARRAY['{\"a\": [1, \"x\"]}'::jsonb, '3', 'null']",
    "ARRAY['(2,2),(1,1)'::box, '(4,4),(3,3)']",
    "ARRAY['(1,2)'::point]",
    "ARRAY['\\x00ff'::bytea]",
    "ARRAY[]::text[]",
    "'\\x'::bytea",
    "'\\xdeadbeef'::bytea",
    "'{\"a\":  1, \"a\": [true, null, 1e2]}'::json",
    "'{\"b\": 12345678901234567890, \"a\": \"\\u00e9\"}'::jsonb",
    "'null'::jsonb",
    "'\"text\"'::json",
    "12.34::money",
    "'pg_class'::regclass",
    "'int8'::regtype",
    "'<a>b</a>'::xml",
    "'a fat cat'::tsvector",
    "'fat & cat'::tsquery",
    "B'101'",
    "'1010'::varbit",
    "'10.1.0.0/16'::cidr",
    "'::1'::inet",
    "'08:00:2b:01:02:03'::macaddr",
    "'[1,5)'::int4range",
    "'empty'::int8range",
    "'[\"2026-01-01 00:00:00+00\",)'::tstzrange",
    "'{[1,3),[5,8)}'::int4multirange",
    "ARRAY['[1,2)'::int4range]",
    "'1 2 3'::int2vector",
    "'1 2 3'::oidvector",
    "''::oidvector",
    "ARRAY['1 2'::int2vector]",
    "42::oid",
    "'16/B374D848'::pg_lsn",
    "'10:20:10,14,15'::pg_snapshot",
    "'sad'::mood",
    "ARRAY['so so','\"happy\"']::mood[]",
    "5::positive",
    "ARRAY[5,6]::positive[]",
    "'{x,\"y z\"}'::names",
    "'[1.5,2.5]'::floats",
    "ROW('Main \"St\" (x), \\n', NULL, '{1,9007199254740993}', '2026-01-01 00:00:00+00', '{\"k\": [1, \"v\"]}')::address",
    "ROW('', 7, '{}', NULL, NULL)::address",
    "ROW('Ada', ROW('a,b', 1, NULL, NULL, '3')::address, '{sad,NULL}', 1.50)::person",
    "ARRAY[ROW('x', 1, '{1,2}', 'infinity', '\"q\\\"\"')::address, NULL, ROW(NULL, NULL, NULL, NULL, NULL)::address]",
    "ARRAY[ROW('Ada', ROW('\"', 1, NULL, NULL, '{\"\\\\\": \"}\"}')::address, ARRAY['\"happy\"']::mood[], 'NaN')::person]",
    "'\"a\"=>\"1\", \"b\"=>NULL, \"c d\"=>\"e\\\"f\"'::hstore",
    "''::hstore",
    "'MiXed'::citext",
    "ARRAY['A','b']::citext[]",
    "NULL::address",
    "NULL::mood",
    "'(1,2)'::point",
    "'{1,2,3}'::line",
    "'((1,1),(2,2))'::path",
    "'<(1,2),3>'::circle",
    "'a'::name",
    "'x  '::char(5)",
    "'y'::varchar(3)",
    "'(0,1)'::tid",
    "'1'::xid",
    "'1'::cid",
    "'7'::xid8",
    "'12:00'::time",
    "repeat('long ', 2000)",
    "'00000000-0000-0000-0000-000000000001'::uuid",
    "'$.a[*]'::jsonpath",
];

/// JSON with its numbers as they are written: a tree of `f64` would not see a digit lost.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn read(text: &str) -> Self {
        let parse = "the server and the broker write JSON";
        match text.trim_start().as_bytes()[0] {
            b'n' => Self::Null,
            b't' => Self::Bool(true),
            b'f' => Self::Bool(false),
            b'"' => Self::String(serde_json::from_str(text).expect(parse)),
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(text).expect(parse);
                Self::Array(items.into_iter().map(|item| Self::read(item.get())).collect())
            }
            b'{' => {
                let fields: Fields = serde_json::from_str(text).expect(parse);
                Self::Object(fields.0.into_iter().map(|(name, value)| (name, Self::read(value.get()))).collect())
            }
            _ => Self::Number(text.trim().to_owned()),
        }
    }

    /// The value of column `v` in the first row of an answer.
    fn first(answer: &Answer) -> Self {
        let Self::Object(members) = Self::read(&answer.text) else { panic!("an object: {}", answer.text) };
        let rows = members.into_iter().find(|(name, _)| name == "rows").map(|(_, rows)| rows);
        let Some(Self::Array(rows)) = rows else { panic!("rows: {}", answer.text) };
        let Some(Self::Object(row)) = rows.into_iter().next() else { panic!("a row: {}", answer.text) };
        row.into_iter().next().expect("a column").1
    }
}

/// The members of an object in order, repeated names included.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// `int8` and `numeric` as strings wherever they stand, which is where the broker differs from `to_json` on purpose. The shape
/// of the type, asked of the server, decides which numbers are those.
fn quoted(value: &Json, shape: &Shape) -> Json {
    match (value, shape) {
        (Json::Number(number), Shape::Exact) => Json::String(number.clone()),
        (Json::Array(items), _) => Json::Array(items.iter().map(|item| quoted(item, shape.element())).collect()),
        (Json::Object(fields), Shape::Row(shapes)) => {
            let field =
                |((name, value), (_, shape)): (&(String, Json), &(String, Shape))| (name.clone(), quoted(value, shape));
            Json::Object(fields.iter().zip(shapes).map(field).collect())
        }
        (value, _) => value.clone(),
    }
}

enum Shape {
    Plain,
    Exact,
    Array(Box<Shape>),
    Row(Vec<(String, Shape)>),
}

impl Shape {
    /// Dimensions are not part of a type, so an array's element is also its inner arrays' element.
    fn element(&self) -> &Shape {
        if let Self::Array(element) = self { element } else { self }
    }
}

/// Asks the server itself how a type is built.
async fn shape(stack: &Stack, oid: u32) -> Shape {
    let sql = "SELECT typtype::text, typcategory::text, typelem, typbasetype, typrelid FROM pg_type WHERE oid = $1";
    let row = stack.witness.query_one(sql, &[&oid]).await.expect("knows the type");
    let (kind, category): (String, String) = (row.get(0), row.get(1));
    let (element, base, relation): (u32, u32, u32) = (row.get(2), row.get(3), row.get(4));
    match (kind.as_str(), category.as_str(), oid) {
        (_, _, 20 | 1700) => Shape::Exact,
        ("d", ..) => Box::pin(shape(stack, base)).await,
        ("c", ..) => {
            let sql = "SELECT attname::text, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
            let mut fields = Vec::new();
            for row in stack.witness.query(sql, &[&relation]).await.expect("knows the row type") {
                fields.push((row.get(0), Box::pin(shape(stack, row.get(1))).await));
            }
            Shape::Row(fields)
        }
        (_, "A", _) => Shape::Array(Box::new(Box::pin(shape(stack, element)).await)),
        _ => Shape::Plain,
    }
}

async fn compare(stack: &Stack, expression: &str) {
    let one = |values: &str, sql: String| {
        let body = json!({"sql": sql, "values": values});
        async move { stack.post("/v1/db/app/query", &body).await }
    };
    let text = one("text", format!("SELECT {expression} AS v")).await;
    let json = one("json", format!("SELECT {expression} AS v")).await;
    // The server's own words, in the same session settings: by the output function (`format`), by the cast, by `to_json`.
    let words = format!(
        "SELECT CASE WHEN num_nulls({expression}) = 0 THEN format('%s', {expression}) END AS p, ({expression})::text AS t, \
         to_json({expression})::text AS j, pg_typeof({expression})::oid AS o"
    );
    let server = one("text", words).await;
    for answer in [&text, &json, &server] {
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text);
    }
    let own = &server.body["rows"][0];
    assert_eq!(text.first(), &own["p"], "text of {expression}");
    // Three types' cast to text is a function of its own and says something else than their output: `true` for `t`, an
    // address with its mask, padding cut off.
    let casts_differ = matches!(server.body["rows"][0]["o"].as_str(), Some("16" | "869" | "1042"));
    assert!(casts_differ || text.first() == &own["t"], "cast to text of {expression}");
    let oid: u32 = own["o"].as_str().expect("is a number").parse().expect("is a number");
    let said = own["j"].as_str().map_or(Json::Null, Json::read);
    assert_eq!(Json::first(&json), quoted(&said, &shape(stack, oid).await), "json of {expression}");
    let number =
        stack.post("/v1/db/app/query", &json!({"sql": format!("SELECT {expression} AS v"), "int8": "number"})).await;
    assert_eq!(Json::first(&number), said, "int8 as number, {expression}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_is_what_the_server_itself_prints() {
    let stack = Stack::start().await;
    stack.witness.batch_execute(TYPES).await.expect("makes the types");
    for expression in EXPRESSIONS {
        compare(&stack, expression).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_in_pg_type_that_can_be_selected_agrees_with_the_server() {
    let stack = Stack::start().await;
    stack.witness.batch_execute(TYPES).await.expect("makes the types");
    stack.witness.batch_execute("CREATE TABLE plain (a int4, b text, c int8[])").await.expect("makes a table");
    // One value a type: what its own input function makes of a text that suits many, found by trying on the server.
    let types = "SELECT format_type(oid, NULL) FROM pg_type WHERE typtype IN ('b', 'c', 'd', 'e', 'r', 'm') AND typisdefined ORDER BY oid";
    let candidates = [
        "1",
        "a",
        "{}",
        "{1,2}",
        "{a,NULL}",
        "true",
        "2026-01-02",
        "2026-01-02 03:04:05+00",
        "03:04:05",
        "1 day",
        "(1,2)",
        "((1,2),(3,4))",
        "<(1,2),3>",
        "{1,2,3}",
        "1.2.3.4",
        "08:00:2b:01:02:03",
        "08:00:2b:01:02:03:04:05",
        "[1,3)",
        "[2026-01-01,2026-02-01)",
        "{[1,3)}",
        "empty",
        "00000000-0000-0000-0000-000000000001",
        "\\x00",
        "pg_class",
        "sad",
        "1:1:",
        "0/0",
        "(0,0)",
        "$",
        "(,,)",
        "(,,,)",
        "(,,,,)",
        "english",
        "simple",
        "-",
        "+(integer,integer)",
        "{\"a\": 1}",
        "int4",
        "postgres",
        "pg_catalog",
    ];
    let (mut tried, mut without) = (0, Vec::new());
    for row in stack.witness.query(types, &[]).await.expect("lists types") {
        let name: String = row.get(0);
        let mut found = false;
        for candidate in candidates {
            let expression = format!("'{}'::{name}", candidate.replace('\'', "''"));
            if stack.witness.simple_query(&format!("SELECT {expression}, to_json({expression})")).await.is_ok() {
                compare(&stack, &expression).await;
                found = true;
            }
        }
        compare(&stack, &format!("NULL::{name}")).await;
        tried += 1;
        if !found {
            without.push(name);
        }
    }
    println!("{tried} types; without a value that suits (compared as NULL): {without:?}");
    assert!(tried > 300, "only {tried} types");
    // The row types of system catalogues are many; a value with the right number of empty fields suits only some.
    let base: Vec<_> =
        without.iter().filter(|name| !name.starts_with("pg_") && !name.contains("information_schema")).collect();
    assert!(base.len() <= 12, "too many types without a value: {base:?}");
}
