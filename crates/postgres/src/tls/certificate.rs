//! The few fields of an X.509 certificate that channel binding, host names and old certificates need.
//!
//! `webpki` verifies chains of version 3 certificates and shows nothing of their content. PostgreSQL's own manual makes
//! certificates of version 1 and ones that name the host only in the subject, so those fields are read here.
//! Sources: RFC 5280 sections 4.1 and 4.2.1.6, RFC 5929 section 4, RFC 4055 section 3.1.

use aws_lc_rs::digest;

/// A DER element: tag, content, and the element with its header.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BOOLEAN: u8 = 0x01;

/// Reads DER elements one after the other; every step answers `None` on anything that is not DER.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let bytes = self.0;
        let (&tag, after) = bytes.split_first()?;
        let (&first, after) = after.split_first()?;
        let (len, header) = if first < 0x80 { (usize::from(first), 2) } else { long_length(first, after)? };
        let end = header.checked_add(len)?;
        let whole = bytes.get(..end)?;
        self.0 = &bytes[end..];
        Some(Element { tag, content: &whole[header..], whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// The next element if it has this tag; otherwise nothing is consumed.
    fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }
}

fn long_length(first: u8, after: &[u8]) -> Option<(usize, usize)> {
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let len = after.get(..count)?.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
    Some((len, 2 + count))
}

/// The fields of one certificate, borrowed from its DER.
#[derive(Clone)]
pub(crate) struct Certificate<'a> {
    /// 1 or 3 in practice.
    pub(crate) version: u8,
    /// What the issuer signed.
    pub(crate) signed: &'a [u8],
    /// Issuer name, DER.
    pub(crate) issuer: &'a [u8],
    /// Subject name, DER.
    pub(crate) subject: &'a [u8],
    /// First and last second of validity, since 1970.
    pub(crate) validity: (i64, i64),
    /// SubjectPublicKeyInfo with its header.
    pub(crate) public_key_info: &'a [u8],
    /// Content of the key's AlgorithmIdentifier.
    pub(crate) key_algorithm: &'a [u8],
    /// The key itself.
    pub(crate) key: &'a [u8],
    /// Content of the signature's AlgorithmIdentifier.
    pub(crate) signature_algorithm: &'a [u8],
    /// The signature.
    pub(crate) signature: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` if the bytes are not a certificate.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(Reader(der).expect(SEQUENCE)?.content);
        let signed = outer.expect(SEQUENCE)?;
        let signature_algorithm = outer.expect(SEQUENCE)?.content;
        let signature = bit_string(outer.expect(BIT_STRING)?)?;
        let mut fields = Reader(signed.content);
        let version = fields.optional(0xa0).map_or(Some(1), version)?;
        fields.expect(INTEGER)?;
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?.whole;
        let validity = validity(fields.expect(SEQUENCE)?)?;
        let subject = fields.expect(SEQUENCE)?.whole;
        let key_info = fields.expect(SEQUENCE)?;
        let mut key_fields = Reader(key_info.content);
        let key_algorithm = key_fields.expect(SEQUENCE)?.content;
        let key = bit_string(key_fields.expect(BIT_STRING)?)?;
        fields.optional(0x81);
        fields.optional(0x82);
        let extensions = match fields.optional(0xa3) {
            Some(element) => Reader(element.content).expect(SEQUENCE)?.content,
            None => &[],
        };
        let (signed, public_key_info) = (signed.whole, key_info.whole);
        Some(Self {
            version,
            signed,
            issuer,
            subject,
            validity,
            public_key_info,
            key_algorithm,
            key,
            signature_algorithm,
            signature,
            extensions,
        })
    }

    /// Whether `now`, in seconds since 1970, lies within the validity.
    pub(crate) fn is_valid_at(&self, now: i64) -> bool {
        (self.validity.0..=self.validity.1).contains(&now)
    }

    /// Whether the certificate names DNS hosts or addresses in its extension: then its subject names none.
    pub(crate) fn has_alternative_host_names(&self) -> bool {
        let Some(names) = self.extension(&[0x55, 0x1d, 0x11]) else { return false };
        let mut names = Reader(names);
        let Some(mut names) = names.expect(SEQUENCE).map(|element| Reader(element.content)) else { return false };
        std::iter::from_fn(|| names.next()).any(|name| matches!(name.tag, 0x82 | 0x87))
    }

    fn extension(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut extensions = Reader(self.extensions);
        while let Some(extension) = extensions.expect(SEQUENCE) {
            let mut fields = Reader(extension.content);
            let oid = fields.expect(OID)?;
            fields.optional(BOOLEAN);
            if oid.content == wanted {
                return fields.expect(OCTET_STRING).map(|value| value.content);
            }
        }
        None
    }

    /// The last common name of the subject.
    pub(crate) fn common_name(&self) -> Option<&'a str> {
        let mut names = Reader(Reader(self.subject).expect(SEQUENCE)?.content);
        let mut found = None;
        while let Some(set) = names.expect(SET) {
            let mut fields = Reader(Reader(set.content).expect(SEQUENCE)?.content);
            if fields.expect(OID)?.content == [0x55, 0x04, 0x03] {
                found = std::str::from_utf8(fields.next()?.content).ok();
            }
        }
        found
    }

    /// The `tls-server-end-point` value of this certificate: its hash by the hash of its own signature, where MD5 and SHA-1
    /// give way to SHA-256. `None` if the signature algorithm names no hash that is known here (Ed25519).
    pub(crate) fn end_point(&self, der: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Reader(self.signature_algorithm);
        let oid = fields.expect(OID)?.content;
        let algorithm = if oid == RSA_PSS { pss_hash(fields)? } else { hash_of_signature(oid)? };
        Some(digest::digest(algorithm, der).as_ref().to_vec())
    }
}

const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];

/// PKCS #1 (1.2.840.113549.1.1.x) and ECDSA (1.2.840.10045.4.…) signatures.
fn hash_of_signature(oid: &[u8]) -> Option<&'static digest::Algorithm> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    if let Some(kind) = oid.strip_prefix(RSA) {
        return match kind {
            [4 | 5 | 11] => Some(&digest::SHA256),
            [12] => Some(&digest::SHA384),
            [13] => Some(&digest::SHA512),
            [14] => Some(&digest::SHA224),
            _ => None,
        };
    }
    match oid.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(&digest::SHA256),
        [3, 1] => Some(&digest::SHA224),
        [3, 3] => Some(&digest::SHA384),
        [3, 4] => Some(&digest::SHA512),
        _ => None,
    }
}

/// The hash in RSASSA-PSS parameters; absent means SHA-1, and that gives way to SHA-256.
fn pss_hash(mut fields: Reader<'_>) -> Option<&'static digest::Algorithm> {
    const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let mut parameters = Reader(fields.expect(SEQUENCE)?.content);
    let Some(hash) = parameters.optional(0xa0) else { return Some(&digest::SHA256) };
    let oid = Reader(Reader(hash.content).expect(SEQUENCE)?.content).expect(OID)?.content;
    match oid.strip_prefix(SHA2) {
        None => Some(&digest::SHA256),
        Some([1]) => Some(&digest::SHA256),
        Some([2]) => Some(&digest::SHA384),
        Some([3]) => Some(&digest::SHA512),
        Some([4]) => Some(&digest::SHA224),
        Some(_) => None,
    }
}

fn version(element: Element<'_>) -> Option<u8> {
    match Reader(element.content).expect(INTEGER)?.content {
        [number] => number.checked_add(1),
        _ => None,
    }
}

/// The bytes of a bit string that has no unused bits.
fn bit_string(element: Element<'_>) -> Option<&[u8]> {
    element.content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bytes)| bytes)
}

fn validity(element: Element<'_>) -> Option<(i64, i64)> {
    let mut fields = Reader(element.content);
    Some((time(fields.next()?)?, time(fields.next()?)?))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` as seconds since 1970 (RFC 5280 section 4.1.2.5).
