//! TLS as libpq does it: what each `sslmode` proves, client certificates, and the value that SCRAM binds to.
//!
//! The handshake is rustls', with aws-lc-rs. What differs from a web client is the trust: below `verify-ca` nobody is
//! trusted or distrusted, `verify-ca` ignores the host name, and PostgreSQL's manual makes certificates that web PKI
//! refuses (version 1, host name in the subject, a server certificate that is its own root).
//! Source: `fe-secure-openssl.c`, `fe-secure-common.c`, PostgreSQL 18. One deliberate difference: a root certificate file
//! that was *named* must exist, also with `sslmode=require`, where libpq would go on without any check.

mod certificate;
mod verify;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Fault;
use crate::conninfo::{Environment, RootCertificates, SslMode, SslNegotiation, SslSettings};
use certificate::Certificate;
use verify::{Trust, Verifier};

/// The protocol name that servers from 17 on want in a direct handshake. Source: `PG_ALPN_PROTOCOL` in `libpq/pqcomm.h`.
const ALPN: &[u8] = b"postgresql";

/// How to secure connections to one host.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    direct: bool,
}

impl Tls {
    /// Reads certificates and keys. `host` is the name to verify; `peer` stands in for a name that nobody has to prove.
    pub(crate) fn prepare(ssl: &SslSettings, host: Option<&str>, environment: &Environment) -> Result<Self, Fault> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = verifier(ssl, host, environment, &provider)?;
        let clock = Arc::new(Clock(environment.clone()));
        let builder = ClientConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match client_certificate(ssl, environment)? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Fault::invalid(format!("client certificate: {error}")))?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session that is resumed skips the certificate that channel binding needs.
        config.resumption = rustls::client::Resumption::disabled();
        let direct = ssl.negotiation == SslNegotiation::Direct;
        Ok(Self { config: Arc::new(config), name: server_name(host), direct })
    }

    /// Whether the handshake comes first, without asking.
    pub(crate) fn direct(&self) -> bool {
        self.direct
    }

    /// The handshake over a stream on which nothing unread may be left.
    pub(crate) async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), stream).await.map_err(failed_handshake)?;
        if self.direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Fault::tls("the server does not speak PostgreSQL in a direct TLS connection"));
        }
        Ok(stream)
    }
}

/// The `tls-server-end-point` value of an established connection, `None` where the certificate defines none.
pub(crate) fn end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let der = stream.get_ref().1.peer_certificates()?.first()?;
    Certificate::parse(der)?.end_point(der)
}

fn failed_handshake(error: io::Error) -> Fault {
    let text = error.to_string();
    if text.contains("UnsupportedCertVersion") {
        return Fault::tls(format!(
            "{text}: certificates of X.509 version 1 are only accepted directly below a root; issue them with extensions"
        ));
    }
    Fault::tls(text)
}

/// The name sent in the handshake: an address and what is not a DNS name are not sent, and the verifier compares by itself.
fn server_name(host: Option<&str>) -> ServerName<'static> {
    let named = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
    named.unwrap_or_else(|| ServerName::from(std::net::Ipv4Addr::UNSPECIFIED))
}

struct Clock(Environment);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs((self.0.unix_seconds)())))
    }
}

fn verifier(
    ssl: &SslSettings,
    host: Option<&str>,
    environment: &Environment,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Fault> {
    let trust = trust(ssl, environment, provider)?;
    let host = match (ssl.mode, host) {
        (SslMode::VerifyFull, None) => return Err(Fault::invalid("sslmode=verify-full needs a host name to verify")),
        (SslMode::VerifyFull, Some(host)) => Some(host.to_owned()),
        _ => None,
    };
    Ok(Arc::new(Verifier { trust, host, algorithms: provider.signature_verification_algorithms }))
}

fn trust(ssl: &SslSettings, environment: &Environment, provider: &Arc<CryptoProvider>) -> Result<Trust, Fault> {
    let (path, named) = match &ssl.roots {
        RootCertificates::System => {
            let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider));
            return verifier
                .map(|verifier| Trust::System(Arc::new(verifier)))
                .map_err(|error| Fault::tls(error.to_string()));
        }
        RootCertificates::File(path) => (Some(path), true),
        RootCertificates::DefaultFile(path) => (Some(path), false),
        RootCertificates::None => (None, false),
    };
    let bytes = match path {
        Some(path) => {
            environment.read_if_exists(path).map_err(|error| unreadable("root certificate file", path, &error))?
        }
        None => None,
    };
    match (bytes, path) {
        (Some(bytes), Some(path)) => roots(&bytes, path),
        _ if named || ssl.mode >= SslMode::VerifyCa => Err(no_roots(path.map(|path| path.as_path()))),
        _ => Ok(Trust::Anyone),
    }
}

fn no_roots(path: Option<&Path>) -> Fault {
    let place = path.map_or_else(|| "root.crt".to_owned(), |path| path.display().to_string());
    Fault::invalid(format!(
        "root certificate file {place} does not exist; name it with sslrootcert, or use sslrootcert=system"
    ))
}

fn unreadable(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Fault {
    Fault::invalid(format!("{what} {}: {error}", path.display()))
}

fn roots(bytes: &[u8], path: &Path) -> Result<Trust, Fault> {
    let certificates = certificates(bytes, "root certificate file", path)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(|error| unreadable("root certificate file", path, &error))?;
    }
    Ok(Trust::Roots { store, certificates })
}

fn certificates(bytes: &[u8], what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| unreadable(what, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(what, path, &"no certificate in it"));
    }
    Ok(certificates)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client certificate, if one was named or stands in the default place.
fn client_certificate(ssl: &SslSettings, environment: &Environment) -> Result<Option<ClientCertificate>, Fault> {
    let Some(file) = &ssl.certificate else { return Ok(None) };
    let bytes = environment.read_if_exists(&file.path);
    let Some(bytes) = bytes.map_err(|error| unreadable("client certificate", &file.path, &error))? else {
        let missing = || unreadable("client certificate", &file.path, &"no such file");
        return if file.named { Err(missing()) } else { Ok(None) };
    };
    let chain = certificates(&bytes, "client certificate", &file.path)?;
    let key = ssl.key.as_ref().ok_or_else(|| Fault::invalid("a client certificate needs sslkey"))?;
    Ok(Some((chain, private_key(&key.path, environment)?)))
}

/// Refuses a key that others can read: at most 0600, or 0640 as root's keys may have (`fe-secure-openssl.c`, PostgreSQL 18).
fn private_key(path: &Path, environment: &Environment) -> Result<PrivateKeyDer<'static>, Fault> {
    let refuse = |error: &dyn std::fmt::Display| unreadable("client key", path, error);
    let mode = (environment.file_mode)(path).map_err(|error| refuse(&error))?;
    if mode & 0o037 != 0 {
        return Err(refuse(&format!("mode {mode:04o} lets others use it (chmod 0600)")));
    }
    let bytes = zeroize::Zeroizing::new((environment.read_file)(path).map_err(|error| refuse(&error))?);
    if bytes.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(refuse(&"encrypted keys are not supported"));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| refuse(&error))
}
