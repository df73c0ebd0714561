//! Where a repository in S3 is: `s3://bucket/prefix?region=…&endpoint=…&path_style=true`.
//!
//! The URL alone says which objects are meant, so that it means the same on every machine: no variable changes it, but for
//! the region, which a URL for AWS may leave to `AWS_REGION`. It holds no credentials, because it stands in
//! configurations, messages and logs.

use std::fmt;

use object_store::path::Path;

use crate::error::{Error, Result};

/// A place for objects in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// What the keys begin with, without `/` at either end; may be empty.
    prefix: String,
    pub(super) region: Option<String>,
    /// The server, when it is not AWS.
    endpoint: Option<String>,
    /// Whether the bucket is part of the path (`true`) or of the host's name; by default the path of an endpoint.
    path_style: Option<bool>,
}

impl Place {
    /// Reads a URL; the error never repeats it, because it may hold a secret by mistake.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("it does not begin with s3://"))?;
        let (location, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
        if bucket.contains('@') {
            return Err(secrets());
        }
        let mut place = Self {
            bucket: checked(bucket, "the bucket's name")?,
            prefix: checked_prefix(prefix.trim_end_matches('/'))?,
            region: None,
            endpoint: None,
            path_style: None,
        };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            place.set(name, value)?;
        }
        Ok(place)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "region" => self.region = Some(checked(value, "the region")?),
            "endpoint" => self.endpoint = Some(checked_endpoint(value)?),
            "path_style" => {
                let parsed = value.parse().map_err(|_| wrong("path_style is neither true nor false"))?;
                self.path_style = Some(parsed);
            }
            name if ["key", "secret", "token", "password", "credential"].iter().any(|it| name.contains(it)) => {
                return Err(secrets());
            }
            _ => return Err(wrong("an option is none of region, endpoint and path_style")),
        }
        Ok(())
    }

    /// Whether requests go without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"))
    }

    /// Whether requests go to AWS itself.
    pub(super) fn is_aws(&self) -> bool {
        self.endpoint.is_none()
    }

    /// Whether the bucket stands in the host's name.
    pub(super) fn is_virtual_hosted(&self) -> bool {
        !self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// The server to ask, if not AWS; with the bucket in its name where that is wanted.
    pub(super) fn server(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref()?;
        match endpoint.split_once("://").filter(|_| self.is_virtual_hosted()) {
            Some((scheme, host)) => Some(format!("{scheme}://{}.{host}", self.bucket)),
            None => Some(endpoint.clone()),
        }
    }

    /// What the keys of all objects whose names begin with `name` begin with.
    pub(super) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The key of an object.
    pub(super) fn path(&self, name: &str) -> Result<Path> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let path = Path::parse(self.key(name)).ok().filter(|_| name.split('/').all(plain));
        path.ok_or_else(|| Error::invalid(format!("\"{name}\" is not the name of an object")))
    }

    /// The name of the object with this key, if it is one of this repository.
    pub(super) fn name(&self, key: &Path) -> Option<String> {
        let key = key.as_ref();
        let name = if self.prefix.is_empty() { key } else { key.strip_prefix(&self.prefix)?.strip_prefix('/')? };
        Some(name.to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        let path_style = self.path_style.map(|it| it.to_string());
        let options = [("region", &self.region), ("endpoint", &self.endpoint), ("path_style", &path_style)];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (number, (name, value)) in given.enumerate() {
            write!(f, "{}{name}={value}", if number == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// Letters that mean themselves in a key, a host's name and a URL: the "safe characters" of the S3 user guide.
fn is_safe(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!-_.*'()=".contains(letter)
}

fn checked(text: &str, what: &str) -> Result<String> {
    if !text.is_empty() && text.chars().all(is_safe) {
        return Ok(text.to_owned());
    }
    Err(wrong(&format!("{what} is empty or holds what it cannot hold")))
}

fn checked_prefix(prefix: &str) -> Result<String> {
    let plain = |part: &str| part != "." && part != ".." && checked(part, "").is_ok();
    if prefix.is_empty() || prefix.split('/').all(plain) {
        return Ok(prefix.to_owned());
    }
    Err(wrong("a part of the prefix is empty or holds other letters than a-z, A-Z, 0-9 and !-_.*'()="))
}

fn checked_endpoint(endpoint: &str) -> Result<String> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    match host.map(|host| host.trim_end_matches('/')) {
        Some(host) if host.contains('@') => Err(secrets()),
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => {
            Ok(endpoint.trim_end_matches('/').to_owned())
        }
        _ => Err(wrong("the endpoint is no http:// or https:// address")),
    }
}

fn wrong(why: &str) -> Error {
    Error::invalid(format!(
        "the repository's URL cannot be used: {why}; the form is s3://BUCKET/PREFIX?region=REGION&endpoint=URL"
    ))
}

fn secrets() -> Error {
    Error::invalid(
        "the repository's URL holds credentials, and it is shown in messages and logs: \
         take them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Place {
        Place::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn a_url_is_shown_as_it_was_given() {
        for url in [
            "s3://bucket",
            "s3://bucket/a/b",
            "s3://bucket/a?region=eu-central-1",
            "s3://bucket?region=x&endpoint=http://127.0.0.1:9000&path_style=false",
        ] {
            assert_eq!(parsed(url).to_string(), url);
        }
        assert_eq!(
            parsed("s3://bucket/a/?endpoint=https://s3.test/").to_string(),
            "s3://bucket/a?endpoint=https://s3.test"
        );
    }

    #[test]
    fn the_bucket_goes_into_the_path_of_an_endpoint_and_into_the_host_of_aws() {
        assert!(parsed("s3://b").is_virtual_hosted() && parsed("s3://b").server().is_none());
        assert_eq!(parsed("s3://b?endpoint=https://s3.test").server().as_deref(), Some("https://s3.test"));
        let hosted = parsed("s3://b?endpoint=https://s3.test&path_style=false");
        assert_eq!(hosted.server().as_deref(), Some("https://b.s3.test"));
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for url in [
            "s3://AKIA:hunter2@bucket/a",
            "s3://bucket?secret_access_key=hunter2",
            "s3://bucket?session_token=hunter2",
            "s3://bucket?endpoint=http://me:hunter2@host",
        ] {
            let error = Place::parse(url).expect_err("is refused").to_string();
            assert!(error.contains("AWS_SECRET_ACCESS_KEY") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for url in [
            "s3://",
            "s3:///a",
            "s3://b//a",
            "s3://b/a/../c",
            "s3://b/ä",
            "s3://b/a b",
            "http://b",
            "s3://b?nonsense=1",
            "s3://b?endpoint=host",
            "s3://b?endpoint=https://",
            "s3://b?path_style=1",
            "s3://b?region=",
        ] {
            assert!(Place::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_and_names_belong_together() {
        for (url, key) in [("s3://b", "l/x"), ("s3://b/a/b", "a/b/l/x")] {
            let place = parsed(url);
            let path = place.path("l/x").expect("is a name");
            assert_eq!((path.as_ref(), place.name(&path).as_deref()), (key, Some("l/x")));
        }
        assert_eq!(parsed("s3://b/a").name(&Path::from("ab/x")), None);
        assert_eq!(parsed("s3://b/a").name(&Path::from("a")), None);
    }
}
