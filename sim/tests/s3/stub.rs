//! A server that answers with given bytes, one answer per connection, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What the server does with one request, after it has read all of it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Closes the connection without a word.
    Nothing,
}

/// An answer with a body, whose length is told as it is.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Answer {
    announcing(body.len(), status, headers, body)
}

/// An answer with a body, whose length is told otherwise.
pub(crate) fn announcing(len: usize, status: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n");
    Answer::Bytes([head.as_bytes(), body].concat())
}

/// An answer in the words of S3.
pub(crate) fn error(status: &str, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as told</Message></Error>");
    answer(status, "Content-Type: application/xml\r\n", body.as_bytes())
}

/// The running server.
pub(crate) struct Stub {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Stub {
    pub(crate) fn answering(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (record, stop) = (asked.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            for (given, answer) in answers.iter().enumerate() {
                let (mut stream, _) = listener.accept().expect("connections come");
                if stop.load(Ordering::SeqCst) {
                    return answers.len() - given;
                }
                record.lock().expect("no holder panics").push(read_request(&stream));
                match answer {
                    // A client that has heard enough may have hung up.
                    Answer::Bytes(bytes) => drop(stream.write_all(bytes)),
                    Answer::Nothing => {}
                }
            }
            0
        });
        Self { address, asked, is_over, thread }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The heads of all requests.
    ///
    /// # Panics
    /// When answers are left: then the client did not ask what it should have asked.
    pub(crate) fn asked(self) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes a server that still waits; one that has given all its answers does not listen any more.
        drop(TcpStream::connect(&self.address));
        let left = self.thread.join().expect("the stub ends well");
        let asked = self.asked.lock().expect("no holder panics").clone();
        assert_eq!(left, 0, "answers were left after {asked:?}");
        asked
    }
}

/// Reads head and body of a request and returns the head.
fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).expect("a request is text") > 0 {}
    let len = header(&head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(len), &mut std::io::sink()).expect("a body comes whole");
    head
}

/// A header of a request.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pair = |line: &'a str| line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name));
    head.lines().find_map(pair).map(|(_, value)| value.trim())
}
