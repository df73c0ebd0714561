//! Who vouches for a server certificate, and whether it names the host.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme};

use super::certificate::Certificate;

/// Whose word counts.
#[derive(Debug)]
pub(super) enum Trust {
    /// Nobody is asked: `sslmode` up to `require` without a root certificate.
    Anyone,
    /// The certificates of one file.
    Roots { store: RootCertStore, certificates: Vec<CertificateDer<'static>> },
    /// What the operating system trusts.
    System(Arc<rustls_platform_verifier::Verifier>),
}

/// Checks a server certificate; the signatures of the handshake are checked in every mode.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    /// The name that must stand in the certificate, with `verify-full`.
    pub(super) host: Option<String>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anyone => {}
            Trust::System(verifier) => {
                return verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            }
            Trust::Roots { store, certificates } => {
                self.verify_chain(end_entity, intermediates, store, certificates, now)?;
            }
        }
        self.host.as_deref().map_or(Ok(()), |host| verify_host(end_entity, host))?;
        Ok(ServerCertVerified::assertion())
    }

    /// By the bare key: `webpki` would refuse a certificate of version 1 before looking at the signature.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = parse(certificate)?;
        let algorithms = self.algorithms.mapping.iter().find(|(scheme, ..)| *scheme == signed.scheme);
        let (.., algorithms) = algorithms.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let valid = algorithms
            .iter()
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == certificate.key_algorithm)
            .any(|algorithm| algorithm.verify_signature(certificate.key, message, signed.signature()).is_ok());
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = parse(certificate)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.public_key_info);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        store: &RootCertStore,
        roots: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = parse(end_entity)?;
        // A self-signed server certificate that was copied to the clients: trusted as it is, within its validity.
        if roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            return in_validity(&certificate, now);
        }
        if certificate.version == 1 {
            return self.verify_version_1(&certificate, roots, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, store, intermediates, now, self.algorithms.all)
    }

    /// A version 1 certificate has no extensions and so cannot vouch for others, but a root may have signed it directly.
    fn verify_version_1(
        &self,
        certificate: &Certificate<'_>,
        roots: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        in_validity(certificate, now)?;
        let issuers = roots.iter().filter_map(|root| Certificate::parse(root));
        for issuer in issuers.filter(|issuer| issuer.subject == certificate.issuer) {
            if self.is_signed_by(certificate, &issuer) {
                return in_validity(&issuer, now);
            }
        }
        Err(CertificateError::UnknownIssuer.into())
    }

    fn is_signed_by(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        let fitting = self.algorithms.all.iter().filter(|algorithm| {
            algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == issuer.key_algorithm
        });
        fitting
            .into_iter()
            .any(|algorithm| algorithm.verify_signature(issuer.key, certificate.signed, certificate.signature).is_ok())
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    Certificate::parse(der).ok_or_else(|| CertificateError::BadEncoding.into())
}

fn in_validity(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if certificate.is_valid_at(seconds) {
        return Ok(());
    }
    let error =
        if seconds < certificate.validity.0 { CertificateError::NotValidYet } else { CertificateError::Expired };
    Err(error.into())
}

/// The names of the extension decide; only without any does the subject's common name.
/// Source: `pgtls_verify_peer_name_matches_certificate_guts`, PostgreSQL 16 to 18.
fn verify_host(end_entity: &CertificateDer<'_>, host: &str) -> Result<(), Error> {
    let certificate = parse(end_entity)?;
    if certificate.has_alternative_host_names() {
        let name = ServerName::try_from(host).map_err(|_| CertificateError::NotValidForName)?;
        return verify_server_name(&ParsedCertificate::try_from(end_entity)?, &name);
    }
    let named = certificate.common_name().is_some_and(|name| name_matches(name, host));
    if named { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// Equal without regard to case, or `*.` for exactly one label. Source: `wildcard_certificate_match`, PostgreSQL 18.
fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(suffix), Some((label, domain))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    let is_name = host.parse::<IpAddr>().is_err();
    is_name && !label.is_empty() && !suffix.is_empty() && suffix.eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_is_compared_as_libpq_does() {
        assert!(name_matches("db.example.com", "DB.example.com"));
        assert!(name_matches("*.example.com", "db.example.com"));
        assert!(name_matches("127.0.0.1", "127.0.0.1"));
        assert!(!name_matches("*.example.com", "a.b.example.com"));
        assert!(!name_matches("*.example.com", "example.com"));
        assert!(!name_matches("*.0.0.1", "127.0.0.1"));
        assert!(!name_matches("*", "localhost"));
        assert!(!name_matches("*.", "localhost."));
        assert!(!name_matches("db", "db.example.com"));
    }
}
