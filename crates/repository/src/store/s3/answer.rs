//! What the server said, or why it said nothing: from HTTP to the kinds of [`Error`].
//!
//! Every answer passes [`Listening`], which turns a refusal into a typed [`Refusal`] and looks into answers of status 200
//! that are errors all the same. What remains is decided by one question: may the call have happened? A creation or
//! deletion is *not done* when no connection was made or S3 documents the refusal as such; it is *unknown* when the
//! connection was lost later, and for every other answer of the 5xx family, which gateways give for requests that
//! arrived. Absence is believed only when S3 itself says `NoSuchKey`: a bucket that is gone, or a web server that is no
//! S3, answers 404 as well.

use std::error::Error as StdError;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

use crate::error::Error;

/// Most of an error's text that is read; S3's are below 1 KiB.
const LONGEST_ERROR: usize = 16 * 1024;
/// Most of an error's message that is shown.
const LONGEST_MESSAGE: usize = 300;

/// A call to the server, as far as messages and reactions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Create,
    Read,
    Len,
    List,
    Delete,
}

impl Call {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Len => "look at",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }

    fn right(self) -> &'static str {
        match self {
            Self::Create => "s3:PutObject",
            // Without the second, S3 answers 403 for a key that does not exist.
            Self::Read | Self::Len => "s3:GetObject, and s3:ListBucket on the bucket",
            Self::List => "s3:ListBucket on the bucket",
            Self::Delete => "s3:DeleteObject",
        }
    }

    fn changes(self) -> bool {
        matches!(self, Self::Create | Self::Delete)
    }
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// S3's word for it; empty when there was none, as in every answer to HEAD.
    pub(super) code: String,
    message: String,
}

impl Refusal {
    fn read(status: u16, text: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.chars().take(LONGEST_MESSAGE).collect::<String>())
        };
        Self { status, code: element("Code").unwrap_or_default(), message: element("Message").unwrap_or_default() }
    }

    fn meaning(&self) -> Meaning {
        match (self.code.as_str(), self.status) {
            ("NoSuchKey", _) => Meaning::Absent,
            ("InvalidRange", _) | (_, 416) => Meaning::BeyondTheEnd,
            (
                "AccessDenied"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "RequestTimeTooSkewed"
                | "RequestExpired",
                _,
            )
            | (_, 401 | 403) => Meaning::Forbidden,
            // Documented as not carried out: throttling, a lost race for the key, a body that did not arrive whole.
            (
                "SlowDown"
                | "ServiceUnavailable"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "RequestTimeout"
                | "ConditionalRequestConflict"
                | "OperationAborted"
                | "BadDigest"
                | "IncompleteBody"
                | "XAmzContentSHA256Mismatch"
                | "XAmzContentChecksumMismatch",
                _,
            )
            | (_, 408 | 409 | 429) => Meaning::NotDone,
            ("NotImplemented", _) | (_, 501) => Meaning::Senseless,
            (_, 200..=299 | 500..=599) => Meaning::InDoubt,
            _ => Meaning::Senseless,
        }
    }

    fn hint(&self, call: Call) -> String {
        match self.code.as_str() {
            "NoSuchBucket" => "; asof makes no buckets: create it, or mend the URL".to_owned(),
            "RequestTimeTooSkewed" | "RequestExpired" => "; this machine's clock is wrong".to_owned(),
            "ExpiredToken" | "TokenRefreshRequired" => "; get a new session token".to_owned(),
            "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
                "; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN".to_owned()
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                "; the bucket is in another region: say which in the URL (?region=…)".to_owned()
            }
            "AccessDenied" | "" if self.status == 403 => format!("; the credentials need {}", call.right()),
            _ => String::new(),
        }
    }
}

/// What a refusal means for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Absent,
    BeyondTheEnd,
    Forbidden,
    NotDone,
    InDoubt,
    Senseless,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer was {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

impl StdError for Refusal {}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server said no.
    Refused(Refusal),
    /// There was no connection, so nothing was asked.
    NotSent(String),
    /// The request may have arrived; its answer did not, or not whole.
    Lost(String),
    /// The answer came and does not fit the question.
    Strange(String),
}

impl Failure {
    /// Sorts an error of the client.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut links = chain(error);
        let known = links.find_map(|link| match link.downcast_ref::<Refusal>() {
            Some(refusal) => Some(Self::Refused(refusal.clone())),
            None => link.downcast_ref::<HttpError>().filter(|http| !wraps_refusal(http)).map(Self::of_transport),
        });
        known.unwrap_or_else(|| Self::Strange(innermost(error)))
    }

    fn of_transport(error: &HttpError) -> Self {
        let client = error.source().and_then(|source| source.downcast_ref::<reqwest::Error>());
        // The kind of a connection that was not made in time is Timeout, like that of a lost answer.
        let not_sent = error.kind() == HttpErrorKind::Connect || client.is_some_and(reqwest::Error::is_connect);
        let words = innermost(error);
        if not_sent { Self::NotSent(format!("no connection: {words}")) } else { Self::Lost(words) }
    }

    /// Whether a creation failed because the name is taken; 304 is what some servers say instead of 412.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: 304 | 412, .. }))
    }

    pub(super) fn is_beyond_the_end(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.meaning() == Meaning::BeyondTheEnd)
    }

    /// Whether this may be the answer to a question for the last bytes of an empty object.
    pub(super) fn may_be_of_nothing(&self) -> bool {
        self.is_beyond_the_end() || matches!(self, Self::Strange(_))
    }

    /// The error of a call that ended so.
    pub(super) fn of_call(self, call: Call, object: &str) -> Error {
        let (operation, name) = (call.verb(), object.to_owned());
        match &self {
            Self::Refused(refusal) => match refusal.meaning() {
                Meaning::Absent => Error::NotFound { object: name },
                Meaning::BeyondTheEnd => Error::corrupt(object, "it ends before the bytes that were asked for"),
                Meaning::Forbidden => {
                    let why = format!("the store does not let us {operation} it: {refusal}{}", refusal.hint(call));
                    Error::denied(object, why)
                }
                Meaning::Senseless => {
                    let what = format!("the store cannot {operation} {object}: {refusal}{}", refusal.hint(call));
                    Error::invalid(what)
                }
                Meaning::InDoubt if call.changes() => {
                    Error::Uncertain { operation, object: name, source: Box::new(self) }
                }
                Meaning::NotDone | Meaning::InDoubt => {
                    Error::Unavailable { operation, object: name, source: Box::new(self) }
                }
            },
            Self::Lost(_) | Self::Strange(_) if call.changes() => {
                Error::Uncertain { operation, object: name, source: Box::new(self) }
            }
            Self::NotSent(_) | Self::Lost(_) => Error::Unavailable { operation, object: name, source: Box::new(self) },
            Self::Strange(why) => Error::corrupt(object, format!("the store's answer does not fit: {why}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::NotSent(words) | Self::Lost(words) | Self::Strange(words) => f.write_str(words),
        }
    }
}

impl StdError for Failure {}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let now = next?;
        next = now.source();
        Some(now)
    })
}

