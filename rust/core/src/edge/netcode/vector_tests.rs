//! Bytes that the reference implementation in C makes from fixed inputs, by their SHA-256: what we
//! write has the same digest, so it has the same bytes, and what we read back are those bytes.
//! A digest here is never changed to make a test pass.

use ring::digest::{SHA256, digest};

use super::packet::{Header, Kind, PacketKey, Request, challenge_body, split_challenge_body};
use super::token::{
    Challenge, ConnectToken, PrivateToken, TokenEntropy, TokenSpec, UserData, open_private,
};
use super::{Key, limits};

const PROTOCOL_ID: u64 = 0x1122_3344_5566_7788;
const CLIENT_ID: u64 = 0x0102_0304_0506_0708;
const CREATE_S: u64 = 1_720_000_000;
const EXPIRE_S: u64 = 1_720_000_100;
const TIMEOUT_S: i32 = 15;
const CHALLENGE_SEQUENCE: u64 = 1000;
const PACKET_SEQUENCE: u64 = 0x11_2233_4455;
const PRIVATE_KEY: Key = [
    0x60, 0x6a, 0xbe, 0x6e, 0xc9, 0x19, 0x10, 0xea, 0x9a, 0x65, 0x62, 0xf6, 0x6f, 0x2b, 0x30, 0xe4,
    0x43, 0x71, 0xd6, 0x2c, 0xd1, 0x99, 0x27, 0x26, 0x6b, 0x3c, 0x60, 0xf4, 0xb7, 0x15, 0xab, 0xa1,
];

fn assert_bytes(bytes: &[u8], sha256: &str) {
    let hex: String = digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, sha256);
}

fn user_data() -> UserData {
    std::array::from_fn(|i| i as u8)
}

fn entropy() -> TokenEntropy {
    TokenEntropy {
        nonce: std::array::from_fn(|i| 100 + i as u8),
        client_to_server: std::array::from_fn(|i| i as u8),
        server_to_client: std::array::from_fn(|i| 255 - i as u8),
    }
}

fn connect_token() -> ConnectToken {
    let servers = [
        "127.0.0.1:40000".parse().unwrap(),
        "[::1]:50000".parse().unwrap(),
    ];
    let spec = TokenSpec {
        protocol_id: PROTOCOL_ID,
        create_s: CREATE_S,
        expire_s: EXPIRE_S,
        timeout_s: TIMEOUT_S,
        client_id: CLIENT_ID,
        servers: &servers,
        user_data: &user_data(),
    };
    ConnectToken::generate(&spec, &PRIVATE_KEY, entropy()).unwrap()
}

fn packet_key() -> PacketKey {
    PacketKey::new(&std::array::from_fn(|i| 17 + i as u8))
}

fn sealed_challenge() -> [u8; limits::CHALLENGE_BYTES] {
    let key = PacketKey::new(&std::array::from_fn(|i| 2 * i as u8));
    let challenge = Challenge {
        client_id: CLIENT_ID,
        user_data: user_data(),
        token: [0; 16],
    };
    let sealed = challenge.seal(CHALLENGE_SEQUENCE, &key);
    assert_eq!(
        Challenge::open(&mut sealed.clone(), CHALLENGE_SEQUENCE, &key).unwrap(),
        challenge
    );
    sealed
}

fn check_packet(kind: Kind, body: &[u8], sha256: &str) {
    let mut packet = Vec::new();
    packet_key().seal(PROTOCOL_ID, kind, PACKET_SEQUENCE, body, &mut packet);
    assert_bytes(&packet, sha256);
    let header = Header::read(&packet).unwrap();
    assert_eq!((header.kind, header.sequence), (kind, PACKET_SEQUENCE));
    assert_eq!(
        packet_key()
            .open(PROTOCOL_ID, &header, &mut packet)
            .unwrap(),
        body
    );
}

