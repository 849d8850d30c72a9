//! Redis commands that are never forwarded: they change the server, another client, or the state of a connection that others
//! share.

/// The name of a command that is never forwarded, with its subcommand where only that is refused. `name` is in upper case.
///
/// Asked for every command: a `match` costs a few comparisons, where a list would be walked through to its end.
pub fn forbidden(name: &[u8], sub: Option<&[u8]>) -> Option<String> {
    let subs: &[&str] = match name {
        // The server itself; `CONFIG` shows the password.
        b"SHUTDOWN" | b"DEBUG" | b"MODULE" | b"REPLICAOF" | b"SLAVEOF" | b"FAILOVER" | b"SYNC" | b"PSYNC" | b"REPLCONF"
        | b"PFDEBUG" | b"PFSELFTEST" | b"MIGRATE" | b"SAVE" | b"BGSAVE" | b"BGREWRITEAOF" | b"SWAPDB" | b"CONFIG"
        // The state of the shared connection.
        | b"SELECT" | b"MOVE" | b"AUTH" | b"HELLO" | b"RESET" | b"QUIT" | b"ASKING" | b"READONLY" | b"READWRITE"
        | b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" | b"SUBSCRIBE" | b"UNSUBSCRIBE" | b"PSUBSCRIBE"
        | b"PUNSUBSCRIBE" | b"SSUBSCRIBE" | b"SUNSUBSCRIBE" | b"MONITOR"
        // They count what this connection has written, which is what everybody has.
        | b"WAIT" | b"WAITAOF"
        // Redis takes these for an attack and closes the connection.
        | b"POST" | b"HOST:" => &[],
        b"ACL" => &["LIST", "GETUSER", "USERS", "SETUSER", "DELUSER", "LOAD", "SAVE", "LOG", "GENPASS"],
        b"LATENCY" | b"SLOWLOG" => &["RESET"],
        b"SCRIPT" => &["DEBUG", "KILL"],
        b"FUNCTION" => &["KILL", "RESTORE", "DUMP"],
        b"CLUSTER" => &[
            "ADDSLOTS",
            "ADDSLOTSRANGE",
            "BUMPEPOCH",
            "DELSLOTS",
            "DELSLOTSRANGE",
            "FAILOVER",
            "FLUSHSLOTS",
            "FORGET",
            "MEET",
            "REPLICATE",
            "RESET",
            "SAVECONFIG",
            "SET-CONFIG-EPOCH",
            "SETSLOT",
        ],
        b"CLIENT" => &[
            // Other clients.
            "LIST", "KILL", "PAUSE", "UNPAUSE", "UNBLOCK", // The state of the shared connection.
            "REPLY", "NO-EVICT", "NO-TOUCH", "TRACKING", "CACHING", "SETNAME", "SETINFO",
        ],
        _ => return None,
    };
    let name = String::from_utf8_lossy(name).into_owned();
    if subs.is_empty() {
        return Some(name);
    }
    let sub = subs.iter().find(|refused| sub.is_some_and(|sub| sub.eq_ignore_ascii_case(refused.as_bytes())))?;
    Some(format!("{name} {sub}"))
}
