//! An object store on loopback for tests: plain HTTP with ranges and what is needed of S3's dialect,
//! with faults by a seeded schedule.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An answer with this status.
    Status(u16),
    /// No answer, or after half of the body none more.
    Stall,
    /// The connection is closed after half of the body.
    Truncate,
    /// A partial answer that starts and ends elsewhere, and says so.
    WrongRange,
    /// The right headers with a shorter body, and a length that fits it.
    Short,
    /// The right headers with other bytes.
    Garbage,
    /// The connection is closed without an answer.
    Reset,
}

/// All faults, each as likely.
pub(crate) const FAULTS: [Fault; 9] = [
    Fault::Status(503),
    Fault::Status(500),
    Fault::Status(429),
    Fault::Stall,
    Fault::Truncate,
    Fault::WrongRange,
    Fault::Short,
    Fault::Reset,
    Fault::Garbage,
];

/// Objects a page of a listing, so that small folders have several.
const PAGE: usize = 3;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) key: String,
    pub(crate) range: Option<Range<u64>>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, Vec<u8>>>>,
    seen: Mutex<Vec<Seen>>,
    schedule: Mutex<Option<Schedule>>,
    /// Requests for keys that contain this text always fail so.
    broken: Mutex<Option<(String, Fault)>>,
    whole_only: AtomicBool,
    numbers: AtomicU64,
    stopped: AtomicBool,
}

#[derive(Clone)]
struct Schedule {
    seed: u64,
    share: f64,
    faults: Vec<Fault>,
}

/// A running server; it stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Self { address, state }
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes the files below `folder` objects below `key`.
    pub(crate) fn put_tree(&self, key: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            let key = format!("{key}/{name}");
            if path.is_dir() {
                self.put_tree(&key, &path);
            } else {
                self.put(&key, std::fs::read(&path).expect("readable"));
            }
        }
    }

    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        locked(&self.state.objects).insert(key.to_owned(), Arc::new(bytes));
    }

    pub(crate) fn remove(&self, key: &str) {
        locked(&self.state.objects).remove(key);
    }

    /// All objects below `key`, by what follows it.
    pub(crate) fn tree(&self, key: &str) -> BTreeMap<String, Vec<u8>> {
        let objects = locked(&self.state.objects);
        let below = objects.iter().filter_map(|(k, v)| {
            Some((k.strip_prefix(key)?.strip_prefix('/')?.to_owned(), v.as_ref().clone()))
        });
        below.collect()
    }

    /// From now on, this share of the requests fails.
    pub(crate) fn fail(&self, seed: u64, share: f64, faults: &[Fault]) {
        *locked(&self.state.schedule) = Some(Schedule { seed, share, faults: faults.to_vec() });
    }

    /// From now on, requests for keys that contain `text` always fail.
    pub(crate) fn break_key(&self, text: &str, fault: Fault) {
        *locked(&self.state.broken) = Some((text.to_owned(), fault));
    }

    /// From now on, nothing fails.
    pub(crate) fn heal(&self) {
        *locked(&self.state.schedule) = None;
        *locked(&self.state.broken) = None;
    }

    /// Ranges are ignored from now on, as simple servers do.
    pub(crate) fn whole_only(&self) {
        self.state.whole_only.store(true, Ordering::Relaxed);
    }

    /// What was asked for since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut locked(&self.state.seen))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// A request without its body.
struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    range: Option<Range<u64>>,
    body: Vec<u8>,
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    });
    let mut request = Request {
        method: method.to_owned(),
        key: decoded(path.trim_start_matches('/')),
        query: pairs.collect(),
        range: None,
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "range" => {
                let (first, last) =
                    value.trim_start_matches("bytes=").split_once('-').expect("a range");
                let end: u64 = last.parse().expect("bounded");
                request.range = Some(first.parse().expect("bounded")..end + 1);
            }
            _ => {}
        }
    }
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok()).flatten();
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn serve(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let fault = state.fault(&request);
        locked(&state.seen).push(Seen {
            method: request.method.clone(),
            key: request.key.clone(),
            range: request.range.clone(),
            fault,
        });
        if !answer(stream, state, &request, fault)? {
            return Ok(());
        }
    }
    Ok(())
}

impl State {
    fn fault(&self, request: &Request) -> Option<Fault> {
        if let Some((text, fault)) = &*locked(&self.broken)
            && request.key.contains(text.as_str())
        {
            return Some(*fault);
        }
        let schedule = locked(&self.schedule).clone()?;
        let n = self.numbers.fetch_add(1, Ordering::Relaxed);
        let draw = mixed(schedule.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ mixed(n + 1));
        let share = (draw >> 11) as f64 / (1u64 << 53) as f64;
        let which = (mixed(draw) % schedule.faults.len() as u64) as usize;
        (share < schedule.share).then(|| schedule.faults[which])
    }
}

fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn tag(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3));
    format!("\"{hash:016x}\"")
}

