//! The load: signed requests built once, sent over connections that stay open. One thread drives all connections, so that
//! little of the machine goes into the measuring.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What botocore calls itself: headers and records have their usual length.
const USER_AGENT: &str = "Boto3/1.41.0 md/Botocore#1.41.0 ua/2.1 os/linux#6.1.0 md/arch#x86_64 lang/python#3.13.5 \
                          md/pyimpl#CPython cfg/retry-mode#standard Botocore/1.41.0";
const SIGNED: &str = "content-type;host;x-amz-date;x-amz-target";

#[derive(Clone)]
pub struct Credentials {
    pub id: String,
    pub secret: String,
    pub region: String,
}

/// A request and its headers, signed for 15 minutes from now.
#[derive(Clone)]
pub struct Signed {
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Signed {
    pub fn new(credentials: &Credentials, host: &str, operation: &str, body: String) -> Signed {
        let now = time::OffsetDateTime::now_utc();
        let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        let date = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let target = format!("TrentService.{operation}");
        let content_type = "application/x-amz-json-1.1";
        let canonical = format!(
            "POST\n/\n\ncontent-type:{content_type}\nhost:{host}\nx-amz-date:{date}\nx-amz-target:{target}\n\n{SIGNED}\n{}",
            sha256(body.as_bytes())
        );
        let scope = format!("{day}/{}/kms/aws4_request", credentials.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let mut key = format!("AWS4{}", credentials.secret).into_bytes();
        for part in [&day, &credentials.region, "kms", "aws4_request", &to_sign] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={SIGNED}, Signature={}",
            credentials.id,
            hex::encode(key)
        );
        let headers = vec![
            ("host", host.to_owned()),
            ("accept-encoding", "identity".to_owned()),
            ("x-amz-target", target),
            ("content-type", content_type.to_owned()),
            ("user-agent", USER_AGENT.to_owned()),
            ("x-amz-date", date),
            ("authorization", authorization),
            ("amz-sdk-invocation-id", "0b0a9b62-7b6a-4f6a-9d7e-0c0d8c7e5a11".to_owned()),
            ("amz-sdk-request", "attempt=1".to_owned()),
            ("content-length", body.len().to_string()),
        ];
        Signed { headers, body }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = "POST / HTTP/1.1\r\n".to_owned();
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n" + &self.body).into_bytes()
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: vec![0; 64 * 1024] })
    }

    /// The body of the answer; an answer other than 200 is an error that shows it.
    pub async fn ask(&mut self, request: &[u8]) -> std::io::Result<&[u8]> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(std::io::Error::other("the server closed the connection"));
            }
            filled += read;
            if let Some((head, body)) = complete(&self.buffer[..filled]) {
                if !self.buffer.starts_with(b"HTTP/1.1 200 ") {
                    let text = String::from_utf8_lossy(&self.buffer[..filled]);
                    return Err(std::io::Error::other(format!("not 200: {text}")));
                }
                return Ok(&self.buffer[head..head + body]);
            }
        }
    }
}

/// Where the body begins and how long it is, once all of it is there.
fn complete(answer: &[u8]) -> Option<(usize, usize)> {
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (answer.len() >= head + length).then_some((head, length))
}

/// What a stretch of load saw.
#[derive(Default)]
pub struct Seen {
    pub requests: u64,
    pub seconds: f64,
    /// Nanoseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Seen {
    pub fn quantile(&self, share: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        f64::from(self.latencies.get(at).copied().unwrap_or(0)) / 1000.0
    }
}

/// As many requests as fit into `time` (and at most `limit` of them), over these connections.
pub async fn load(
    connections: &mut Vec<Connection>,
    requests: &[Vec<u8>],
    time: Duration,
    limit: u64,
) -> std::io::Result<Seen> {
    let start = Instant::now();
    let left = std::rc::Rc::new(std::cell::Cell::new(limit));
    let local = tokio::task::LocalSet::new();
    let mut tasks = Vec::new();
    for (number, mut connection) in connections.drain(..).enumerate() {
        let (requests, left) = (requests.to_vec(), left.clone());
        tasks.push(local.spawn_local(async move {
            let mut latencies = Vec::with_capacity(16 * 1024);
            let mut turn = number;
            while start.elapsed() < time && left.get() > 0 {
                left.set(left.get() - 1);
                let asked = Instant::now();
                connection.ask(&requests[turn % requests.len()]).await?;
                latencies.push(u32::try_from(asked.elapsed().as_nanos()).unwrap_or(u32::MAX));
                turn += 1;
            }
            Ok::<_, std::io::Error>((connection, latencies))
        }));
    }
    let mut seen = Seen::default();
    local
        .run_until(async {
            for task in tasks {
                let (connection, latencies) = task.await.map_err(std::io::Error::other)??;
                connections.push(connection);
                seen.latencies.extend(latencies);
            }
            Ok::<_, std::io::Error>(())
        })
        .await?;
    seen.seconds = start.elapsed().as_secs_f64();
    seen.requests = seen.latencies.len() as u64;
    seen.latencies.sort_unstable();
    Ok(seen)
}
