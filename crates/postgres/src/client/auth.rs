//! Being let in: cleartext, MD5, SCRAM-SHA-256 with and without channel binding.
//! Source: "Start-up" and "SASL Authentication" (protocol chapter), `fe-auth.c`, PostgreSQL 18.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::error::Fault;
use super::stream::Stream;
use super::wire::{Backend, malformed, unsendable};
use crate::conninfo::{ChannelBinding, Secret};

/// Who asks, and how far the channel must be part of the proof.
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<Secret>,
    pub(crate) binding: ChannelBinding,
    /// The TLS channel, if there is one.
    pub(crate) channel: Option<Channel>,
}

/// What SCRAM can bind to.
pub(crate) struct Channel {
    /// `tls-server-end-point` data; `None` if the certificate's signature names no hash (Ed25519).
    pub(crate) end_point: Option<Vec<u8>>,
}

/// Goes from the start-up message to `AuthenticationOk`.
pub(crate) async fn authenticate(stream: &mut Stream, credentials: &Credentials<'_>) -> Result<(), Fault> {
    let mut bound = false;
    loop {
        let message = match stream.next().await? {
            Backend::Message(message) => message,
            Backend::Error(error) => return Err(Fault::server_error(error)),
            other => return Err(Fault::unexpected(other.name(), "authentication")),
        };
        match message {
            Message::AuthenticationOk => return finish(credentials, bound),
            Message::AuthenticationCleartextPassword => {
                let password = plain_password(credentials)?;
                send_password(stream, password.expose().as_bytes()).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let password = plain_password(credentials)?;
                let hash = md5_hash(credentials.user.as_bytes(), password.expose().as_bytes(), body.salt());
                send_password(stream, hash.as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => bound = scram(stream, credentials, &body).await?,
            Message::NoticeResponse(_) => {}
            other => return Err(unsupported(&other)),
        }
    }
}

fn finish(credentials: &Credentials<'_>, bound: bool) -> Result<(), Fault> {
    if credentials.binding == ChannelBinding::Require && !bound {
        return Err(unbound());
    }
    Ok(())
}

fn unbound() -> Fault {
    Fault::denied("channel_binding=require, but the server does not authenticate with SCRAM-SHA-256-PLUS over TLS")
}

fn unsupported(message: &Message) -> Fault {
    let method = match message {
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => "GSSAPI",
        Message::AuthenticationSspi => "SSPI",
        Message::AuthenticationKerberosV5 => "Kerberos V5",
        Message::AuthenticationScmCredential => "SCM credentials",
        _ => return Fault::protocol("unexpected message during authentication"),
    };
    Fault::denied(format!("the server asks for {method}, which asof does not have"))
}

fn plain_password<'a>(credentials: &'a Credentials<'_>) -> Result<&'a Secret, Fault> {
    if credentials.binding == ChannelBinding::Require {
        return Err(unbound());
    }
    password(credentials)
}

fn password<'a>(credentials: &'a Credentials<'_>) -> Result<&'a Secret, Fault> {
    let missing = || Fault::denied("the server asks for a password and none is configured");
    credentials.password.as_ref().ok_or_else(missing)
}

async fn send_password(stream: &mut Stream, password: &[u8]) -> Result<(), Fault> {
    frontend::password_message(password, stream.out()).map_err(unsendable)?;
    stream.flush().await
}

/// One SCRAM exchange; true if it was bound to the channel. Ends only after the server proved that it knows the password.
async fn scram(
    stream: &mut Stream,
    credentials: &Credentials<'_>,
    body: &AuthenticationSaslBody,
) -> Result<bool, Fault> {
    let offered = Offered::read(body)?;
    let (mechanism, binding) = choose(&offered, credentials)?;
    let password = password(credentials)?;
    let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), stream.out()).map_err(unsendable)?;
    stream.flush().await?;
    match next_sasl(stream).await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(unproven)?,
        _ => return Err(Fault::protocol("the SCRAM exchange was cut short")),
    }
    frontend::sasl_response(scram.message(), stream.out()).map_err(unsendable)?;
    stream.flush().await?;
    match next_sasl(stream).await? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(unproven)?,
        _ => return Err(Fault::protocol("the server did not prove that it knows the password")),
    }
    Ok(mechanism == sasl::SCRAM_SHA_256_PLUS)
}

fn unproven(error: std::io::Error) -> Fault {
    Fault::denied(format!("SCRAM authentication failed: {error}"))
}

async fn next_sasl(stream: &mut Stream) -> Result<Message, Fault> {
    match stream.next().await? {
        Backend::Message(message) => Ok(message),
        Backend::Error(error) => Err(Fault::server_error(error)),
        other => Err(Fault::unexpected(other.name(), "authentication")),
    }
}

#[derive(Default)]
struct Offered {
    scram: bool,
    scram_plus: bool,
}

impl Offered {
    fn read(body: &AuthenticationSaslBody) -> Result<Self, Fault> {
        let mut offered = Self::default();
        let mut mechanisms = body.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(malformed)? {
            offered.scram |= mechanism == sasl::SCRAM_SHA_256;
            offered.scram_plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        Ok(offered)
    }
}

/// The rules of `pg_SASL_init` (`fe-auth.c`, PostgreSQL 18). What is said about channel binding without using it matters:
/// "I could, you did not offer" lets the server notice that somebody in between removed the offer.
fn choose(offered: &Offered, credentials: &Credentials<'_>) -> Result<(&'static str, sasl::ChannelBinding), Fault> {
    let end_point = credentials.channel.as_ref().and_then(|channel| channel.end_point.clone());
    if offered.scram_plus && credentials.channel.is_none() {
        return Err(Fault::protocol("the server offers SCRAM-SHA-256-PLUS without TLS"));
    }
    match (credentials.binding, end_point) {
        (ChannelBinding::Prefer | ChannelBinding::Require, Some(end_point)) if offered.scram_plus => {
            Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(end_point)))
        }
        (ChannelBinding::Require, _) => Err(unbound()),
        _ if !offered.scram => Err(Fault::denied("the server offers no SASL mechanism that asof has")),
        (ChannelBinding::Prefer, Some(_)) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        _ => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
    }
}