/// An answer: status, headers, body.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Answers a request; whether the connection stays.
fn answer(
    mut stream: &TcpStream,
    state: &State,
    request: &Request,
    fault: Option<Fault>,
) -> std::io::Result<bool> {
    match fault {
        Some(Fault::Reset) => return Ok(false),
        Some(Fault::Status(status)) => {
            send(
                stream,
                request,
                &Answer::new(status, "<Error><Code>Injected</Code></Error>"),
                None,
            )?;
            return Ok(true);
        }
        Some(Fault::Stall) if request.body.len() % 2 == 0 && request.range.is_none() => {
            wait_for_the_end(stream);
            return Ok(false);
        }
        _ => {}
    }
    let mut answer = match request.method.as_str() {
        "GET" | "HEAD" if request.query.contains_key("list-type") => list(state, request),
        "GET" | "HEAD" => get(state, request, fault == Some(Fault::WrongRange)),
        "PUT" | "POST" | "DELETE" => write(state, request),
        _ => Answer::new(405, "not known"),
    };
    match fault {
        // Of a whole object nobody could tell.
        Some(Fault::Short) if request.range.is_some() => {
            answer.body.pop();
        }
        Some(Fault::Garbage) if request.range.is_some() => {
            answer.body.iter_mut().for_each(|b| *b ^= 0x55)
        }
        Some(Fault::Truncate | Fault::Stall) => {
            let half = answer.body.len() / 2;
            send(stream, request, &answer, Some(half))?;
            stream.flush()?;
            if fault == Some(Fault::Stall) {
                wait_for_the_end(stream);
            }
            return Ok(false);
        }
        _ => {}
    }
    send(stream, request, &answer, None)?;
    Ok(true)
}

/// Sends nothing until the other side gives up.
fn wait_for_the_end(mut stream: &TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let _ = stream.read(&mut [0; 1]);
}

/// Sends an answer, of its body only `part` where one is given.
fn send(
    mut stream: &TcpStream,
    request: &Request,
    answer: &Answer,
    part: Option<usize>,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Some Reason\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    stream.write_all(&answer.body[..part.unwrap_or(answer.body.len())])
}

fn get(state: &State, request: &Request, shifted: bool) -> Answer {
    let Some(object) = locked(&state.objects).get(&request.key).cloned() else {
        return Answer::new(404, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let size = object.len() as u64;
    let common = |answer: Answer| {
        answer
            .with("ETag", tag(&object))
            .with("Last-Modified", "Tue, 01 Jul 2025 10:00:00 GMT".to_owned())
    };
    match &request.range {
        Some(range) if !state.whole_only.load(Ordering::Relaxed) => {
            let shift = u64::from(shifted);
            let (start, end) = (range.start + shift, (range.end + shift).min(size));
            if start >= end {
                return Answer::new(416, "");
            }
            let body = object[start as usize..end as usize].to_vec();
            let place = format!("bytes {start}-{}/{size}", end - 1);
            common(Answer::new(206, body).with("Content-Range", place))
        }
        _ if request.method == "HEAD" => {
            common(Answer::new(200, "").with("Content-Length", size.to_string()))
        }
        _ => common(Answer::new(200, object.as_ref().clone())),
    }
}

/// ListObjectsV2 of the bucket that the path names.
fn list(state: &State, request: &Request) -> Answer {
    let bucket = request.key.trim_end_matches('/');
    let text = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) =
        (text("prefix"), text("delimiter"), text("continuation-token"));
    let mut entries = BTreeMap::new();
    for (key, bytes) in locked(&state.objects).iter() {
        let Some(key) = key.strip_prefix(bucket).and_then(|k| k.strip_prefix('/')) else {
            continue;
        };
        let Some(rest) = key.strip_prefix(&prefix) else { continue };
        match rest.split_once(delimiter.as_str()).filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => entries.insert(format!("{prefix}{folder}{delimiter}"), None),
            None => entries.insert(key.to_owned(), Some(Arc::clone(bytes))),
        };
    }
    let rest: Vec<_> = entries.into_iter().filter(|(key, _)| *key > after).collect();
    let mut body = "<?xml version=\"1.0\"?><ListBucketResult>".to_owned();
    for (key, object) in rest.iter().take(PAGE) {
        body += &match object {
            None => format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"),
            Some(bytes) => format!(
                "<Contents><Key>{key}</Key><LastModified>2025-07-01T10:00:00.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                tag(bytes).replace('"', "&quot;"),
                bytes.len()
            ),
        };
    }
    if rest.len() > PAGE {
        let next = &rest[PAGE - 1].0;
        body += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    body += &format!("<IsTruncated>{}</IsTruncated></ListBucketResult>", rest.len() > PAGE);
    Answer::new(200, body)
}

/// Objects and uploads in parts.
fn write(state: &State, request: &Request) -> Answer {
    let upload = request.query.get("uploadId").cloned();
    let part: Option<u32> = request.query.get("partNumber").and_then(|n| n.parse().ok());
    let mut uploads = locked(&state.uploads);
    match (request.method.as_str(), upload, part) {
        ("POST", None, _) if request.query.contains_key("uploads") => {
            let id = format!("upload-{}", uploads.len());
            uploads.insert(id.clone(), BTreeMap::new());
            Answer::new(
                200,
                format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                ),
            )
        }
        ("PUT", Some(id), Some(part)) => match uploads.get_mut(&id) {
            Some(parts) => {
                parts.insert(part, request.body.clone());
                Answer::new(200, "").with("ETag", tag(&request.body))
            }
            None => Answer::new(404, "<Error><Code>NoSuchUpload</Code></Error>"),
        },
        ("POST", Some(id), _) => match uploads.get(&id) {
            Some(parts) => {
                let bytes: Vec<u8> = parts.values().flatten().copied().collect();
                let etag = tag(&bytes).replace('"', "&quot;");
                locked(&state.objects).insert(request.key.clone(), Arc::new(bytes));
                Answer::new(
                    200,
                    format!(
                        "<CompleteMultipartUploadResult><ETag>{etag}</ETag>\
                         </CompleteMultipartUploadResult>"
                    ),
                )
            }
            None => Answer::new(404, "<Error><Code>NoSuchUpload</Code></Error>"),
        },
        ("DELETE", _, _) => Answer::new(204, ""),
        ("PUT", None, _) => {
            locked(&state.objects).insert(request.key.clone(), Arc::new(request.body.clone()));
            Answer::new(200, "").with("ETag", tag(&request.body))
        }
        _ => Answer::new(400, "<Error><Code>InvalidRequest</Code></Error>"),
    }
}
