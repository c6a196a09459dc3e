//! A client that sends exactly the given bytes, valid or not.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// How long a test waits for a condition before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes read that belong to no answer yet.
    left: Vec<u8>,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Returns a header's value; empty without the header.
    pub(crate) fn header(&self, name: &str) -> &str {
        let of = |line: &'_ str| line.split_once(':').map(|(name, _)| name.to_owned());
        let line = self.head.lines().find(|line| of(line).is_some_and(|of| of == name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Checks that the answer has this status, and is a problem with the same status.
    pub(crate) fn is_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json()["status"], status);
    }
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        // Each write is sent at once, as its own packet.
        stream.set_nodelay(true).unwrap();
        Self { stream, left: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Sends a GET with these header lines.
    pub(crate) async fn get(&mut self, path: &str, headers: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
        self.answer().await
    }

    pub(crate) async fn post(&mut self, body: &str) -> Answer {
        self.send(posting(body)).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// Reads the next answer.
    ///
    /// # Errors
    /// If the connection ends before it.
    pub(crate) async fn try_answer(&mut self) -> io::Result<Answer> {
        let read = async {
            loop {
                if let Some(answer) = self.take() {
                    return Ok(answer);
                }
                let mut bytes = vec![0; 16 * 1024];
                match self.stream.read(&mut bytes).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => self.left.extend_from_slice(&bytes[..read]),
                }
            }
        };
        timeout(PATIENCE, read).await.expect("no answer came")
    }

    /// Takes a complete answer. Every answer has a length.
    fn take(&mut self) -> Option<Answer> {
        let end = self.left.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.left[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").parse().unwrap_or(0);
        let body = self.left.get(end..end + length)?;
        answer.body = String::from_utf8(body.to_vec()).unwrap();
        self.left.drain(..end + length);
        Some(answer)
    }

    /// Returns everything received until the connection ends in any way.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.left);
        let read = async {
            let mut bytes = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = self.stream.read(&mut bytes).await {
                all.extend_from_slice(&bytes[..read]);
            }
        };
        timeout(PATIENCE, read).await.expect("the connection was not closed");
        all
    }

    /// Waits until the connection is gone, without reading anything.
    pub(crate) async fn until_gone_unread(&mut self) {
        let gone = async {
            // Once the other side has gone, the first byte brings a reset, and a later write fails.
            while !matches!(
                self.stream.try_write(b"\r"),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock
            ) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the connection was not closed");
    }
}

/// A valid POST.
pub(crate) fn posting(body: &str) -> String {
    format!(
        "POST /things HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The body of a valid POST.
pub(crate) const BODY: &str = r#"{"name":"a"}"#;