fn wraps_refusal(error: &HttpError) -> bool {
    error.source().is_some_and(|source| source.is::<Refusal>())
}

/// The last two links of a chain: what happened, and what the system called it.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let words: Vec<String> = chain(error).map(ToString::to_string).collect();
    words[words.len().saturating_sub(2)..].join(": ")
}

/// Makes clients that turn refusals into [`Refusal`]s.
#[derive(Debug, Default)]
pub(super) struct Listening;

impl HttpConnector for Listening {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Listener(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Listener(HttpClient);

#[async_trait]
impl HttpService for Listener {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_put = request.method().as_str() == "PUT";
        let wants_part = request.headers().contains_key("range");
        let answer = self.0.execute(request).await?;
        let (status, is_success) = (answer.status().as_u16(), answer.status().is_success());
        // The answers of a token service to PUT are not empty, and they are no XML.
        let is_suspect = is_put || (wants_part && status != 206);
        if is_success && !is_suspect {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        let text = beginning(body).await;
        if is_success && !String::from_utf8_lossy(&text).contains("<Error>") {
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        let refusal = Refusal::read(status, &String::from_utf8_lossy(&text));
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

/// The beginning of a body, or of what came of it: the status counts also when the explanation is cut.
async fn beginning(body: HttpResponseBody) -> Bytes {
    let mut read = Vec::new();
    let mut stream = body.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        read.extend_from_slice(&bytes);
        if read.len() > LONGEST_ERROR {
            read.truncate(LONGEST_ERROR);
            break;
        }
    }
    read.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(call: Call, status: u16, code: &str, expect: &str) {
        let text = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>why</Message></Error>");
        let refusal = Refusal::read(status, if code.is_empty() { "" } else { &text });
        let error = Failure::Refused(refusal).of_call(call, "l/x");
        let debug = format!("{error:?}");
        assert_eq!(debug.split([' ', '{']).next(), Some(expect), "{call:?} {status} {code}: {error}");
    }

    #[test]
    fn absence_is_believed_from_s3_only() {
        check(Call::Read, 404, "NoSuchKey", "NotFound");
        check(Call::Read, 404, "NoSuchBucket", "Invalid");
        check(Call::Read, 404, "", "Invalid");
    }

    #[test]
    fn a_missing_right_is_named() {
        check(Call::Create, 403, "AccessDenied", "Denied");
        check(Call::Create, 400, "ExpiredToken", "Denied");
        check(Call::Read, 403, "RequestTimeTooSkewed", "Denied");
        check(Call::Read, 401, "", "Denied");
        let refusal = Refusal::read(403, "<Error><Code>AccessDenied</Code></Error>");
        let error = Failure::Refused(refusal).of_call(Call::Delete, "l/x").to_string();
        assert!(error.contains("s3:DeleteObject"), "{error}");
    }

    #[test]
    fn a_change_is_in_doubt_unless_s3_says_that_it_was_not_made() {
        for call in [Call::Create, Call::Delete] {
            check(call, 503, "SlowDown", "Unavailable");
            check(call, 429, "", "Unavailable");
            check(call, 409, "ConditionalRequestConflict", "Unavailable");
            check(call, 400, "BadDigest", "Unavailable");
            check(call, 500, "InternalError", "Uncertain");
            check(call, 503, "", "Uncertain");
            check(call, 502, "", "Uncertain");
            check(call, 200, "InternalError", "Uncertain");
        }
    }

    #[test]
    fn a_question_is_asked_again_after_any_failure_of_the_server() {
        for call in [Call::Read, Call::Len, Call::List] {
            for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (504, ""), (200, "InternalError")] {
                check(call, status, code, "Unavailable");
            }
        }
    }

    #[test]
    fn what_asking_again_does_not_mend_is_not_asked_again() {
        check(Call::Read, 416, "InvalidRange", "Corrupt");
        check(Call::Create, 301, "PermanentRedirect", "Invalid");
        check(Call::Create, 400, "AuthorizationHeaderMalformed", "Invalid");
        check(Call::Create, 501, "NotImplemented", "Invalid");
        check(Call::Create, 405, "MethodNotAllowed", "Invalid");
    }
}
