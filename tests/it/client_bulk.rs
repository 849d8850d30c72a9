//! The client crate's batches, streams, copies and ears, against a real broker.

use std::time::Duration;

use hearth_client::wire::{Isolation, Outcome, ProblemCode};
use hearth_client::{Client, Event, Ref, Statement};
use hearth_tests::{Options, Stack, eventually};
use serde::Deserialize;

#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    id: i64,
    name: Option<String>,
}

async fn stack() -> (Stack, Client) {
    let more = "[databases.app.statements.by_id]\nsql = \"SELECT id, name FROM t WHERE id = $1\"\nparams = [\"id\"]\nread_only = true\n";
    let tenant = "settings = [\"app.*\"]".to_owned();
    let stack = Stack::with(Options { more: more.to_owned(), tenant, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int8 PRIMARY KEY, name text)").await;
    let client = Client::new(&stack.url, &stack.key).expect("is built");
    (stack, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_typed_and_says_which_statement_failed() {
    let (stack, client) = stack().await;
    let db = client.db("app");
    let insert = || Statement::new("INSERT INTO t VALUES ($1, $2) RETURNING id").bind(7).bind("a");
    let results = db
        .batch()
        .add(insert().expect_rows(1))
        .add(Statement::new("SELECT id, name FROM t WHERE id = $1").bind(Ref::to("0.rows[0].id")))
        .isolation(Isolation::Serializable)
        .send()
        .await
        .expect("runs");
    assert_eq!(results.rows::<Row>(1).expect("reads"), [Row { id: 7, name: Some("a".to_owned()) }]);
    assert_eq!(results.attempts(), 1);
    let twice = db.batch().add(Statement::new("SELECT 1")).add(insert()).send().await.expect_err("a duplicate");
    assert_eq!(
        (twice.statement(), twice.code(), twice.outcome()),
        (Some(1), Some(ProblemCode::Conflict), Outcome::NotApplied)
    );
    let dry = db.batch().add(Statement::new("DELETE FROM t").max_affected(5)).dry_run().send().await.expect("runs");
    assert_eq!((dry.get(0).map(|result| result.row_count), stack.count("SELECT count(*) FROM t").await), (Some(1), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stream_and_bulk_data_go_both_ways() {
    let (stack, client) = stack().await;
    let db = client.db("app");
    let chunks = (0..100).map(|n| {
        let lines: Vec<String> = (n * 100..n * 100 + 100).map(|id| format!("{id}\tname {id}\n")).collect();
        Ok::<_, std::io::Error>(lines.concat())
    });
    let loaded = db.copy_in("COPY t FROM STDIN").send_stream(futures_util::stream::iter(chunks)).await.expect("loads");
    assert_eq!(loaded.rows, 10_000);
    let broken = (0..3).map(|n| if n < 2 { Ok(format!("{n}\tx\n")) } else { Err(std::io::Error::other("gone")) });
    let broken =
        db.copy_in("COPY t FROM STDIN").send_stream(futures_util::stream::iter(broken)).await.expect_err("cut");
    assert_eq!(broken.outcome(), Outcome::NotApplied);
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 10_000);
    let mut rows = db.query("SELECT id, name FROM t ORDER BY id").read_only().stream::<Row>().await.expect("begins");
    let mut seen = 0;
    while let Some(row) = rows.next().await {
        assert_eq!(row.expect("reads"), Row { id: seen, name: Some(format!("name {seen}")) });
        seen += 1;
    }
    assert_eq!((seen, rows.row_count()), (10_000, Some(10_000)));
    let mut midway = db
        .query("SELECT 100000 / (50000 - n) AS id, NULL AS name FROM generate_series(1, 90000) n")
        .stream::<Row>()
        .await
        .expect("begins");
    let error = loop {
        if let Err(error) = midway.next().await.expect("does not end well") {
            break error;
        }
    };
    assert_eq!(error.code(), Some(ProblemCode::StatementFailed));
    let mut out = db.copy_out("COPY t TO STDOUT").await.expect("begins");
    let mut bytes = 0;
    while let Some(chunk) = out.next().await {
        bytes += chunk.expect("reads").len();
    }
    assert_eq!(bytes, (0..10_000).map(|id: i32| format!("{id}\tname {id}\n").len()).sum::<usize>());
    // A stream that is left early stops the statement.
    let endless = db.query("SELECT generate_series(1, 100000000) AS id, repeat('x', 9000) AS name");
    let mut endless = endless.stream::<Row>().await.expect("begins");
    assert!(endless.next().await.is_some_and(|row| row.is_ok()));
    drop(endless);
    eventually("it stops", async || stack.running().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_settings_and_an_ear_on_a_channel() {
    let (stack, client) = stack().await;
    let db = client.db("app");
    db.query("INSERT INTO t VALUES (1, 'a')").execute().await.expect("inserts");
    let named: Row = db.statement("by_id").param("id", 1).fetch_one().await.expect("reads");
    assert_eq!(named, Row { id: 1, name: Some("a".to_owned()) });
    let unknown = db.statement("nobody").fetch_optional::<Row>().await.expect_err("there is none");
    assert_eq!(unknown.code(), Some(ProblemCode::UnknownStatement));
    let user: String =
        db.query("SELECT current_setting('app.user')").setting("app.user", "ada").fetch_scalar().await.expect("reads");
    assert_eq!(user, "ada");
    // Longer than the client's own deadline for a call: it bounds the beginning alone.
    let hasty = client.with_timeout(Duration::from_secs(5));
    let mut ear = hasty.db("app").listen("news").await.expect("listens");
    stack.witness.batch_execute("NOTIFY news, 'hello'").await.expect("notifies");
    match ear.next().await.expect("goes on").expect("hears") {
        Event::Notification(heard) => assert_eq!((heard.channel.as_str(), heard.payload.as_str()), ("news", "hello")),
        Event::Reconnected => panic!("nothing broke"),
    }
}
