//! Servers that misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use asof_postgres::client::{ErrorKind, Mode};

use crate::{chain, refused};

/// Takes one connection and hands it to `script`; gives the port.
fn server(script: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || script(listener.accept().unwrap().0));
    port
}

/// Reads a packet without a tag: SSLRequest, start-up, cancel.
fn untagged(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut body = vec![0; u32::from_be_bytes(len) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

fn conninfo(port: u16, rest: &str) -> String {
    format!("host=127.0.0.1 port={port} user=u password=secret connect_timeout=20 {rest}")
}

async fn check(port: u16, rest: &str, kind: ErrorKind, expect: &str) {
    let error = refused(&conninfo(port, rest), Mode::Sql).await;
    assert_eq!(error.kind(), kind, "{}", chain(&error));
    assert!(chain(&error).contains(expect), "{}", chain(&error));
}

/// Answers the start-up packet with these bytes and waits for the client to leave.
fn after_start_up(answer: &'static [u8]) -> u16 {
    server(move |mut stream| {
        untagged(&mut stream);
        stream.write_all(answer).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_front_of_the_tls_handshake_are_refused_in_every_mode() {
    for mode in ["prefer", "require"] {
        let port = server(|mut stream| {
            untagged(&mut stream);
            stream.write_all(b"SX").unwrap();
            drop(stream.read_to_end(&mut Vec::new()));
        });
        let expect = "unencrypted data after its answer to SSLRequest";
        check(port, &format!("sslmode={mode}"), ErrorKind::Protocol, expect).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_before_tls_is_not_shown() {
    let port = server(|mut stream| {
        untagged(&mut stream);
        stream.write_all(b"E\0\0\0\x20SERROR\0Msend me your password\0\0").unwrap();
    });
    let error = refused(&conninfo(port, "sslmode=require"), Mode::Sql).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!chain(&error).contains("send me"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_skips_the_proof_of_scram_is_refused() {
    let begin = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    let port = server(move |mut stream| {
        untagged(&mut stream);
        stream.write_all(begin).unwrap();
        let mut buffer = [0; 512];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        stream.write_all(b"R\0\0\0\x08\0\0\0\0").unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    check(port, "sslmode=disable", ErrorKind::Protocol, "SCRAM exchange was cut short").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_required_sends_no_password_in_clear() {
    let rest = "sslmode=disable channel_binding=require";
    check(after_start_up(b"R\0\0\0\x08\0\0\0\x03"), rest, ErrorKind::Denied, "channel_binding=require").await;
    check(after_start_up(b"R\0\0\0\x08\0\0\0\0"), rest, ErrorKind::Denied, "channel_binding=require").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_channel_binding_without_tls_is_a_lie() {
    let answer = b"R\0\0\0\x1c\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0";
    check(after_start_up(answer), "sslmode=disable", ErrorKind::Protocol, "without TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_methods_that_are_unknown_are_told_apart() {
    check(after_start_up(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "sslmode=disable", ErrorKind::Protocol, "").await;
    check(after_start_up(b"R\0\0\0\x08\0\0\0\x07"), "sslmode=disable", ErrorKind::Denied, "GSSAPI").await;
    check(after_start_up(b"R\x40\0\0\0"), "sslmode=disable", ErrorKind::Protocol, "more than the 65536").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_given_up_after_connect_timeout() {
    let port = server(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    check(port, "connect_timeout=1", ErrorKind::Unavailable, "connect_timeout (1 s)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_during_login_is_unavailable() {
    let port = server(|mut stream| drop(untagged(&mut stream)));
    check(port, "sslmode=disable", ErrorKind::Unavailable, "the server closed the connection").await;
}
