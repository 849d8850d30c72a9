//! Certificate authorities for one test, by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority whose files lie in a folder under its name.
pub struct Authority {
    folder: PathBuf,
    name: String,
}

impl Authority {
    /// Makes one.
    pub fn new(folder: &Path, name: &str) -> Self {
        let authority = Self { folder: folder.to_owned(), name: name.to_owned() };
        let (key, root) = (format!("{name}.key"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let constraints = ["-addext", "basicConstraints=critical,CA:TRUE"];
        let own = ["-days", "2", "-subj", &subject, "-keyout", &key, "-out", &root];
        authority.openssl(&[&["req", "-x509"][..], &NEW_KEY, &own, &constraints].concat());
        authority
    }

    /// Its own certificate.
    pub fn root(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// Signs a certificate for these alternative names (`DNS:localhost`), as `file.crt` and `file.key`.
    pub fn sign(&self, file: &str, names: &str, usage: &str) {
        let [key, request, certificate, extensions] = ["key", "csr", "crt", "ext"].map(|end| format!("{file}.{end}"));
        let new = ["-subj", "/CN=test", "-keyout", &key, "-out", &request];
        self.openssl(&[&["req"][..], &NEW_KEY, &new].concat());
        let text = format!("subjectAltName={names}\nextendedKeyUsage={usage}\n");
        std::fs::write(self.folder.join(&extensions), text).expect("writes");
        let (root, root_key) = (format!("{}.crt", self.name), format!("{}.key", self.name));
        let by = ["-CA", &root, "-CAkey", &root_key, "-CAcreateserial", "-days", "2", "-extfile", &extensions];
        self.openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate][..], &by].concat());
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
