//! Requests that two readers could read in two ways, and words that want to be more than words.

use hearth_tests::bare::{read_answer, until_silent};
use tokio::io::AsyncWriteExt;

use super::{beside, broker};

/// The status lines of everything that was answered.
fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_in_another() {
    let (_scratch, bare) = broker("").await;
    let key = format!("host: localhost\r\nauthorization: Bearer {}\r\n", bare.key);
    let hidden = bare.get("/v1/whoami");
    let post = |headers: &str, body: &str| format!("POST /v1/db/none/query HTTP/1.1\r\n{key}{headers}\r\n{body}");
    // Each: what is sent, what is answered, and nothing more. `404` is the database that there is not.
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        // The length is ignored, and the connection ends with the answer: what follows is nobody's request.
        (
            "length and chunks",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}")),
            vec!["404"],
        ),
        (
            "chunks and length",
            post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", &format!("0\r\n\r\n{hidden}")),
            vec!["404"],
        ),
        ("two lengths", post("content-length: 0\r\ncontent-length: 5\r\n", &hidden), vec!["400"]),
        ("a list of lengths", post("content-length: 0, 5\r\n", &hidden), vec!["400"]),
        ("a signed length", post("content-length: +5\r\n", &hidden), vec!["400"]),
        ("a negative length", post("content-length: -1\r\n", &hidden), vec!["400"]),
        ("a length of letters", post("content-length: 0x5\r\n", &hidden), vec!["400"]),
        ("an endless length", post("content-length: 99999999999999999999999\r\n", &hidden), vec!["400"]),
        ("an unknown coding", post("transfer-encoding: xchunked\r\n", &format!("0\r\n\r\n{hidden}")), vec!["400"]),
        (
            "chunked not last",
            post("transfer-encoding: chunked, identity\r\n", &format!("0\r\n\r\n{hidden}")),
            vec!["400"],
        ),
        (
            "a space before the colon",
            post("transfer-encoding : chunked\r\n", &format!("0\r\n\r\n{hidden}")),
            vec!["400"],
        ),
        ("a folded header", post("x-a: b\r\n c\r\n", ""), vec!["400"]),
        ("a folded coding", post("transfer-encoding:\r\n chunked\r\n", &format!("0\r\n\r\n{hidden}")), vec!["400"]),
        ("a bare CR in a value", post("x-a: b\rc\r\n", ""), vec!["400"]),
        ("a NUL in a value", post("x-a: b\0c\r\n", ""), vec!["400"]),
        ("a name with a space", post("x a: b\r\n", ""), vec!["400"]),
        ("no name", post(": b\r\n", ""), vec!["400"]),
        (
            "chunks in HTTP/1.0",
            format!("POST / HTTP/1.0\r\n{key}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
            vec!["400"],
        ),
        ("another version", format!("GET / HTTP/3.0\r\n{key}\r\n"), vec!["400"]),
        ("a line of its own", format!("GET /v1/whoami\r\n{key}\r\n"), vec!["400"]),
    ];
    for (name, request, expected) in cases {
        let told = bare.raw(request.as_bytes()).await;
        // hyper writes `HTTP/1.0` to those that speak it.
        assert_eq!(statuses(&told.replace("HTTP/1.0 ", "HTTP/1.1 ")), expected, "{name}: {told}");
        assert!(!told.contains("\"tenant\""), "{name}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_body_is_never_another_request_however_late_it_comes() {
    let (_scratch, bare) = broker("header_timeout = \"1s\"").await;
    let hidden = bare.get("/v1/whoami");
    for coding in [format!("content-length: {}", hidden.len() + 9), "transfer-encoding: chunked".to_owned()] {
        for path in ["/v1/whoami", "/v1/db/app/query", "/healthz"] {
            let mut socket = bare.dial().await;
            let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{coding}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.expect("is taken");
            let told = read_answer(&mut socket).await.expect("is answered before the body comes");
            assert!(matches!(statuses(&told)[..], ["401" | "405"]), "{path}: {told}");
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            // A connection that has ended already is as good.
            let _ = socket.write_all(hidden.as_bytes()).await;
            let told = until_silent(&mut socket).await;
            assert!(!told.contains("HTTP/1.1 200"), "{path}, {coding}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_none_ends_the_connection() {
    let (_scratch, bare) = broker("").await;
    let head = format!(
        "POST /v1/db/app/query HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        bare.key
    );
    let hidden = bare.get("/v1/whoami");
    for bad in [
        "zz\r\n",
        "-1\r\n",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "\r\n0\r\n\r\n",
        "5;a\nb\r\nabcde\r\n0\r\n\r\n",
    ] {
        let told = bare.raw(format!("{head}{bad}{hidden}").as_bytes()).await;
        assert_eq!(statuses(&told), ["400"], "{bad:?}: {told}");
    }
    // Lines that end in LF alone: allowed to be read as lines (RFC 9112 section 2.2), and then by everybody in the same way.
    let told = bare.raw(bare.get("/healthz").replace("\r\n", "\n").as_bytes()).await;
    assert_eq!(statuses(&told), ["200"], "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused_and_not_kept() {
    let (_scratch, bare) = broker("").await;
    let large = |count: usize, length: usize| {
        let many = (0..count).map(|n| format!("x-{n}: {}\r\n", "a".repeat(length))).collect::<Vec<_>>().concat();
        format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{many}\r\n")
    };
    beside(&bare, "oversized heads", async {
        for (name, request, status) in [
            ("one that is large", large(1, 200 << 10), "431"),
            ("many small ones", large(5_000, 1), "431"),
            ("as large as may be", large(50, 500), "200"),
        ] {
            let told = bare.raw(request.as_bytes()).await;
            assert_eq!(statuses(&told).first(), Some(&status), "{name}: {told}");
        }
        // Whichever limit it meets first.
        let told = bare.raw(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).as_bytes()).await;
        assert!(matches!(statuses(&told)[..], ["414" | "431"]), "a path without end: {told}");
        // Over HTTP/2 the limit is told beforehand, and held.
        let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
        let url = format!("http://{}/healthz", bare.address);
        let asked = |length: usize| http.get(&url).header("x-large", "a".repeat(length)).send();
        assert_eq!(asked(20 << 10).await.expect("is answered").status(), 200);
        assert!(asked(64 << 10).await.map_or(true, |answer| answer.status() == 431));
        assert_eq!(asked(1).await.expect("the connection or the next one lives").status(), 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_becomes_a_header_or_a_line_of_the_log() {
    let (_scratch, bare) = broker("").await;
    let planted = "PLANTED";
    for sent in [
        "GET /v1/db/a%0d%0aPLANTED:%201/query HTTP/1.1\r\nhost: localhost\r\nx-request-id: a%0d%0aPLANTED\r\n",
        "GET /%0aPLANTED HTTP/1.1\r\nhost: localhost\r\nx-request-id: \u{1b}[31mPLANTED\r\n",
        "GET /\u{2028}PLANTED HTTP/1.1\r\nhost: localhost\r\n",
        "PLANTED\u{7f} / HTTP/1.1\r\nhost: localhost\r\n",
        "GET / HTTP/1.1\r\nhost: PLANTED\u{8}\r\n",
        "GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer PLANTED\"}\u{85}{\"a\".b\r\n",
        "GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: PLANTED\r\nforwarded: for=PLANTED\r\n",
    ] {
        let told = bare.raw(format!("{sent}\r\n").as_bytes()).await;
        let (head, _) = told.split_once("\r\n\r\n").unwrap_or((&told, ""));
        assert!(head.lines().all(|line| !line.starts_with(planted)), "{told}");
        assert!(!told.contains("HTTP/1.1 200"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told:?}");
    }
    let log = bare.log();
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "a line of the log is no JSON: {line}");
    }
    assert!(!log.contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_what_it_says_and_leads_nowhere_else() {
    let (_scratch, bare) = broker("").await;
    for path in [
        "/v1/db/../../metrics",
        "/v1/db/%2e%2e/%2e%2e/metrics",
        "/v1/db/..%2f..%2fadmin/query",
        "//metrics",
        "/metrics",
        "/admin/v1/pools",
        "/v1/../admin/v1/reload",
        "/v1/db//query",
        "/v1//whoami",
        "/V1/whoami",
        "/v1/whoami/",
        "/v1/whoami%00",
        "/v1/whoami;a=b",
        "/v1\\whoami",
        "/.%2e/v1/whoami",
        "http://other.example/metrics",
        "*",
    ] {
        let told = bare.raw(bare.get(path).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let found = statuses(&told);
        assert!(matches!(found[..], ["404" | "400" | "405"]), "{path}: {told}");
    }
    let mut names = ["a".repeat(5_000), "%ff%fe".to_owned(), "app%2fquery".to_owned(), "app%00".to_owned()].to_vec();
    names.extend(["app%20", "App", "app.", "app'--", "%61pp%2f.."].map(str::to_owned));
    for name in names {
        let mut socket = bare.dial().await;
        let body = "{\"sql\":\"SELECT 1\"}";
        let request = bare.get(&format!("/v1/db/{name}/query")).replace("GET", "POST");
        let request = request
            .replace("\r\n\r\n", &format!("\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()));
        socket.write_all(request.as_bytes()).await.expect("is taken");
        let told = read_answer(&mut socket).await.expect("is answered");
        assert!(told.starts_with("HTTP/1.1 404"), "{name}: {told}");
        drop(until_silent(&mut socket).await);
    }
}
