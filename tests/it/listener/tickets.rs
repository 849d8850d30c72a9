//! Sessions that go on elsewhere.

use std::sync::Arc;

use hearth_tests::Bare;
use rustls::{ClientConfig, HandshakeKind};

use super::{ask, client, ground, known_client, shake, tls};

/// Connects and asks: how the handshake went.
async fn connect(bare: &Bare, client: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let mut stream = shake(bare, client).await.ok()?;
    // Tickets come after the handshake, before the first answer.
    ask(bare, &mut stream).await?;
    stream.get_ref().1.handshake_kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begun_with_one_broker_is_resumed_by_every_other_that_has_the_secret() {
    let (scratch, authority) = ground();
    let secret = |name: &str, text: &str| {
        let file = scratch.path().join(name);
        std::fs::write(&file, text).expect("writes");
        tls(&scratch, &format!(", ticket_keys = {{ file = \"{}\" }}", file.display()))
    };
    let (old, new) = ("the-old-secret-that-is-long-enough-to-be-one", "the-new-secret-that-is-long-enough-to-be-one");
    let first = Bare::start(&scratch, "first", &secret("shared", old)).await;
    let second = Bare::start(&scratch, "second", &secret("shared", old)).await;
    let rolled = Bare::start(&scratch, "rolled", &secret("both", &format!("{new}\n{old}\n"))).await;
    let stranger = Bare::start(&scratch, "stranger", &secret("other", new)).await;
    let alone = Bare::start(&scratch, "alone", &tls(&scratch, "")).await;

    let caller = client(&authority, None);
    assert_eq!(connect(&first, &caller).await, Some(HandshakeKind::Full));
    for other in [&second, &first, &second, &rolled] {
        assert_eq!(connect(other, &caller).await, Some(HandshakeKind::Resumed));
    }
    let counted = second.metric("hearth_tls_handshakes_total", &["kind=\"resumed\"", "group=\"X25519MLKEM768\""]).await;
    assert!((counted - 2.0).abs() < 0.1, "{counted}");

    let caller = client(&authority, None);
    assert_eq!(connect(&first, &caller).await, Some(HandshakeKind::Full));
    assert_eq!(connect(&stranger, &caller).await, Some(HandshakeKind::Full), "another secret");
    assert_eq!(connect(&alone, &caller).await, Some(HandshakeKind::Full), "keys of its own");
    assert_eq!(connect(&alone, &caller).await, Some(HandshakeKind::Resumed));
    assert!(alone.reload().await.status == 200);
    assert_eq!(connect(&alone, &caller).await, Some(HandshakeKind::Resumed), "keys of its own outlive a reload");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_taken_before_the_handshake_is_over() {
    let (scratch, authority) = ground();
    let bare = Bare::start(&scratch, "broker", &tls(&scratch, "")).await;
    let mut caller = (*client(&authority, None)).clone();
    caller.enable_early_data = true;
    let caller = Arc::new(caller);
    for _ in 0..2 {
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let mut session = rustls::ClientConnection::new(Arc::clone(&caller), name).expect("begins");
        assert!(session.early_data().is_none(), "no ticket allows it");
        assert!(connect(&bare, &caller).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_outlive_the_trust_it_began_with() {
    let (scratch, authority) = ground();
    let clients = hearth_tests::Authority::new(scratch.path(), "clients");
    let others = hearth_tests::Authority::new(scratch.path(), "others");
    clients.sign("caller", "URI:spiffe://example.org/caller", "clientAuth");
    let ca = |of: &hearth_tests::Authority| format!("client_ca = \"{}\"", of.root().display());
    let bare = Bare::start(&scratch, "broker", &tls(&scratch, &format!(", {}", ca(&clients)))).await;
    let caller = known_client(&authority, &scratch, "caller");
    assert_eq!(connect(&bare, &caller).await, Some(HandshakeKind::Full));
    assert_eq!(connect(&bare, &caller).await, Some(HandshakeKind::Resumed));
    bare.edit(&ca(&clients), &ca(&others));
    let told = bare.reload().await;
    assert_eq!((told.status, &told.body["new_certificate"]), (200, &serde_json::json!(true)), "{}", told.text);
    assert_eq!(connect(&bare, &caller).await, None, "its root is trusted no more");
}