fn time(element: Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match element.tag {
        UTC_TIME if text.len() == 12 => {
            let year = text[..2].parse::<i64>().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        GENERALIZED_TIME if text.len() == 14 => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<i64>().ok();
    let (month, day) = (part(0)?, part(1)?);
    let seconds = part(2)? * 3600 + part(3)? * 60 + part(4)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        None
    } else {
        Some(days(year, month, day) * 86_400 + seconds)
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years counted from March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<i64> {
        time(Element { tag, content: text.as_bytes(), whole: &[] })
    }

    #[test]
    fn certificate_times_become_seconds_since_1970() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        assert_eq!(seconds(GENERALIZED_TIME, "20000301000000Z"), Some(951_868_800));
        assert_eq!(seconds(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        assert_eq!(seconds(UTC_TIME, "7001010000Z"), None);
        assert_eq!(seconds(UTC_TIME, "701301000000Z"), None);
        assert_eq!(seconds(UTC_TIME, "70010100000éZ"), None);
    }

    #[test]
    fn broken_der_is_not_a_certificate() {
        assert!(Certificate::parse(&[]).is_none());
        assert!(Certificate::parse(&[0x30, 0x80]).is_none());
        assert!(Certificate::parse(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(Certificate::parse(&[0x30, 0x02, 0x30, 0x00]).is_none());
    }

    #[test]
    fn the_hash_of_channel_binding_follows_the_signature() {
        let rsa = |kind: u8| hash_of_signature(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, kind]);
        assert_eq!(rsa(4), Some(&digest::SHA256), "MD5 gives way to SHA-256");
        assert_eq!(rsa(5), Some(&digest::SHA256), "SHA-1 gives way to SHA-256");
        assert_eq!(rsa(12), Some(&digest::SHA384));
        assert_eq!(hash_of_signature(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 4]), Some(&digest::SHA512));
        assert_eq!(hash_of_signature(&[0x2b, 0x65, 0x70]), None, "Ed25519 names no hash");
    }
}
