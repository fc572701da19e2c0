//! What servers do wrong, done by one that is told to: answers that are lost, cut, late, too many, or lies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::failure::{Failure, Kind};

/// A request as it came.
struct Asked {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
}

impl Asked {
    /// Which of the SDK's attempts it is, from 1.
    fn attempt(&self) -> u32 {
        let told = self.headers.get("amz-sdk-request").and_then(|text| text.split("attempt=").nth(1));
        told.and_then(|text| text.split(';').next()).and_then(|text| text.trim().parse().ok()).unwrap_or(1)
    }
}

struct Reply {
    status: u16,
    headers: String,
    body: String,
    /// How much of the body is sent before the connection is closed; all where `None`.
    cut: Option<usize>,
    /// The connection stays open after that much.
    stall: bool,
}

fn reply(status: u16, body: &str) -> Reply {
    Reply { status, headers: String::new(), body: body.to_owned(), cut: None, stall: false }
}

fn error(status: u16, code: &str) -> Reply {
    reply(status, &format!("<Error><Code>{code}</Code><Message>said</Message></Error>"))
}

impl Reply {
    fn with(mut self, header: &str) -> Self {
        self.headers += header;
        self.headers += "\r\n";
        self
    }
}

/// No answer at all.
fn hang_up() -> Reply {
    Reply { cut: Some(0), ..reply(0, "") }
}

/// A server that answers what `answer` says; that it keeps versions and locks, it always claims.
async fn server(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move { serve(stream, answer.as_ref()).await });
        }
    });
    endpoint
}

async fn serve(mut stream: TcpStream, answer: &(impl Fn(&Asked) -> Reply + Send + Sync)) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut words = text.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let headers = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < head + length {
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    let asked = Asked { method, target, headers };
    let reply = match asked.target.as_str() {
        target if target.contains("?versioning") => {
            reply(200, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
        }
        target if target.contains("?object-lock") => {
            let enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>";
            reply(200, &format!("<ObjectLockConfiguration>{enabled}</ObjectLockConfiguration>"))
        }
        _ => answer(&asked),
    };
    if reply.status == 0 {
        return None;
    }
    let Reply { status, headers, body, cut, stall } = reply;
    let date = "date: Sun, 22 Nov 2026 11:00:00 GMT\r\nconnection: close";
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{date}\r\n{headers}content-length: {length}\r\n\r\n");
    let sent = if asked.method == "HEAD" { "" } else { body.get(..cut.unwrap_or(length))? };
    stream.write_all(format!("{head}{sent}").as_bytes()).await.ok()?;
    if stall {
        std::future::pending::<()>().await;
    }
    Some(())
}

async fn open(endpoint: &str) -> S3Store {
    let keys = Credentials::new("THEACCESSKEY", "the-secret-key", Some("the-token".to_owned()), None, "test");
    let options = S3Options {
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        access: Access::Keys(keys),
        patience: Duration::from_secs(1),
        attempts: 3,
        ..S3Options::new("bucket")
    };
    S3Store::open(options).await.unwrap()
}

fn later() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

fn retention(until: &str) -> Reply {
    reply(200, &format!("<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"))
}

#[tokio::test]
async fn a_store_that_says_yes_and_locks_nothing_is_refused() {
    for lie in [
        || error(404, "NoSuchObjectLockConfiguration"),
        || retention("2026-11-22T12:00:00Z"),
        || {
            reply(
                200,
                "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>",
            )
        },
    ] {
        let endpoint = server(move |asked| match asked.method.as_str() {
            "PUT" => reply(200, "").with("x-amz-version-id: 1"),
            _ => lie(),
        });
        let store = open(&endpoint.await).await;
        for _ in 0..2 {
            let put = store.put("a", Bytes::from_static(b"x"), later()).await;
            assert!(matches!(put, Err(StoreError::Unfit { .. })), "{put:?}");
        }
    }
    let endpoint = server(|_| reply(200, "")).await; // no version
    let put = open(&endpoint).await.put("a", Bytes::from_static(b"x"), later()).await;
    assert!(matches!(put, Err(StoreError::Unfit { .. })), "{put:?}");
}

/// Ceph 16 and 18 do this.
#[tokio::test]
async fn a_lock_that_is_dropped_from_an_upload_in_parts_is_set_afterwards_or_nothing_is_stored() {
    for sets in [true, false] {
        let locked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = locked.clone();
        let endpoint = server(move |asked| match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", target) if target.contains("uploads") => {
                reply(200, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
            }
            ("POST", _) => reply(200, "<CompleteMultipartUploadResult/>").with("x-amz-version-id: v1"),
            ("PUT", target) if target.contains("retention") => {
                seen.store(sets, Ordering::Relaxed);
                reply(200, "")
            }
            ("PUT", _) => reply(200, "").with("etag: \"e\""),
            _ if seen.load(Ordering::Relaxed) => retention("2026-11-23T00:00:00Z"),
            _ => error(404, "NoSuchObjectLockConfiguration"),
        });
        let mut store = open(&endpoint.await).await;
        store.options.multipart_from = 1;
        let put = store.put("a", Bytes::from_static(b"x"), later()).await;
        match sets {
            true => assert_eq!(put.unwrap(), Version("v1".to_owned())),
            false => assert!(matches!(put, Err(StoreError::Unfit { .. })), "{put:?}"),
        }
        assert_eq!(locked.load(Ordering::Relaxed), sets);
    }
}

