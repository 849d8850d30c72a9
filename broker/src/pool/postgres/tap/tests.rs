use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use proptest::prelude::*;

use super::{Backend, Event, Frontend};

#[derive(Debug, Clone)]
enum Message {
    Parse(String),
    Bind { formats: Vec<i16>, values: Vec<Option<Vec<u8>>> },
    Sync,
    Query(String),
    Copy(Vec<u8>),
}

fn message() -> impl Strategy<Value = Message> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    prop_oneof![
        "[a-z ]{0,30}".prop_map(Message::Parse),
        (0_usize..5)
            .prop_flat_map(move |n| {
                let format = prop_oneof![9 => Just(0_i16), 1 => Just(1_i16)];
                (proptest::collection::vec(format, n), proptest::collection::vec(value.clone(), n))
            })
            .prop_map(|(formats, values)| Message::Bind { formats, values }),
        Just(Message::Sync),
        "[a-z ]{0,30}".prop_map(Message::Query),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Message::Copy),
    ]
}

/// The bytes as the driver sends them, with `result_format` in every `Bind` that has no binary parameter.
fn encode(messages: &[Message], text_format: i16) -> Vec<u8> {
    let mut buf = BytesMut::new();
    frontend::ssl_request(&mut buf);
    frontend::startup_message([("user", "app")], &mut buf).expect("encodes");
    frontend::password_message(b"secret", &mut buf).expect("encodes");
    for message in messages {
        match message {
            Message::Parse(sql) => frontend::parse("s1", sql, [], &mut buf).expect("encodes"),
            Message::Bind { formats, values } => {
                let result = if formats.contains(&1) { 1 } else { text_format };
                let write = |value: &Option<Vec<u8>>, buf: &mut BytesMut| {
                    Ok(value.as_ref().map_or(IsNull::Yes, |bytes| {
                        buf.extend_from_slice(bytes);
                        IsNull::No
                    }))
                };
                frontend::bind("", "s1", formats.iter().copied(), values, write, Some(result), &mut buf)
                    .unwrap_or_else(|_| panic!("encodes"));
            }
            Message::Sync => frontend::sync(&mut buf),
            Message::Query(sql) => frontend::query(sql, &mut buf).expect("encodes"),
            Message::Copy(data) => frontend::CopyData::new(&data[..]).expect("encodes").write(&mut buf),
        }
    }
    buf.to_vec()
}

fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #[test]
    fn any_split_towards_the_server_gives_text_results_and_nothing_else_changes(
        messages in proptest::collection::vec(message(), 0..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..40),
    ) {
        let sent = encode(&messages, 1);
        let mut tap = Frontend::new();
        let mut seen = Vec::new();
        for mut piece in pieces(&sent, &cuts) {
            tap.rewrite(&mut piece);
            seen.extend(piece);
        }
        prop_assert_eq!(seen, encode(&messages, 0));
        let due = messages.iter().filter(|m| matches!(m, Message::Sync | Message::Query(_))).count();
        prop_assert_eq!(tap.ready_due(), due as u64);
        prop_assert!(tap.take_tls_request());
    }

    #[test]
    fn any_split_from_the_server_gives_the_same_events(
        bodies in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..400)), 0..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut stream = Vec::new();
        for (choice, body) in &bodies {
            let (kind, body) = match choice % 6 {
                0 => (b'Z', vec![b"ITE"[body.len() % 3]]),
                1 => (b'C', b"INSERT 0 1\0".to_vec()),
                2 => (b'S', b"TimeZone\0UTC\0".to_vec()),
                3 => (b'E', body.clone()),
                4 if body.len() % 2 == 1 => (b'K', b"\0\0\0\x07\0\0\0\x09".to_vec()),
                4 => (b'2', Vec::new()),
                _ => (b'D', body.clone()),
            };
            stream.push(kind);
            stream.extend(u32::try_from(body.len() + 4).expect("short").to_be_bytes());
            stream.extend(body);
        }
        let mut whole = Vec::new();
        Backend::default().watch(&stream, |event| whole.push(event));
        let mut split = Vec::new();
        let mut tap = Backend::default();
        for piece in pieces(&stream, &cuts) {
            tap.watch(&piece, |event| split.push(event));
        }
        prop_assert_eq!(&whole, &split);
        let ready = whole.iter().filter(|event| **event == Event::Ready).count();
        prop_assert_eq!(ready, bodies.iter().filter(|(choice, _)| choice % 6 == 0).count());
        let as_sent = |event: &Event| match event {
            Event::Parameter(name) => name == "TimeZone",
            Event::Process(pid) => *pid == 7,
            Event::Ready => true,
        };
        prop_assert!(whole.iter().all(as_sent));
    }

    #[test]
    fn hostile_bytes_never_stop_the_tap(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cuts in proptest::collection::vec(any::<usize>(), 0..20)) {
        let mut front = Frontend::new();
        let mut back = Backend::default();
        for mut piece in pieces(&bytes, &cuts) {
            back.watch(&piece, |_| {});
            front.rewrite(&mut piece);
        }
    }
}

#[test]
fn the_answer_to_a_tls_request_is_no_message() {
    let mut tap = Backend::default();
    let mut events = Vec::new();
    tap.expect_tls_answer();
    tap.watch(b"NZ\0\0\0\x05I", |event| events.push(event));
    assert_eq!(events, [Event::Ready]);
}
