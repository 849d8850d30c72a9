use serde_json::{Value, json};

use super::*;
use crate::Client;
use crate::canned::{Server, Step, answer, ok, problem_body};
use crate::wire::{Outcome, ProblemCode};

fn batch() -> Batch<'static> {
    Client::new("http://127.0.0.1:1", "key").unwrap().db("app").batch()
}

fn written(batch: &Batch<'_>) -> Value {
    serde_json::from_slice(&batch.body()).unwrap()
}

fn two_results() -> Step {
    ok(&json!({"attempts": 2, "results": [
        {"columns": [{"name": "id", "type": "int8", "oid": 20}], "rows": [{"id": 9_007_199_254_740_993_i64}, {"id": 2}],
         "row_count": 2, "command": "INSERT"},
        {"columns": [], "rows": [], "row_count": 1, "command": "UPDATE",
         "notices": [{"severity": "NOTICE", "sqlstate": "00000", "message": "hm"}]},
    ]})
    .to_string())
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Row {
    id: i64,
}

#[test]
fn plain_batch_is_one_transaction_of_objects_and_numbers() {
    assert_eq!(
        written(&batch().add(Statement::new("SELECT 1"))),
        json!({"statements": [{"sql": "SELECT 1"}], "rows": "object", "values": "json", "int8": "number",
               "transaction": {"read_only": false, "deferrable": false}})
    );
}

#[test]
fn every_setting_reaches_the_request() {
    let first = Statement::new("INSERT").bind(1).bind_bytes(&[0]).types([Some("int8"), None]).max_affected(5);
    let second = Statement::new("UPDATE".to_owned()).bind(Ref::to("0.rows[0].id")).expect_rows(1);
    let batch = batch()
        .add(first)
        .add(second)
        .isolation(Isolation::Serializable)
        .read_only()
        .deferrable()
        .setting("app.user_id", "42")
        .dry_run()
        .exact_numbers()
        .as_arrays();
    assert_eq!(
        written(&batch),
        json!({
            "statements": [
                {"sql": "INSERT", "params": [1, {"$bytes": "AA=="}], "types": ["int8", null], "max_affected": 5},
                {"sql": "UPDATE", "params": [{"$ref": "0.rows[0].id"}], "expect_rows": 1},
            ],
            "transaction": {"isolation": "serializable", "read_only": true, "deferrable": true},
            "rows": "array", "values": "json", "int8": "string",
            "settings": {"app.user_id": "42"}, "dry_run": true,
        })
    );
}

#[test]
fn one_by_one_is_no_transaction_and_may_apply_in_part() {
    let batch = batch().one_by_one();
    assert_eq!(written(&batch)["transaction"], Value::Null);
    assert_eq!(batch.effect(), Effect::Piecemeal);
}

#[test]
fn batch_that_cannot_write_has_no_effect() {
    assert_eq!(batch().effect(), Effect::AllOrNothing);
    assert_eq!(batch().read_only().effect(), Effect::None);
    assert_eq!(batch().dry_run().effect(), Effect::None);
}

#[tokio::test]
async fn each_result_reads_into_its_own_type() {
    let server = Server::start(vec![two_results()]).await;
    let db = server.client().build().unwrap().db("app");
    let batch = db.batch().add(Statement::new("INSERT")).add(Statement::new("UPDATE"));
    let results = batch.send().await.unwrap();
    assert_eq!(results.rows::<Row>(0).unwrap(), [Row { id: 9_007_199_254_740_993 }, Row { id: 2 }]);
    assert_eq!(results.row::<Value>(0).unwrap(), json!({"id": 9_007_199_254_740_993_i64}));
    assert_eq!(results.rows::<Row>(1).unwrap(), []);
    let update = results.get(1).unwrap();
    assert_eq!((update.row_count, update.notices[0].message.as_str()), (1, "hm"));
    assert_eq!((results.attempts(), results.iter().count()), (2, 2));
    assert!(server.requests().await[0].starts_with("POST /v1/db/app/batch HTTP/1.1\r\n"));
}

#[tokio::test]
async fn rows_that_do_not_fit_are_applied_and_an_error() {
    let server = Server::start(vec![two_results()]).await;
    let db = server.client().build().unwrap().db("app");
    let results = db.batch().add(Statement::new("INSERT")).add(Statement::new("UPDATE")).send().await.unwrap();
    let errors = [
        results.rows::<(String,)>(0).unwrap_err(),
        results.row::<Row>(1).unwrap_err(),
        results.rows::<Row>(2).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.outcome(), error.request_id()), (Outcome::Applied, Some("req-1")), "{error:?}");
    }
}

#[tokio::test]
async fn result_too_few_is_an_error() {
    let server = Server::start(vec![two_results()]).await;
    let error = server.client().build().unwrap().db("app").batch().add(Statement::new("")).send().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn failed_statement_is_named() {
    let mut body = problem_body(409, "expectation_failed", false);
    body["statement"] = json!(1);
    let server = Server::start(vec![answer(409, "", &body.to_string())]).await;
    let db = server.client().build().unwrap().db("app");
    let batch = db.batch().add(Statement::new("A")).add(Statement::new("B").expect_rows(1));
    let error = batch.send().await.unwrap_err();
    assert_eq!((error.statement(), error.code()), (Some(1), Some(ProblemCode::ExpectationFailed)));
}

#[tokio::test]
async fn unusable_batches_are_refused_before_anything_is_sent() {
    let keyed_by_pairs = BTreeMap::from([((1, 2), 3)]);
    let unwritable = batch().add(Statement::new("")).add(Statement::new("").bind(1).bind(keyed_by_pairs));
    let error = unwritable.send().await.unwrap_err();
    assert_eq!(error.to_string(), "statement 1: parameter $2 cannot be written as JSON");
    let error = batch().one_by_one().isolation(Isolation::Serializable).send().await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
}

#[test]
fn futures_are_send() {
    fn assert_send(_: &impl Send) {}
    assert_send(&batch().send());
}
