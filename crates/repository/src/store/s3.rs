//! A repository in an S3 bucket: format.md, "Stores".
//!
//! An object is created with one PUT that carries `If-None-Match: *`, its length and its SHA-256, so that the store takes
//! it whole and only if the name is free, and its length is then confirmed. One PUT is enough: S3 takes 5 GiB in one, packs
//! have about 32 MiB, and the largest segment of WAL has 1 GiB before compression; a conditional upload in parts is
//! understood by fewer stores. S3 answers when an object is durable, and shows it to every reader from then on. Whether
//! a store that calls itself compatible does the same is not believed but tried: [`super::probe`].
//!
//! This store asks once. Asking again is [`super::Retrying`]'s business, so the client's own retries are off, and what a
//! failure means is decided in `answer`. Requests need the runtime of the binary, which this module never names.

mod answer;
mod place;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asof_world::World;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use futures::{Stream, StreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};

use super::{Body, Created, Listed, ReadRange, Store};
use crate::error::{Error, Result};
use answer::{Call, Failure, Listening};
use place::Place;

/// The longest that a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest that an answer may take, besides the time for its bytes and those of the request.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// What a connection has to carry on average; one that is slower counts as hanging.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;
/// The largest object that one PUT can make (S3 user guide, "Uploading objects").
const LARGEST_PUT: u64 = 5 << 30;
/// The largest object that S3 can hold, as some servers do not understand larger numbers.
const LARGEST_OBJECT: u64 = 5 << 40;
/// How much memory a length that only the server told may claim before bytes come.
const MOST_RESERVED: u64 = 64 << 20;

/// Variables that say who asks, as the AWS tools name them; without any, the machine's role is asked for.
const CREDENTIALS: [(&str, AmazonS3ConfigKey); 10] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
];

/// A store in a bucket of S3, or of a server that speaks like it.
pub struct S3Store {
    client: AmazonS3,
    place: Place,
    world: World,
    /// Whether credentials were ever found: until then their absence is a mistake, afterwards a disturbance.
    had_credentials: AtomicBool,
}

impl S3Store {
    /// The store of a URL `s3://bucket/prefix?region=…&endpoint=…&path_style=true`. `variable` looks up what the AWS
    /// tools take from the environment: credentials, and the region where the URL has none. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the URL or the variables are of no use.
    pub fn new(world: World, url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let place = Place::parse(url)?;
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let region = region(&place, variable)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(place.is_virtual_hosted())
            .with_checksum_algorithm(Checksum::SHA256)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_client_options(client_options(&place))
            .with_http_connector(Listening);
        if let Some(server) = place.server() {
            builder = builder.with_endpoint(server);
        }
        for (name, key) in CREDENTIALS {
            if let Some(value) = variable(name) {
                builder = builder.with_config(key, value);
            }
        }
        let client = builder.build().map_err(|error| Error::invalid(format!("{place} cannot be used: {error}")))?;
        Ok(Self { client, place, world, had_credentials: AtomicBool::new(false) })
    }

