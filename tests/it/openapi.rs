//! The OpenAPI document against the broker it describes.

use std::path::Path;
use std::process::Stdio;

use hearth_tests::{Options, Stack};
use tokio::process::Command;

/// Where the program is; `bin/test` installs it.
const PROGRAM: &str = "SCHEMATHESIS";

/// Operations whose answer has no end.
const ENDLESS: &str = "listen";

/// Requests made from the document, good ones and bad ones: every answer is one that the document tells of, in the shape that
/// it tells of, and none is a server error.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and a program that bin/test installs"]
async fn no_answer_is_undocumented_and_none_is_a_server_error() {
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| panic!("set {PROGRAM}, or run bin/test"));
    let more = "[databases.app.statements.get_user]\nsql = \"SELECT id, name FROM users WHERE id = $1\"\nparams = [\"id\"]\nread_only = true\n";
    let limits = "max_timeout = \"2s\", default_timeout = \"2s\", stream_timeout = \"2s\"".to_owned();
    let stack = Stack::with(Options { more: more.to_owned(), limits, pool_max: 8, ..Options::default() }).await;
    stack.ok("CREATE TABLE users (id int4, name text)").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi");
    let mut command = Command::new(program);
    command.current_dir(stack.scratch.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.args(["run", &format!("{}/openapi.json", stack.url), "--no-color", "--seed", "1", "--max-examples", "100"]);
    command.args(["--header", &format!("Authorization: Bearer {}", stack.key), "--exclude-operation-id", ENDLESS]);
    // Random SQL is refused though it is a valid string, and HTTP allows headers that nobody knows.
    command.args(["--exclude-checks", "positive_data_acceptance,negative_data_rejection"]);
    command.args(["--request-timeout", "20", "--continue-on-failure", "--generation-database", "none"]);
    let ended = command.output().await.expect("the program runs");
    let told = String::from_utf8_lossy(&ended.stdout);
    println!("{told}\n{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "the document and the broker disagree; see above");
    assert_eq!(stack.ok("SELECT 1 AS n").await.first(), 1);
}
