use super::*;

const FORMAT: Format = Format {
    rows: hearth_client::wire::RowShape::Object,
    values: hearth_client::wire::ValueFormat::Json,
    int8: hearth_client::wire::Int8Format::String,
};

fn read_one(sql: &str) -> Result<Statement<'_>, QueryError> {
    Statement::new(sql, Vec::new(), None, FORMAT, &Readings::default())
}

fn names() -> Names {
    let builtin = [
        "as",
        "lower",
        "count",
        "values",
        "in",
        "set_config",
        "pg_advisory_lock",
        "over",
        "nextval",
        "ts_stat",
        "lo_create",
    ];
    let free = |n: &str| matches!(n, "as" | "lower" | "count" | "values" | "in" | "over");
    Names::new(builtin.map(|n| (n.to_owned(), free(n))).into_iter(), std::iter::once("evil".to_owned()))
}

fn cleanup(sql: &str) -> Cleanup {
    read_one(sql).unwrap_or_else(|_| panic!("{sql} is refused")).cleanup(Some(&names()))
}

fn is_pure(sql: &str) -> bool {
    read_one(sql).unwrap_or_else(|_| panic!("{sql} is refused")).is_pure_read(Some(&names()))
}

#[test]
fn plain_statements_leave_nothing_behind() {
    for sql in [
        "SELECT lower(name), count(*) OVER (PARTITION BY x) FROM users WHERE id IN (1, 2)",
        "INSERT INTO users (id, name) VALUES ($1, $2)",
        "INSERT INTO app.users (id) VALUES (1)",
        "select pg_catalog.lower('x')",
        "select 'set_config(' -- pg_advisory_lock(1)",
        "create table t (a int4)",
        "create table if not exists app.t (a int4)",
    ] {
        assert_eq!(cleanup(sql), Cleanup::Nothing, "{sql}");
    }
}

#[test]
fn what_may_change_the_session_asks_for_a_reset() {
    for sql in [
        "SET search_path = x",
        ";set search_path = x",
        "; ( ;SET ROLE x",
        "nonsense",
        "",
        "select set_config('a.b', '1', false)",
        "SELECT \"set_config\"('a.b', '1', false)",
        "select pg_catalog.\"set_config\"('a.b', '1', false)",
        "select pg_advisory_lock(1)",
        "SELECT mine(1)",
        "SELECT public.lower('x')",
        "select lower('x') from a.lower('y')",
        "create temp table t (a int)",
        "SELECT 1 INTO TEMPORARY t",
        "create table \"pg_temp\".users as select 1",
        "create table pg_temp_3.users as select 1",
        "create table U&\"pg!005ftemp\" UESCAPE '!' . users as select 1",
        "select * from ts_stat('select 1')",
        "select E'a'\n'\\'', set_config($1, $2, false)",
        "select E'a' -- c\n'\\'', set_config($1, $2, false), ''''",
        "select u.evil from users u",
        "select (u).evil from users u",
        "select u . \"evil\" from users u",
        "select \u{212a}ower(1)",
        "LISTEN x",
    ] {
        assert_eq!(cleanup(sql), Cleanup::Reset, "{sql}");
    }
    for sql in [
        "DISCARD ALL",
        ";discard all",
        "prepare x as select 1",
        "deallocate all",
        "load 'x'",
        "select setseed(0.5)",
        "DO $$ begin end $$",
        "call x()",
        "select dblink_connect('a', 'b')",
    ] {
        assert_eq!(cleanup(sql), Cleanup::Discard, "{sql}");
    }
}

#[test]
fn what_cannot_run_alone_is_refused_with_the_way_to_go() {
    for sql in [
        "begin",
        " /* x */ COMMIT",
        ";commit",
        "savepoint a",
        "copy t from stdin",
        ";copy t from stdin",
        "prepare transaction 'x'",
        "select lastval()",
    ] {
        assert!(matches!(read_one(sql), Err(QueryError::Refused(_))), "{sql}");
    }
    assert!(matches!(read_one("select '\0'"), Err(QueryError::Refused(_))));
}

#[test]
fn only_what_can_have_no_effect_is_a_pure_read() {
    for sql in ["select 1", "(select 1) union select 2", "with a as (select lower('x')) select * from a", "values (1)"]
    {
        assert!(is_pure(sql), "{sql}");
    }
    for sql in [
        "with a as (insert into t values (1) returning 1) select * from a",
        "select 1 into t",
        "select lo_create(0)",
        "select mine(1)",
        "select u.evil from users u",
        "select * from ts_stat('x')",
        "select nextval('s')",
        "explain analyze delete from t",
        "explain select 1",
        "delete from t",
        "",
    ] {
        assert!(!is_pure(sql), "{sql}");
    }
}

#[test]
fn a_statement_of_nothing_but_parentheses_is_read_in_little_room() {
    let sql = "(".repeat(4 << 20);
    assert_eq!(cleanup(&sql), Cleanup::Reset);
    let sql = format!("select {}", "f(".repeat(100_000));
    assert_eq!(cleanup(&sql), Cleanup::Reset);
}

#[test]
fn only_a_copy_of_the_right_direction_is_one() {
    for (sql, direction) in [
        ("COPY t FROM STDIN", Some(CopyDirection::In)),
        ("copy t (a, b) from stdin with (format csv, header)", Some(CopyDirection::In)),
        ("COPY t TO STDOUT (FORMAT csv)", Some(CopyDirection::Out)),
        ("copy (select 'from stdin' as x from y) to stdout", Some(CopyDirection::Out)),
        ("COPY t FROM '/etc/passwd'", None),
        ("COPY t FROM PROGRAM 'stdin'", None),
        ("COPY t FROM '/etc/passwd' WHERE name IS DISTINCT FROM stdin", None),
        ("COPY t TO '/tmp/x' WITH (DELIMITER 'to stdout')", None),
        ("COPY t TO '/tmp/x' -- to stdout", None),
        ("COPY (select * from stdin) TO '/tmp/x'", None),
        ("select 1", None),
        ("insert into t select * from stdin", None),
    ] {
        for wanted in [CopyDirection::In, CopyDirection::Out] {
            assert_eq!(Statement::copy(sql, wanted, FORMAT).is_ok(), direction == Some(wanted), "{sql}");
        }
    }
}