    /// Uploads an object whose length nobody knows before its end, in parts: something for people, not of the repository. `next`
    /// gives its pieces. What fails leaves no object.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken; S3 takes no condition for uploads in parts everywhere, so it is asked before.
    pub async fn upload<E: From<Error>>(
        &self,
        name: &str,
        mut next: impl AsyncFnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let path = self.place.path(name)?;
        match self.len(name).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
            Ok(len) => return Err(Error::conflict(name, format!("an object of {len} bytes is there")).into()),
        }
        let failed = |failure: Failure| failure.of_call(Call::Create, name);
        let mut upload = self.within(0, self.client.put_multipart(&path)).await.map_err(failed)?;
        let sent = self.send_parts(upload.as_mut(), name, &mut next).await;
        if let Err(error) = sent {
            // The reason counts; parts that cannot be removed are cleared by the bucket's own rule.
            let _ = self.within(0, upload.abort()).await;
            return Err(error);
        }
        self.within(0, upload.complete()).await.map_err(failed)?;
        Ok(())
    }

    async fn send_parts<E: From<Error>>(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &str,
        next: &mut impl AsyncFnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let (mut number, mut part, mut len, mut ended) = (0u64, Vec::new(), 0u64, false);
        while !ended {
            match next().await? {
                Some(piece) => {
                    len += piece.len() as u64;
                    part.push(piece);
                }
                None => ended = true,
            }
            if len >= part_len(number) || ended && (len > 0 || number == 0) {
                let payload: PutPayload = std::mem::take(&mut part).into_iter().collect();
                let sent = self.within(len, upload.put_part(payload)).await;
                sent.map_err(|failure| failure.of_call(Call::Create, name))?;
                (number, len) = (number + 1, 0);
            }
        }
        Ok(())
    }

    /// Finds the credentials; they are kept until they expire.
    async fn authorize(&self, call: Call, name: &str) -> Result<()> {
        let Err(failure) = self.within(0, self.client.credentials().get_credential()).await else {
            self.had_credentials.store(true, Ordering::Relaxed);
            return Ok(());
        };
        if self.had_credentials.load(Ordering::Relaxed) {
            let (operation, object) = (call.verb(), name.to_owned());
            return Err(Error::Unavailable { operation, object, source: Box::new(failure) });
        }
        let why =
            "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role";
        Err(Error::denied(&self.place, format!("{why} ({failure})")))
    }

    /// Waits for an answer, as long as `bytes` on their way may take.
    async fn within<T>(&self, bytes: u64, answer: impl Future<Output = object_store::Result<T>>) -> Result<T, Failure> {
        let limit = ANSWER_LIMIT + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        match select(pin!(answer), pin!(self.world.sleep(limit))).await {
            Either::Left((answer, _)) => answer.map_err(|error| Failure::of(&error)),
            Either::Right(_) => Err(Failure::Lost(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Whether what a PUT reported as done is there as it should be.
    async fn confirm(&self, name: &str, len: u64) -> Result<Created> {
        match self.len(name).await {
            _ if asof_world::planted("f1") => Ok(Created::New),
            Ok(found) if found == len => Ok(Created::New),
            Ok(found) => Err(Error::corrupt(name, format!("{len} bytes were stored, and the store has {found}"))),
            Err(error) => {
                let (operation, object) = (Call::Create.verb(), name.to_owned());
                Err(Error::Uncertain { operation, object, source: Box::new(error) })
            }
        }
    }

    /// The bytes of an object or a part of it, as many as the answer announced.
    async fn get(&self, path: &Path, range: Option<GetRange>) -> Result<Bytes, Failure> {
        let options = GetOptions { range, ..GetOptions::default() };
        let answer = self.within(0, self.client.get_opts(path, options)).await?;
        let announced = answer.range.end.saturating_sub(answer.range.start);
        let bytes = self.within(announced, collect(answer.into_stream(), announced)).await?;
        if bytes.len() as u64 == announced {
            return Ok(bytes);
        }
        Err(Failure::Strange(format!("{announced} bytes were announced, and {} came", bytes.len())))
    }

    async fn part(&self, name: &str, path: &Path, offset: u64, len: u64) -> Result<Bytes> {
        let beyond = |has: &str| Error::corrupt(name, format!("{len} bytes from {offset} were asked for, and {has}"));
        let end = offset.checked_add(len).ok_or_else(|| beyond("no object is that long"))?;
        if len == 0 {
            // HTTP has no empty range.
            let found = self.len(name).await?;
            return if offset <= found { Ok(Bytes::new()) } else { Err(beyond(&format!("it has {found}"))) };
        }
        match self.get(path, Some(GetRange::Bounded(offset..end))).await {
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes),
            Ok(bytes) => Err(beyond(&format!("it has {} of them", bytes.len()))),
            Err(failure) => Err(failure.of_call(Call::Read, name)),
        }
    }

    async fn last(&self, name: &str, path: &Path, len: u64) -> Result<Bytes> {
        if len == 0 {
            return self.len(name).await.map(|_| Bytes::new());
        }
        match self.get(path, Some(GetRange::Suffix(len.min(LARGEST_OBJECT)))).await {
            Ok(bytes) => Ok(bytes),
            // An empty object has no last bytes (RFC 9110, section 14.1.2): 416 from S3, the whole of it from others.
            Err(failure) if failure.may_be_of_nothing() && self.len(name).await? == 0 => Ok(Bytes::new()),
            Err(failure) => Err(failure.of_call(Call::Read, name)),
        }
    }

    /// An answer to HEAD has no body, so one that says no is asked again by GET, which tells why.
    async fn len_by_get(&self, name: &str, path: &Path) -> Result<u64> {
        let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        match self.within(0, self.client.get_opts(path, options)).await {
            Ok(answer) => Ok(answer.meta.size),
            Err(failure) if failure.is_beyond_the_end() => Ok(0),
            Err(failure) => Err(failure.of_call(Call::Len, name)),
        }
    }
}

/// How long a part is: at least 5 MiB, and 10,000 of them reach what an object may hold (S3 user guide, "Multipart upload limits").
fn part_len(number: u64) -> u64 {
    (16 << 20) << (number / 1000).min(6)
}

fn region(place: &Place, variable: impl Fn(&str) -> Option<String>) -> Result<String> {
    let given = place.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    match given {
        Some(region) => Ok(region),
        // What compatible servers call theirs, unless they say otherwise.
        None if !place.is_aws() => Ok("us-east-1".to_owned()),
        None => Err(Error::invalid(format!("the region of {place} is not known: add ?region=REGION to the URL"))),
    }
}

/// The limits of time are ours, because the client's own are the same for one byte and for a gigabyte.
fn client_options(place: &Place) -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_LIMIT).with_allow_http(place.is_plain())
}

