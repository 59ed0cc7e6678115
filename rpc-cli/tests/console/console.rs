//! A running console, and requests to it.

use std::process::Stdio;

use anyhow::Context as _;
use rpc_tests::programs::{LIMIT, printed};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A process `rpc console`, which ends with the handle.
pub(crate) struct Console {
    /// The address that it printed.
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) token: String,
    process: Child,
}

impl Console {
    pub(crate) async fn start(url: &str, arguments: &[&str]) -> Self {
        let mut process = program(arguments)
            .env("AMQP_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = process.stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = timeout(LIMIT, BufReader::new(stdout).read_line(&mut line)).await;
        read.expect("the address is printed").expect("it can be read");
        let address = line.trim().to_owned();
        let (host, token) = address
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once("/#token="))
            .unwrap_or_else(|| panic!("{address:?}"));
        Self {
            host: host.to_owned(),
            token: token.to_owned(),
            address,
            process,
        }
    }

    /// Sends the process a signal, such as `INT` for Ctrl-C, and waits for its end.
    pub(crate) async fn end(&mut self, signal: &str) {
        let pid = self.process.id().expect("it runs");
        // The shell's own `kill`: not every machine has the program.
        printed(Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {pid}")])).await;
        let ended = timeout(LIMIT, self.process.wait()).await;
        assert!(ended.expect("it ends").expect("a status").success());
    }

    /// Sends a request of a page of this console.
    pub(crate) async fn ask(&self, path: &str, body: Option<&Value>) -> Response {
        let authorization = format!("Bearer {}", self.token);
        let headers = [("Host", self.host.as_str()), ("Authorization", &authorization)];
        self.send(path, &headers, body).await.expect("an answer")
    }

    /// Sends a request of a page, and returns the connection on which its answer comes.
    pub(crate) async fn open(&self, path: &str, body: &Value) -> TcpStream {
        let authorization = format!("Bearer {}", self.token);
        let headers = [("Host", self.host.as_str()), ("Authorization", &authorization)];
        let opened = self.open_with(path, &headers, Some(body)).await;
        opened.expect("the console is there")
    }

    /// Sends a request with exactly these headers: a POST if it has a body, otherwise a GET.
    pub(crate) async fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        let mut stream = self.open_with(path, headers, body).await?;
        let mut response = String::new();
        timeout(LIMIT, stream.read_to_string(&mut response)).await??;
        Response::parse(&response).with_context(|| format!("no response: {response:?}"))
    }

    async fn open_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.host).await?;
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if method == "POST" {
            let length = body.len();
            request.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        stream
            .write_all(format!("{request}\r\n{body}").as_bytes())
            .await?;
        Ok(stream)
    }
}

/// Returns the program in an environment without its variables.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rpc"));
    command.arg("console").args(arguments).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name == "AMQP_URL" || name == "RUST_LOG" || name.starts_with("RPC_RUNTIME_") {
            command.env_remove(&*name);
        }
    }
    command
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The lines of the head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let head = head.to_ascii_lowercase();
        let is_chunked = head.contains("transfer-encoding: chunked");
        let body = if is_chunked {
            chunks(body)?
        } else {
            body.to_owned()
        };
        Some(Self { status, head, body })
    }

    /// Returns the body as lines of JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}

/// Joins the chunks of a body.
fn chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
}
