use serde_json::{Value, json};

use super::*;
use crate::Client;
use crate::canned::{Server, Step, ok};
use crate::wire::{Outcome, QueryRequest};

fn query(sql: &str) -> Query<'_> {
    Client::new("http://127.0.0.1:1", "key").unwrap().db("app").query(sql)
}

fn written<K: Kind>(query: &Query<'_, K>) -> Value {
    serde_json::from_slice(&K::body(query).unwrap()).unwrap()
}

#[test]
fn plain_statement_asks_for_objects_and_numbers() {
    assert_eq!(
        written(&query("SELECT 1")),
        json!({"sql": "SELECT 1", "rows": "object", "values": "json", "int8": "number", "read_only": false})
    );
}

#[test]
fn every_setting_reaches_the_request() {
    let query = query("SELECT $1, $2")
        .bind(9_007_199_254_740_993_i64)
        .bind(Some("Ada"))
        .types([Some("int8"), None])
        .read_only()
        .setting("app.user_id", "42")
        .dry_run()
        .max_affected(5)
        .max_rows(10)
        .exact_numbers()
        .as_arrays();
    assert_eq!(
        String::from_utf8(Sql::body(&query).unwrap()).unwrap(),
        r#"{"sql":"SELECT $1, $2","params":[9007199254740993,"Ada"],"types":["int8",null],"rows":"array","#.to_owned()
            + r#""values":"json","int8":"string","read_only":true,"settings":{"app.user_id":"42"},"#
            + r#""dry_run":true,"max_affected":5,"max_rows":10}"#
    );
}

#[test]
fn request_reads_back_as_the_broker_reads_it() {
    let body = Sql::body(&query("SELECT $1").bind(json!({"a": [1, null]}))).unwrap();
    let request: QueryRequest<'_> = serde_json::from_slice(&body).unwrap();
    assert_eq!((request.sql.as_ref(), request.params[0].get()), ("SELECT $1", r#"{"a":[1,null]}"#));
}

#[test]
fn parameters_keep_their_json_shape() {
    let query = query("").bind(None::<i32>).bind(true).bind(1.5).bind(vec!["x", "y"]).bind_bytes(&[0, 255, 16]);
    assert_eq!(written(&query)["params"], json!([null, true, 1.5, ["x", "y"], {"$bytes": "AP8Q"}]));
}

#[test]
fn types_may_be_plain_names() {
    assert_eq!(written(&query("").types(["int8", "text"]))["types"], json!(["int8", "text"]));
}

#[tokio::test]
async fn unwritable_parameter_is_an_error_that_names_its_place() {
    let keyed_by_pairs = BTreeMap::from([((1, 2), 3)]);
    let error = query("").bind(1).bind(keyed_by_pairs).bind(2).execute().await.unwrap_err();
    assert_eq!(error.to_string(), "parameter $2 cannot be written as JSON");
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn whole_answer_has_the_notices() {
    let body = json!({"columns": [], "rows": [[1]], "row_count": 1, "command": "SELECT",
        "notices": [{"severity": "WARNING", "sqlstate": "01000", "message": "hm"}]});
    let server = Server::start(vec![ok(&body.to_string())]).await;
    let db = server.client().build().unwrap().db("app");
    let response = db.query("SELECT 1").as_arrays().send::<(i32,)>().await.unwrap();
    assert_eq!((response.rows[0].0, response.notices[0].message.as_str()), (1, "hm"));
}

#[tokio::test]
async fn lost_answer_to_a_dry_run_changes_nothing() {
    let server = Server::start(vec![Step::Reset]).await;
    let error = server.client().build().unwrap().db("app").query("DELETE").dry_run().execute().await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, true));
}

fn named(name: &str) -> Query<'_, Named> {
    Client::new("http://127.0.0.1:1", "key").unwrap().db("app").statement(name)
}

#[test]
fn named_statement_takes_parameters_by_name_or_by_position() {
    let common = json!({"rows": "object", "values": "json", "int8": "number"});
    assert_eq!(written(&named("s")), common);
    let by_name = named("s").param("id", 42).param_bytes("blob", &[0]).param("id", None::<i32>);
    assert_eq!(written(&by_name)["params"], json!({"id": null, "blob": {"$bytes": "AA=="}}));
    assert_eq!(written(&named("s").bind(42).bind("x"))["params"], json!([42, "x"]));
    assert_eq!(written(&named("s").setting("a.b", "c").max_affected(1))["settings"], json!({"a.b": "c"}));
}

#[tokio::test]
async fn unusable_named_statements_are_refused_before_anything_is_sent() {
    let error = named("s").param("id", 42).bind(1).execute().await.unwrap_err();
    assert!(error.to_string().contains("both by name and by position"), "{error}");
    let keyed_by_pairs = BTreeMap::from([((1, 2), 3)]);
    let error = named("s").param("id", keyed_by_pairs).execute().await.unwrap_err();
    assert_eq!(error.to_string(), "parameter `id` cannot be written as JSON");
    for name in ["", ".."] {
        let error = named(name).execute().await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{name}` is no name for a statement"));
    }
}

#[tokio::test]
async fn named_statement_is_fetched_like_any_other() {
    let body = json!({"columns": [], "rows": [{"id": 1}, {"id": 2}], "row_count": 2, "command": "SELECT"});
    let server = Server::start(vec![ok(&body.to_string())]).await;
    let db = server.client().build().unwrap().db("app");
    let rows: Vec<Value> = db.statement("orders of/ü").param("id", 42).fetch_all().await.unwrap();
    assert_eq!(rows, [json!({"id": 1}), json!({"id": 2})]);
    let request = server.requests().await.remove(0);
    assert!(request.starts_with("POST /v1/db/app/statements/orders%20of%2F%C3%BC HTTP/1.1\r\n"), "{request}");
}

#[test]
fn futures_are_send() {
    fn assert_send(_: &impl Send) {}
    assert_send(&query("").fetch_all::<Value>());
    assert_send(&query("").execute());
}
