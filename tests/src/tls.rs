//! A certificate authority for one test, by the `openssl` program.

use std::path::{Path, PathBuf};

use hearth_broker::cli::dev::postgres::PrivatePostgres;
use hearth_broker::cli::dev::scratch::Scratch;

/// Where the root's certificate is, once made.
pub fn root(scratch: &Scratch) -> PathBuf {
    scratch.path().join("ca.crt")
}

/// Signs a certificate for `localhost` and restarts the server with it.
pub async fn give_certificate(postgres: &mut PrivatePostgres, scratch: &Scratch) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let constraints = ["-addext", "basicConstraints=critical,CA:TRUE"];
    openssl(
        scratch,
        &[
            &["req", "-x509"][..],
            &key,
            &["-days", "2", "-subj", "/CN=test root", "-keyout", "ca.key", "-out", "ca.crt"],
            &constraints,
        ]
        .concat(),
    );
    openssl(
        scratch,
        &[&["req"][..], &key, &["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"]].concat(),
    );
    std::fs::write(scratch.path().join("names"), "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
        .expect("writes");
    let sign = [
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ];
    openssl(scratch, &sign);
    let folder = scratch.path().display();
    let lines = format!("ssl = on\nssl_cert_file = '{folder}/server.crt'\nssl_key_file = '{folder}/server.key'\n");
    append(&postgres.data().join("postgresql.conf"), &lines);
    postgres.halt("INT").await.expect("stops");
    postgres.restart(scratch).await.expect("starts with TLS");
}

/// Runs in the scratch folder, under its account, so that the server may read the key.
fn openssl(scratch: &Scratch, arguments: &[&str]) {
    let output = scratch.command(Path::new("openssl")).args(arguments).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn append(file: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(file).expect("exists");
    file.write_all(text.as_bytes()).expect("writes");
}
