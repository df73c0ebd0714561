//! Certificates made with the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use asof_testkit::{Server, Workdir};

/// A certificate authority in a directory of its own.
pub(crate) struct Authority {
    dir: Workdir,
}

/// A certificate and its key, as PEM files.
pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Options of `openssl req` for an ordinary key.
pub(crate) const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(dir).args(args).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let dir = Workdir::new("ca");
        let subject = format!("/CN={name}");
        let extension = "basicConstraints=critical,CA:TRUE";
        let output = ["-keyout", "ca.key", "-out", "ca.crt"];
        let args = [["req", "-x509", "-nodes", "-days"].as_slice(), &["9", "-subj", &subject, "-addext", extension]];
        openssl(dir.path(), &[args.concat(), EC.to_vec(), output.to_vec()].concat());
        Self { dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A certificate for `subject` with these extension lines, made by these options of `openssl req`; signed with `digest`.
    pub(crate) fn issue(&self, file: &str, subject: &str, extensions: &str, key: &[&str], digest: &str) -> Leaf {
        let dir = self.dir.path();
        let name = |suffix: &str| format!("{file}.{suffix}");
        let (request, private, certificate) = (name("csr"), name("key"), name("crt"));
        let args = ["req", "-new", "-nodes", "-subj", subject, "-keyout", &private, "-out", &request];
        openssl(dir, &[&args, key].concat());
        let mut args = vec!["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        args.extend(["-days", "9", digest, "-out", &certificate]);
        let file = name("ext");
        if !extensions.is_empty() {
            std::fs::write(dir.join(&file), extensions).unwrap();
            args.extend(["-extfile", &file]);
        }
        openssl(dir, &args);
        Leaf { certificate: dir.join(&certificate), key: dir.join(&private) }
    }

    /// A server certificate for these alternative names (`DNS:…,IP:…`).
    pub(crate) fn server(&self, names: &str) -> Leaf {
        self.issue("server", "/CN=unused", &format!("subjectAltName={names}"), &EC, "-sha256")
    }

    /// A client certificate for a role.
    pub(crate) fn client(&self, role: &str) -> Leaf {
        self.issue("client", &format!("/CN={role}"), "keyUsage=digitalSignature", &EC, "-sha256")
    }

    /// A certificate of X.509 version 1: what `openssl x509 -req` makes without extensions, as in PostgreSQL's manual.
    pub(crate) fn version_1(&self, host: &str) -> Leaf {
        let leaf = self.issue("v1", &format!("/CN={host}"), "", &EC, "-sha256");
        let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&leaf.certificate).output();
        let text = output.expect("openssl runs").stdout;
        assert!(String::from_utf8_lossy(&text).contains("Version: 1"), "this openssl makes no version 1 certificates");
        leaf
    }
}

/// A certificate that signed itself and names its host only in the subject, as in PostgreSQL's manual.
pub(crate) fn self_signed(dir: &Path, host: &str, key: &[&str]) -> Leaf {
    let subject = format!("/CN={host}");
    let args = ["req", "-x509", "-nodes", "-days", "9", "-subj", &subject, "-keyout", "self.key", "-out", "self.crt"];
    openssl(dir, &[args.as_slice(), key].concat());
    Leaf { certificate: dir.join("self.crt"), key: dir.join("self.key") }
}

/// Gives a server its certificate, and a root for client certificates.
pub(crate) fn install(server: &Server, leaf: &Leaf, client_root: Option<&Path>) {
    server.write_data_file("server.crt", &std::fs::read(&leaf.certificate).unwrap());
    server.write_data_file("server.key", &std::fs::read(&leaf.key).unwrap());
    if let Some(root) = client_root {
        server.write_data_file("root.crt", &std::fs::read(root).unwrap());
    }
}
