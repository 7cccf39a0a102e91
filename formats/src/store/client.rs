//! The client of object stores, blocking at its border.
//!
//! The only place that names `object_store` and `tokio`. The client's own retries are switched off for
//! reads, so that there is one rule (`retry`), and left to it for the parts of uploads.

use std::fmt::Display;
use std::future::Future;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use super::folder::{Backend, Meta, Take};
use super::retry::{Failure, FailureKind};
use super::{Limits, StoreOptions, percent_decoded};
use crate::error::{FormatError, FormatErrorKind};

/// Slowest transfer that is waited for, in bytes a second.
const SLOWEST: u64 = 64 << 10;
/// Longest time of one request, whatever its size; the stall limit ends it sooner.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Bytes of a part of an upload.
const PART: usize = 16 << 20;
/// Parts that are under way at once.
const PARTS: usize = 4;
/// Threads of the runtime.
const THREADS: usize = 2;

/// A folder of a store, reached through the client library.
struct Client {
    reads: Arc<dyn ObjectStore>,
    writes: Arc<dyn ObjectStore>,
    /// The folder within the bucket or host.
    prefix: String,
    lists: bool,
    limits: Limits,
}

/// The client for the folder at `url`.
///
/// # Errors
/// When the settings of the environment do not make one.
pub(super) fn connect(url: &str, options: &StoreOptions) -> Result<Arc<dyn Backend>, FormatError> {
    let wrong = |e: &dyn Display| {
        FormatError::new(url, FormatErrorKind::Layout(format!("cannot set up the client: {e}")))
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = if scheme.starts_with("http") { percent_decoded(prefix) } else { prefix.into() };
    // Without one the TLS library refuses to work; another one may be set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let build = |retry: RetryConfig| store((scheme, host), options, retry).map_err(|e| wrong(&e));
    let none = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let limits = options.limits.clone();
    let some = RetryConfig {
        max_retries: limits.attempts.saturating_sub(1) as usize,
        retry_timeout: limits.total,
        backoff: BackoffConfig { init_backoff: limits.back_off, ..BackoffConfig::default() },
    };
    let (reads, writes) = (build(none)?, build(some)?);
    let lists = !scheme.starts_with("http");
    Ok(Arc::new(Client { reads, writes, prefix, lists, limits }))
}

/// A bucket or host.
fn store(
    (scheme, host): (&str, &str),
    options: &StoreOptions,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let endpoint = options.endpoint.clone();
    let plain = |url: Option<&String>| url.is_some_and(|u| u.starts_with("http://"));
    let client = |plain: bool| client_settings(&options.limits, plain);
    Ok(match scheme {
        "s3" => {
            let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
            let set = names.iter().find_map(|name| std::env::var(name).ok());
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(host).with_retry(retry);
            for (key, value) in client(plain(endpoint.as_ref().or(set.as_ref()))) {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            if let Some(endpoint) = endpoint {
                builder = builder
                    .with_config(AmazonS3ConfigKey::S3Endpoint, &endpoint)
                    .with_endpoint(endpoint);
            }
            Arc::new(builder.build()?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(host);
            let mut builder = builder.with_retry(retry);
            for (key, value) in client(plain(endpoint.as_ref())) {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_base_url(&endpoint);
            }
            Arc::new(builder.build()?)
        }
        "az" => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(host);
            let mut builder = builder.with_retry(retry);
            for (key, value) in client(plain(endpoint.as_ref())) {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Arc::new(builder.build()?)
        }
        _ => {
            let mut builder =
                HttpBuilder::new().with_url(format!("{scheme}://{host}")).with_retry(retry);
            for (key, value) in client(scheme == "http") {
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build()?)
        }
    })
}

/// Settings of the HTTP client; plain HTTP only where the user wrote it.
fn client_settings(limits: &Limits, plain: bool) -> Vec<(ClientConfigKey, String)> {
    let seconds = |time: Duration| format!("{}ms", time.as_millis());
    let mut settings = vec![
        (ClientConfigKey::ConnectTimeout, seconds(limits.connect)),
        (ClientConfigKey::ReadTimeout, seconds(limits.stall)),
        (ClientConfigKey::Timeout, seconds(LONGEST)),
        (ClientConfigKey::UserAgent, concat!("tubelet/", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    if plain {
        settings.push((ClientConfigKey::AllowHttp, "true".to_owned()));
    }
    settings
}

/// Longest time that one attempt for `bytes` may take.
fn time_for(limits: &Limits, bytes: u64) -> Duration {
    limits.connect + limits.stall + Duration::from_secs(bytes / SLOWEST)
}

impl Backend for Client {
    fn head(&self, name: &str) -> Result<Meta, Failure> {
        let (store, key) = (Arc::clone(&self.reads), self.key(name)?);
        let head = async move { store.head(&key).await };
        Ok(meta(name, &self.within(self.time(0), head)?.map_err(|e| failure(&e))?))
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<(Bytes, Meta), Failure> {
        let (store, key) = (Arc::clone(&self.reads), self.key(name)?);
        let bytes = range.end - range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let get = async move {
            let result = store.get_opts(&key, options).await?;
            let meta = result.meta.clone();
            Ok::<_, object_store::Error>((result.bytes().await?, meta))
        };
        let (bytes, found) = self.within(self.time(bytes), get)?.map_err(|e| failure(&e))?;
        Ok((bytes, meta(name, &found)))
    }

    fn get_whole(&self, name: &str, take: Take<'_>) -> Result<Meta, Failure> {
        let (store, key) = (Arc::clone(&self.reads), self.key(name)?);
        let begun = async move { store.get(&key).await };
        let result = self.within(self.time(0), begun)?.map_err(|e| failure(&e))?;
        let found = meta(name, &result.meta);
        let mut stream = result.into_stream();
        let mut at = 0;
        loop {
            let next = async move {
                let part = stream.next().await;
                (part, stream)
            };
            let (part, rest) = self.within(self.time(0), next)?;
            stream = rest;
            match part {
                None => return Ok(found),
                Some(part) => {
                    let part = part.map_err(|e| failure(&e))?;
                    take(at, &part)?;
                    at += part.len() as u64;
                }
            }
        }
    }

    fn list(&self, name: &str) -> Result<Vec<Meta>, Failure> {
        let (store, key) = (Arc::clone(&self.reads), self.key(name)?);
        let prefix = key.clone();
        // A folder of many pages may take a while; each page has its own limit.
        let list = async move { store.list_with_delimiter(Some(&prefix)).await };
        let listed = self.within(self.limits.total, list)?;
        let objects = listed.map_err(|e| failure(&e))?.objects.into_iter();
        let named = objects.filter_map(|object| {
            let own = object.location.filename()?.to_owned();
            let own = if name.is_empty() { own } else { format!("{name}/{own}") };
            Some(meta(&own, &object))
        });
        Ok(named.collect())
    }

    fn lists(&self) -> bool {
        self.lists
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<(), Failure> {
        let (store, key) = (Arc::clone(&self.writes), self.key(name)?);
        let limit = self.limits.total + self.time(bytes.len() as u64);
        let put = async move { store.put(&key, PutPayload::from_bytes(bytes)).await };
        self.within(limit, put)?.map(|_| ()).map_err(|e| failure(&e))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Failure> {
        let io = |e: std::io::Error| {
            Failure::new(FailureKind::Final, format!("{}: {e}", path.display()))
        };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let first = part_of(&mut file).map_err(io)?;
        if first.len() < PART {
            return self.put(name, first);
        }
        let (store, key) = (Arc::clone(&self.writes), self.key(name)?);
        let begun = async move { store.put_multipart(&key).await };
        let mut upload =
            self.within(self.limits.total + self.time(0), begun)?.map_err(|e| failure(&e))?;
        let limits = self.limits.clone();
        let sending = async move {
            let mut parts = FuturesUnordered::new();
            let mut next = first;
            let sent = loop {
                if next.is_empty() {
                    break drain(&mut parts, 0).await;
                }
                parts.push(upload.put_part(PutPayload::from_bytes(next)));
                if let Err(e) = drain(&mut parts, PARTS - 1).await {
                    break Err(e);
                }
                next = part_of(&mut file).map_err(|e| object_store::Error::Generic {
                    store: "file",
                    source: Box::new(e),
                })?;
            };
            drop(parts);
            let done = match sent {
                Ok(()) => upload.complete().await.map(|_| ()),
                Err(e) => Err(e),
            };
            if done.is_err() {
                // What was sent is not visible; a store that cannot be reached keeps the parts.
                let _ = tokio::time::timeout(limits.stall, upload.abort()).await;
            }
            done
        };
        let size = std::fs::metadata(path).map_err(io)?.len();
        self.within(self.limits.total + self.time(size), sending)?.map_err(|e| failure(&e))
    }
}

/// Waits until at most `most` parts are under way.
async fn drain<F>(parts: &mut FuturesUnordered<F>, most: usize) -> Result<(), object_store::Error>
where
    F: Future<Output = Result<(), object_store::Error>>,
{
    while parts.len() > most {
        if let Some(done) = parts.next().await {
            done?;
        }
    }
    Ok(())
}

/// The next part of a file.
fn part_of(file: &mut std::fs::File) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART);
    file.take(PART as u64).read_to_end(&mut part)?;
    Ok(part.into())
}

impl Client {
    fn key(&self, name: &str) -> Result<Key, Failure> {
        let text = match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}/{name}", self.prefix),
        };
        Key::parse(text).map_err(|e| Failure::new(FailureKind::Final, e.to_string()))
    }

    /// Longest time that one attempt for `bytes` may take.
    fn time(&self, bytes: u64) -> Duration {
        time_for(&self.limits, bytes)
    }

    /// Runs `task` on the runtime and waits for it, at most for `limit`.
    fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        runtime()?.spawn(async move {
            let _ = sender.send(tokio::time::timeout(limit, task).await);
        });
        match receiver.recv() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Failure::again(format!("no answer within {:.1?}", limit))),
            Err(_) => Err(Failure::again("the client's task ended early")),
        }
    }
}

/// The runtime of all clients of this process.
fn runtime() -> Result<&'static Runtime, Failure> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("tubelet-store")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())
    });
    made.as_ref()
        .map_err(|e| Failure::new(FailureKind::Final, format!("no threads for the client: {e}")))
}