#[test]
fn private_token_is_that_of_the_reference() {
    let token = connect_token();
    assert_bytes(
        &token.private[..],
        "3fc190a87b816c4340e0894a16d5b0d9c55507bab095d77da9c07daf7e3bf98a",
    );
    let mut sealed = token.private.clone();
    let private = open_private(
        &mut sealed,
        PROTOCOL_ID,
        EXPIRE_S,
        &token.nonce,
        &PRIVATE_KEY,
    )
    .unwrap();
    assert_eq!(
        (private.client_id, private.timeout_s),
        (CLIENT_ID, TIMEOUT_S)
    );
    assert_eq!(
        (private.servers.clone(), private.user_data),
        (token.servers, user_data())
    );
    assert_bytes(
        &private.write()[..],
        "7b1896a06c8dd0688fece1cfdcfe06c21871d429ef9dee2070ae40e9f8e534bc",
    );
}

#[test]
fn connect_token_is_that_of_the_reference() {
    let bytes = connect_token().write();
    assert_bytes(
        &bytes[..],
        "12cd58f0e2d17b002b629359f207018eac54e8cff2064382e600df738cfd4410",
    );
    assert_eq!(ConnectToken::read(&bytes[..]).unwrap().write(), bytes);
}

#[test]
fn challenge_token_is_that_of_the_reference() {
    assert_bytes(
        &sealed_challenge(),
        "33c5560aaed4192fc714fbba4910c38f235a4298f9121901c0d47549cc0a62e0",
    );
}

#[test]
fn request_is_that_of_the_reference() {
    let mut packet = Vec::new();
    Request::write(&connect_token(), &mut packet);
    assert_bytes(
        &packet,
        "fc7d9221a4b2d74dfaa7accd870730d434caa2315724cce1141c91ad47969968",
    );
    let request = Request::read(&mut packet).unwrap();
    assert_eq!(
        (request.protocol_id, request.expire_s),
        (PROTOCOL_ID, EXPIRE_S)
    );
    let token = open_private(
        request.private,
        PROTOCOL_ID,
        EXPIRE_S,
        &request.nonce,
        &PRIVATE_KEY,
    )
    .unwrap();
    assert_eq!(token.client_id, CLIENT_ID);
}

#[test]
fn sealed_packets_are_those_of_the_reference() {
    let body = challenge_body(CHALLENGE_SEQUENCE, &sealed_challenge());
    let (sequence, sealed) = split_challenge_body(&mut { body })
        .map(|(n, s)| (n, *s))
        .unwrap();
    assert_eq!((sequence, sealed), (CHALLENGE_SEQUENCE, sealed_challenge()));
    check_packet(
        Kind::Challenge,
        &body,
        "22fc408d3ab1e8655d9edf9dd9bdad69b06978ff85323a564c0563fc7dfbf6a7",
    );
    check_packet(
        Kind::Response,
        &body,
        "d7f8965bb2961ae0c355f50ecedc13347575d38832668b6e4b7c5f6ae49973e9",
    );
    check_packet(
        Kind::Denied,
        &[],
        "ecc44891ea58f39f107287bfbbe90e6be82ba6e9b0b53b2b5da1dffa007c2fc8",
    );
    check_packet(
        Kind::Disconnect,
        &[],
        "e79e7c56a01a8c066aa90236fe71ba74fdc5d29249472150d96aea42c1d3357e",
    );
    check_packet(
        Kind::KeepAlive,
        &[7, 0, 0, 0, 32, 0, 0, 0],
        "c96b56dbef593cab4e6c2ef9cbce7c44132d8240fbfeb4958d0c4ac22390d9c3",
    );
    let payload: Vec<u8> = (0..limits::MAX_PAYLOAD_BYTES).map(|i| i as u8).collect();
    check_packet(
        Kind::Payload,
        &payload,
        "e991282ba33dae3d19f4a9ecd0577f876a8175cf399180af5e3b21a33a4c6377",
    );
}

#[test]
fn private_token_reads_without_a_key_only_when_opened() {
    assert!(PrivateToken::read(&connect_token().private[..]).is_err());
}
