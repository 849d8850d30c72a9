use super::event::MOST_PARTS;
use super::*;
use crate::base::TenantId;

#[test]
fn a_line_has_what_is_known_and_no_more() {
    let mut event = Event::new("query");
    event.statement(0xab);
    event.who = Some(Who { tenant: TenantId::new("acme"), via: "key", identity: "hk\"\n1".into() });
    let line = serde_json::to_string(&event).expect("plain data");
    assert!(line.contains(r#""tenant":"acme","via":"key","identity":"hk\"\n1","action":"query""#), "{line}");
    assert!(line.contains(r#""statements":["00000000000000ab"],"outcome":"ok","duration_us":0"#), "{line}");
    for absent in ["null", "commands", "backend", "claimed"] {
        assert!(!line.contains(absent), "{absent} in {line}");
    }
}

#[test]
fn what_is_no_command_s_name_is_not_told() {
    let mut event = Event::new("redis");
    for name in ["get", "JSON.SET", "hunter2", "a b", "", "\u{e4}", "abcdefghijklmnopqrstuvwxyz"] {
        event.command(name.as_bytes());
    }
    assert_eq!(event.commands, ["GET", "JSON.SET", "?", "?", "?", "?", "?"]);
    for _ in 0..200 {
        event.command(b"GET");
    }
    assert_eq!((event.commands.len(), event.more), (MOST_PARTS, 107));
}

#[tokio::test]
async fn a_full_queue_loses_lines_and_says_so_and_strangers_fill_half_of_it() {
    let folder = std::env::temp_dir().join(format!("hearth-audit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("makes a folder");
    let path = folder.join("audit.log");
    let dropped = Counter::default();
    let target = AuditTarget::File(path.clone());
    let audit = Audit::new(&target, dropped.clone()).expect("can be written").expect("there is one");
    assert!(!path.exists(), "nothing was told yet");
    for _ in 0..20 * QUEUE {
        audit.tell(Event::new("query"));
    }
    audit.flush().await;
    audit.tell(Event { reason: Some("invalid"), ..Event::new("query") });
    audit.flush().await;
    let text = std::fs::read_to_string(&path).expect("is there");
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count() as u64;
    assert_eq!(count("\"query\"") + dropped.get(), 20 * QUEUE as u64 + 1, "each was written or counted");
    assert!(dropped.get() == 0 || count("lines_lost") > 0);
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    // Moved away, as a rotation does.
    std::fs::rename(&path, folder.join("audit.1")).expect("moves");
    audit.reopen();
    audit.begin(Event::new("batch"), Instant::now()).finish("conflict");
    drop(audit.begin(Event::new("copy_in"), Instant::now()));
    audit.flush().await;
    let text = std::fs::read_to_string(&path).expect("is a new file");
    assert!(text.contains("\"action\":\"batch\",\"outcome\":\"conflict\""), "{text}");
    assert!(text.contains("\"action\":\"copy_in\",\"outcome\":\"cancelled\""), "{text}");
    std::fs::remove_dir_all(&folder).expect("was there");
    assert!(Audit::new(&AuditTarget::File(folder.join("x").join("y")), dropped).is_err());
}