fn meta(name: &str, object: &ObjectMeta) -> Meta {
    // Listings and answers quote tags differently.
    let tag = object.e_tag.as_deref().map(|t| t.trim_start_matches("W/").trim_matches('"'));
    Meta {
        name: name.to_owned(),
        bytes: object.size,
        tag: tag.map(str::to_owned),
        version: object.last_modified.timestamp().to_string(),
    }
}

/// What kind of failure an error of the client is.
fn failure(error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    let text = text_of(error);
    let kind = match error {
        E::NotFound { .. } => FailureKind::Absent,
        E::NotSupported { .. } if text.contains("ange") => FailureKind::NoRanges,
        E::Generic { .. } if text.contains("redential") => {
            let what = "no credentials that work: set those of the store in the environment \
                        (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true \
                        for a public bucket)";
            return Failure::new(FailureKind::Final, format!("{what}: {text}"));
        }
        E::Generic { .. } => match status_of(&text) {
            Some(408 | 425 | 429) | None => FailureKind::Again,
            Some(status) if status >= 500 => FailureKind::Again,
            Some(_) => FailureKind::Final,
        },
        E::JoinError { .. } => FailureKind::Again,
        _ => FailureKind::Final,
    };
    Failure::new(kind, text)
}

/// The status that an answer had, which the library only writes into its message.
fn status_of(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The error and its causes, on one line.
fn text_of(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let own = inner.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
