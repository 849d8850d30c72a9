//! The events kept beside the function are ones that the Lambda runtime reads.

use std::path::Path;

#[test]
fn every_kept_event_is_an_http_request_to_the_runtime() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).expect("keeps events").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("is text");
        let request =
            lambda_http::request::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
        assert!(request.uri().path().starts_with("/orders"), "{}", request.uri());
        read += 1;
    }
    assert!(read >= 3, "create, read and a bad one");
}