#[tokio::test]
async fn a_put_whose_answer_got_lost_finds_itself_and_another_s_is_told_apart() {
    for ours in [true, false] {
        let mark = Arc::new(std::sync::Mutex::new(String::new()));
        let endpoint = server(move |asked| match asked.method.as_str() {
            "PUT" if asked.attempt() == 1 => {
                *mark.lock().unwrap() = asked.headers["x-amz-meta-lifeboat-put"].clone();
                hang_up()
            }
            "PUT" => error(412, "PreconditionFailed"),
            "HEAD" => {
                let mark = if ours { mark.lock().unwrap().clone() } else { "another".to_owned() };
                reply(200, "").with(&format!("x-amz-meta-lifeboat-put: {mark}\r\nx-amz-version-id: v7"))
            }
            _ => retention("2026-11-23T00:00:00Z"),
        });
        let put = open(&endpoint.await).await.put("a", Bytes::from_static(b"x"), later()).await;
        match ours {
            true => assert_eq!(put.unwrap(), Version("v7".to_owned())),
            false => assert!(matches!(put, Err(StoreError::Exists { .. })), "{put:?}"),
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_stalls_is_asked_for_again() {
    for stall in [false, true] {
        let count = Arc::new(AtomicU32::new(0));
        let seen = count.clone();
        let endpoint = server(move |_| {
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            Reply { cut: first.then_some(4), stall: first && stall, ..reply(200, "0123456789") }
        });
        let store = open(&endpoint.await).await;
        assert_eq!(store.get("a", None, None).await.unwrap(), "0123456789");
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
    let endpoint = server(|_| Reply { cut: Some(4), ..reply(200, "0123456789") }).await;
    let always = open(&endpoint).await.get("a", None, None).await.unwrap_err();
    assert_eq!(Failure::from(always).kind, Kind::Unreachable, "never the shorter body");
}

#[tokio::test]
async fn a_range_is_the_one_that_was_asked_for() {
    for (status, header, body, wanted) in [
        (206, "content-range: bytes 2-4/10", "234", "ok"),
        (206, "content-range: bytes 3-5/10", "345", "other"),
        (206, "content-range: bytes 2-4/10", "23", "other"),
        (206, "content-range: bytes 2-3/4", "23", "short"),
        (206, "content-range: bytes two", "234", "other"),
        (200, "x: y", "0123456789", "other"),
    ] {
        let endpoint = server(move |_| reply(status, body).with(header)).await;
        let got = open(&endpoint).await.get("a", None, Some(2..5)).await;
        let found = match &got {
            Ok(bytes) if bytes == "234" => "ok",
            Err(StoreError::BadRange { bytes: 4, .. }) => "short",
            Err(StoreError::Other { .. }) => "other",
            _ => "wrong",
        };
        assert_eq!(found, wanted, "{header}: {got:?}");
    }
}

#[tokio::test]
async fn throttling_is_met_by_fewer_requests_and_all_get_through() {
    let endpoint = server(|asked| if asked.attempt() == 1 { error(503, "SlowDown") } else { reply(200, "x") }).await;
    let store = open(&endpoint).await;
    let gets = (0..24).map(|n| {
        let store = &store;
        async move { store.get(&format!("a/{n}"), None, None).await }
    });
    let got = futures::future::join_all(gets).await;
    assert!(got.iter().all(|got| got.as_ref().is_ok_and(|bytes| bytes == "x")), "{got:?}");
    assert!(store.gate.allowed() < 16.0, "{} are allowed", store.gate.allowed());
}

#[tokio::test]
async fn an_expired_session_is_said_and_its_token_is_not() {
    let endpoint = server(|_| error(400, "ExpiredToken")).await;
    let store = open(&endpoint).await;
    let error = store.get("a", None, None).await.unwrap_err();
    let said = format!("{error:?} {store:?}") + &Failure::from(error).to_string();
    assert!(said.contains("token has expired"), "{said}");
    for secret in ["the-secret-key", "the-token"] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn a_listing_in_circles_or_out_of_order_is_an_error() {
    let version = |key: &str| {
        format!(
            "<Version><Key>{key}</Key><VersionId>1</VersionId><IsLatest>true</IsLatest><Size>1</Size>\
             <LastModified>2026-11-22T10:00:00.000Z</LastModified></Version>"
        )
    };
    let truncated = "<IsTruncated>true</IsTruncated><NextKeyMarker>b</NextKeyMarker>";
    for page in [
        format!("{truncated}{}", version("b")),
        format!("{}{}", version("b"), version("a")),
        format!("<IsTruncated>true</IsTruncated>{}", version("b")),
        version("b").replace("<Size>1</Size>", "<Size>-1</Size>"),
    ] {
        let text = format!("<ListVersionsResult>{page}</ListVersionsResult>");
        let endpoint = server(move |_| reply(200, &text)).await;
        let found: Result<Vec<_>, _> = open(&endpoint).await.list("").try_collect().await;
        assert!(matches!(found, Err(StoreError::Other { .. })), "{page}: {found:?}");
    }
}

#[tokio::test]
async fn the_time_is_the_server_s() {
    let endpoint = server(|_| reply(200, "")).await;
    let now = open(&endpoint).await.now().await.unwrap();
    let since = now.duration_since("2026-11-22T11:00:00Z".parse().unwrap());
    assert!(!since.is_negative() && since < jiff::SignedDuration::from_mins(1), "{now}");
}
