//! A server that speaks S3, for tests: moto, which keeps everything in memory and checks no signature.
//!
//! It listens on loopback at a port of the kernel's choice and tells it when it is ready, so nothing waits for a time.
//! It ends when its input ends: with the value, and also when the test is killed. `cargo xtask setup` installs it as the
//! tree `moto` beside PostgreSQL's.

use crate::programs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Starts the server, prints its port, and lives as long as its input is open. Requests are answered one at a time: moto
/// looks whether a key exists and writes it in two steps, so that two conditional creations at once might both win.
const PROGRAM: &str = "
import os, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()
def one_at_a_time(environ, start_response):
    with turn:
        return list(moto(environ, start_response))
server = make_server('127.0.0.1', 0, one_at_a_time, True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
os._exit(0)
";

/// A running server without buckets.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    process: Child,
    /// Open for as long as the server is to live.
    input: Option<ChildStdin>,
}

impl Moto {
    /// Starts a server.
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    #[must_use]
    pub fn running() -> Self {
        let mut command = Command::new(programs::python());
        // It reports each request on its error output, which nobody reads.
        command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("moto: {error}: {HINT}"));
        let input = process.stdin.take();
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("moto speaks");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("moto did not start: {HINT}"));
        Self { port, process, input }
    }

    /// Starts a server and makes a bucket.
    ///
    /// # Panics
    /// As [`Moto::running`].
    #[must_use]
    pub fn with_bucket(bucket: &str) -> Self {
        let server = Self::running();
        server.create_bucket(bucket);
        server
    }

    /// Makes a bucket, as its owner would beforehand.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_bucket(&self, bucket: &str) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("moto listens");
        let head = format!("PUT /{bucket} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n", self.address());
        write!(stream, "{head}Connection: close\r\n\r\n").expect("moto listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("moto answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "moto made no bucket {bucket}: {answer}");
    }

    /// Where it listens, as `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its address as a URL: the endpoint for clients of S3.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.input.take());
        // Its end is certain: its input is closed, or it is gone already.
        let _ = self.process.wait();
    }
}

const HINT: &str = "is it installed? run `cargo xtask setup`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_have_ports_of_their_own_and_end_with_their_values() {
        let (first, second) = (Moto::with_bucket("bucket"), Moto::with_bucket("bucket"));
        assert_ne!(first.address(), second.address());
        let address = first.address();
        drop(first);
        assert!(TcpStream::connect(address).is_err());
    }
}
