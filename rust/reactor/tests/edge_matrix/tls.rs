//! TLS beyond the matrix: certificates that change, clients that are none, handshakes that take too long.

use std::io::{Read, Write as _};

use zmqgame_core::stream::packet::KIND_OPEN;
use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::{ConnectTls, EdgeConfig, Framing};

use crate::clients::{Folder, Transport, listen, tcp, tls};
use crate::common::{count, counter, reasons, rows_until, until};
use crate::echo::{Way, with_echo};

#[test]
fn certificates_change_without_a_restart_and_broken_ones_change_nothing() {
    let folder = Folder::new("reload");
    with_echo(EdgeConfig::default(), Way::Handler, |edge| {
        let place = listen(edge, Transport::Tls, Framing::Raw, &folder);
        let mut old = tls(&place.address, &place.authorities).unwrap();
        let echo = |stream: &mut dyn ReadWrite| {
            stream.write_all(b"hello").unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"hello");
        };
        echo(&mut old);
        let first = std::fs::read(&place.authorities).unwrap();
        let kept = folder.path().join("first.pem");
        std::fs::write(&kept, first).unwrap();

        std::fs::write(&place.authorities, "nothing").unwrap();
        let error = edge.reload_tls().unwrap_err().to_string();
        assert!(error.contains("certificate.pem"), "{error}");
        echo(&mut tls(&place.address, &kept).unwrap());

        let other = folder.certificate("localhost");
        std::fs::write(&other.key, "").unwrap();
        let error = edge.reload_tls().unwrap_err().to_string();
        assert!(error.contains("key.pem"), "{error}");
        echo(&mut tls(&place.address, &kept).unwrap());

        // Two good files, and the key is of another certificate: the usual mistake of a renewal.
        let foreign = Folder::new("reload-foreign");
        let foreign = foreign.certificate("localhost");
        folder.certificate("localhost");
        std::fs::copy(&foreign.key, &other.key).unwrap();
        let error = edge.reload_tls().unwrap_err().to_string();
        assert!(error.contains("KeyMismatch"), "{error}");
        echo(&mut tls(&place.address, &kept).unwrap());

        folder.certificate("localhost");
        edge.reload_tls().unwrap();
        assert!(tls(&place.address, &kept).is_err());
        echo(&mut tls(&place.address, &place.authorities).unwrap());
        // Who was there stays.
        echo(&mut old);
    });
}

trait ReadWrite: Read + std::io::Write {}
impl<T: Read + std::io::Write> ReadWrite for T {}

#[test]
fn who_does_not_speak_tls_or_takes_too_long_is_never_told_of() {
    let folder = Folder::new("no-tls");
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let place = listen(&edge, Transport::Tls, Framing::Raw, &folder);
    let mut plain = tcp(&place.address);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // An alert, and the end.
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert_eq!(rest.first(), Some(&21));
    let config = EdgeConfig {
        handshake_ms: 300,
        ..EdgeConfig::default()
    };
    let hasty = Edge::start(config).unwrap();
    let place = listen(&hasty, Transport::Tls, Framing::Raw, &folder);
    let mut silent = tcp(&place.address);
    assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
    let mut half = tcp(&place.address);
    // It may have been closed before this is written.
    let _ = half.write_all(&[22, 3, 1, 1, 0, 1]);
    let _ = half.read(&mut [0; 8]);
    for (edge, kind, times) in [(&edge, "bad_tls", 1), (&hasty, "closed_handshake", 2)] {
        until("all gone", || edge.connections() == 0);
        assert_eq!(edge.receive().len(), 0);
        assert_eq!(counter(edge, kind), times);
        assert_eq!(edge.memory_bytes(), 0);
    }
}

#[test]
fn a_stream_that_is_cut_off_is_told_from_one_that_ends() {
    let folder = Folder::new("cut");
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let place = listen(&edge, Transport::Tls, Framing::Raw, &folder);
    let mut ends = tls(&place.address, &place.authorities).unwrap();
    ends.conn.send_close_notify();
    ends.flush().unwrap();
    let cut = tls(&place.address, &place.authorities).unwrap();
    cut.sock.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| reasons(rows).len() == 2);
    let cut = "connection broken: unexpected end of file";
    assert_eq!(reasons(&rows), ["closed by the client", cut]);
}

#[test]
fn outgoing_tls_verifies_its_server() {
    let folder = Folder::new("outgoing");
    with_echo(EdgeConfig::default(), Way::Handler, |server| {
        let place = listen(server, Transport::Tls, Framing::Raw, &folder);
        let edge = Edge::start(EdgeConfig::default()).unwrap();
        let name = |name: &str| ConnectTls {
            authorities: place.authorities.clone(),
            server_name: name.to_owned(),
        };
        let connect =
            |name: &ConnectTls| edge.connect_tcp(&place.address, Framing::Raw, Some(name));
        let mut rows = Vec::new();
        let good = connect(&name("localhost")).unwrap();
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
        let how = String::from_utf8(rows[0].2.clone()).unwrap();
        assert!(how.contains("\"tls\":\"1.3\""), "{how}");
        let write = zmqgame_reactor::edge::Write {
            connection: good,
            kind: 0,
            sequence: 0,
            payload: b"there and back",
        };
        assert_eq!(edge.send([write]), 0);
        rows_until(&edge, &mut rows, |rows| count(rows, 0) == 1);
        assert_eq!(rows[1].2, b"there and back");
        let bad = connect(&name("example.org")).unwrap();
        rows_until(&edge, &mut rows, |rows| reasons(rows).len() == 1);
        assert_eq!(rows.last().unwrap().0, bad);
        assert!(
            reasons(&rows)[0].starts_with("bad TLS: "),
            "{:?}",
            reasons(&rows)
        );
        let missing = ConnectTls {
            authorities: folder.path().join("missing.pem"),
            server_name: "localhost".to_owned(),
        };
        let error = connect(&missing).unwrap_err().to_string();
        assert!(error.contains("missing.pem"), "{error}");
    });
}