/// All bytes of an answer; stops when there are more than announced.
async fn collect(
    mut stream: impl Stream<Item = object_store::Result<Bytes>> + Unpin,
    announced: u64,
) -> object_store::Result<Bytes> {
    let reserved = usize::try_from(announced.min(MOST_RESERVED)).expect("64 MiB can be addressed");
    let mut bytes = Vec::with_capacity(reserved);
    while bytes.len() as u64 <= announced
        && let Some(next) = stream.next().await
    {
        bytes.extend_from_slice(&next?);
    }
    Ok(bytes.into())
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> String {
        self.place.to_string()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        let (path, len) = (self.place.path(name)?, body.as_slice().len() as u64);
        if len > LARGEST_PUT {
            return Err(Error::invalid(format!(
                "{name} has {len} bytes, and S3 takes {LARGEST_PUT} at most in one PUT"
            )));
        }
        self.authorize(Call::Create, name).await?;
        let put = self.client.put_opts(&path, PutPayload::from_bytes(body.to_bytes()), PutMode::Create.into());
        match self.within(len, put).await {
            Ok(_) => self.confirm(name, len).await,
            Err(failure) if failure.is_taken() => Ok(Created::Exists),
            Err(failure) => Err(failure.of_call(Call::Create, name)),
        }
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        let path = self.place.path(name)?;
        self.authorize(Call::Read, name).await?;
        match range {
            ReadRange::Whole => self.get(&path, None).await.map_err(|failure| failure.of_call(Call::Read, name)),
            ReadRange::Part { offset, len } => self.part(name, &path, offset, len).await,
            ReadRange::Last { len } => self.last(name, &path, len).await,
        }
    }

    async fn len(&self, name: &str) -> Result<u64> {
        let path = self.place.path(name)?;
        self.authorize(Call::Len, name).await?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.within(0, self.client.get_opts(&path, options)).await {
            Ok(answer) => Ok(answer.meta.size),
            Err(Failure::Refused(_)) => self.len_by_get(name, &path).await,
            Err(failure) => Err(failure.of_call(Call::Len, name)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.authorize(Call::List, prefix).await?;
        let keys = self.place.key(prefix);
        let mut found = Vec::new();
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions { page_token: page_token.take(), ..PaginatedListOptions::default() };
            let page = self.within(0, self.client.list_paginated(Some(&keys), options)).await;
            let page = page.map_err(|failure| failure.of_call(Call::List, prefix))?;
            found.extend(page.result.objects.into_iter().filter_map(|object| {
                let name = self.place.name(&object.location).filter(|name| name.starts_with(prefix))?;
                Some(Listed { name, len: object.size })
            }));
            match page.page_token {
                Some(next) => page_token = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let path = self.place.path(name)?;
        self.authorize(Call::Delete, name).await?;
        match self.within(0, self.client.delete(&path)).await.map_err(|failure| failure.of_call(Call::Delete, name)) {
            Err(Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
