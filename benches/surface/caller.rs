//! A caller that costs little: one connection, one request at a time, written beforehand.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection of HTTP/1.1 that stays open.
pub(crate) struct Caller {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// A request as it is sent.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let kind = match body.is_empty() {
        true => "",
        false => "content-type: application/json\r\n",
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{kind}{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

impl Caller {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            bytes: Vec::with_capacity(4_096),
        }
    }

    /// Status and body of the answer.
    pub(crate) async fn call(&mut self, request: &[u8]) -> (u16, &[u8]) {
        self.stream.write_all(request).await.expect("it listens");
        self.bytes.clear();
        let head = loop {
            let count = self.stream.read_buf(&mut self.bytes).await;
            assert!(0 < count.expect("an answer"), "it hung up");
            if let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = std::str::from_utf8(&self.bytes[..head]).expect("text");
        let status = text[9..12].parse().expect("a status");
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let found = name.eq_ignore_ascii_case("content-length");
            found.then(|| value.trim().parse::<usize>().expect("a length"))
        });
        let end = head + length.unwrap_or(0);
        while self.bytes.len() < end {
            let count = self.stream.read_buf(&mut self.bytes).await;
            assert!(0 < count.expect("an answer"), "it hung up");
        }
        (status, &self.bytes[head..end])
    }

    pub(crate) async fn get(&mut self, path: &str) -> (u16, &[u8]) {
        self.call(&request("GET", path, "", "")).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Value {
        let asked = request("POST", path, "", &body.to_string());
        let (status, said) = self.call(&asked).await;
        let text = String::from_utf8_lossy(said);
        assert!(status < 300, "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The connection, once a stream has begun on it.
    pub(crate) async fn into_stream(mut self, path: &str) -> TcpStream {
        let asked = request("GET", path, "accept: text/event-stream\r\n", "");
        self.stream.write_all(&asked).await.expect("it listens");
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(self.stream.read(&mut byte).await.expect("an answer"), 1);
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        self.stream
    }
}
