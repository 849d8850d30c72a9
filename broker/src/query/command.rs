//! A Redis command and its arguments, checked against what a shared connection can run.

use redis::{Arg, Cmd};
use serde_json::value::RawValue;

/// Commands that are never forwarded: they change the server, another client, or the state of a connection that others share.
/// `COMMAND SUBCOMMAND` refuses one subcommand. Compared without regard to case, whole names only.
const NEVER: &[&str] = &[
    // The server itself.
    "SHUTDOWN",
    "DEBUG",
    "MODULE",
    "REPLICAOF",
    "SLAVEOF",
    "FAILOVER",
    "SYNC",
    "PSYNC",
    "REPLCONF",
    "PFDEBUG",
    "PFSELFTEST",
    "MIGRATE",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "SWAPDB",
    // It shows the password.
    "CONFIG",
    "ACL LIST",
    "ACL GETUSER",
    "ACL USERS",
    "ACL SETUSER",
    "ACL DELUSER",
    "ACL LOAD",
    "ACL SAVE",
    "ACL LOG",
    "ACL GENPASS",
    "LATENCY RESET",
    "SLOWLOG RESET",
    "SCRIPT DEBUG",
    "SCRIPT KILL",
    "FUNCTION KILL",
    "FUNCTION RESTORE",
    "FUNCTION DUMP",
    "CLUSTER ADDSLOTS",
    "CLUSTER ADDSLOTSRANGE",
    "CLUSTER BUMPEPOCH",
    "CLUSTER DELSLOTS",
    "CLUSTER DELSLOTSRANGE",
    "CLUSTER FAILOVER",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER FORGET",
    "CLUSTER MEET",
    "CLUSTER REPLICATE",
    "CLUSTER RESET",
    "CLUSTER SAVECONFIG",
    "CLUSTER SET-CONFIG-EPOCH",
    "CLUSTER SETSLOT",
    // Other clients.
    "CLIENT LIST",
    "CLIENT KILL",
    "CLIENT PAUSE",
    "CLIENT UNPAUSE",
    "CLIENT UNBLOCK",
    // The state of the shared connection.
    "CLIENT REPLY",
    "CLIENT NO-EVICT",
    "CLIENT NO-TOUCH",
    "CLIENT TRACKING",
    "CLIENT CACHING",
    "CLIENT SETNAME",
    "CLIENT SETINFO",
    "SELECT",
    "MOVE",
    "AUTH",
    "HELLO",
    "RESET",
    "QUIT",
    "ASKING",
    "READONLY",
    "READWRITE",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    // Redis takes these for an attack and closes the connection.
    "POST",
    "HOST:",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "MONITOR",
    // They would hold up everyone on the connection.
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BLMOVE",
    "BLMPOP",
    "BZPOPMIN",
    "BZPOPMAX",
    "BZMPOP",
    "WAIT",
    "WAITAOF",
];

/// Patterns longer than this are refused: matching one has brought servers down (CVE-2024-31228). Unit: bytes.
const PATTERN_MAX_BYTES: usize = 1024;

/// Why a command is not sent. The text is the answer, in Redis' own style.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The body is no command.
    #[error("ERR failed to parse command: {0}")]
    Malformed(String),
    /// An empty array.
    #[error("ERR empty command")]
    Empty,
    /// The command is never forwarded.
    #[error("ERR Command '{0}' is not available over HTTP, since connections are shared")]
    Forbidden(String),
    /// A pattern that only an attacker writes.
    #[error("ERR pattern is longer than {PATTERN_MAX_BYTES} bytes")]
    LongPattern,
}

/// Reads one command: a JSON array of strings, numbers and booleans.
pub fn command(raw: &RawValue) -> Result<Cmd, CommandError> {
    if !raw.get().starts_with('[') {
        return Err(CommandError::Malformed("expected an array of arguments, as in [\"GET\",\"key\"]".to_owned()));
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|error| CommandError::Malformed(error.to_string()))?;
    if items.is_empty() {
        return Err(CommandError::Empty);
    }
    let mut command = Cmd::with_capacity(items.len(), raw.get().len());
    for (index, item) in items.into_iter().enumerate() {
        argument(&mut command, index, item)?;
    }
    check(&command)?;
    Ok(command)
}

fn argument(command: &mut Cmd, index: usize, item: &RawValue) -> Result<(), CommandError> {
    let json = item.get();
    match json.as_bytes()[0] {
        b'"' => {
            let text: String = serde_json::from_str(json)
                .map_err(|_| CommandError::Malformed(format!("argument {index} is not a valid string")))?;
            command.arg(text);
        }
        b'[' if index == 0 => {
            return Err(CommandError::Malformed("an array of commands goes to /pipeline".to_owned()));
        }
        b'[' | b'{' => {
            return Err(CommandError::Malformed(format!("argument {index} is an array or object; send a string")));
        }
        b'n' => return Err(CommandError::Malformed(format!("argument {index} is null; send a string"))),
        // Numbers and booleans travel as they are written.
        _ => {
            command.arg(json);
        }
    }
    Ok(())
}

/// Refuses what a shared connection must not run.
fn check(command: &Cmd) -> Result<(), CommandError> {
    let mut args = command.args_iter().filter_map(|arg| match arg {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let name = upper(args.next());
    let second = args.next();
    let refuses = |never: &&&str| match never.split_once(' ') {
        None => **never == name,
        Some((command, sub)) => command == name && second.is_some_and(|arg| arg.eq_ignore_ascii_case(sub.as_bytes())),
    };
    if let Some(never) = NEVER.iter().find(refuses) {
        return Err(CommandError::Forbidden((*never).to_owned()));
    }
    let pattern_at_end = matches!(name.as_str(), "KEYS" | "SCAN" | "HSCAN" | "SSCAN" | "ZSCAN" | "PUBSUB");
    if pattern_at_end && second.into_iter().chain(args.clone()).any(|arg| arg.len() > PATTERN_MAX_BYTES) {
        return Err(CommandError::LongPattern);
    }
    // `GROUP group consumer`: the names may read like options.
    let words = if name == "XREADGROUP" { 3 } else { 0 };
    let blocks = matches!(name.as_str(), "XREAD" | "XREADGROUP")
        && second
            .into_iter()
            .chain(args.clone())
            .skip(words)
            .take_while(|arg| !arg.eq_ignore_ascii_case(b"STREAMS"))
            .any(|arg| arg.eq_ignore_ascii_case(b"BLOCK"));
    let leaves = name == "COPY" && args.skip(1).any(|arg| arg.eq_ignore_ascii_case(b"DB"));
    if leaves {
        return Err(CommandError::Forbidden("COPY … DB".to_owned()));
    }
    if blocks {
        return Err(CommandError::Forbidden(format!("{name} … BLOCK")));
    }
    Ok(())
}

fn upper(arg: Option<&[u8]>) -> String {
    arg.map(|bytes| String::from_utf8_lossy(bytes).to_uppercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<String>, CommandError> {
        let raw = RawValue::from_string(json.to_owned()).expect("is JSON");
        let command = command(&raw)?;
        Ok(command
            .args_iter()
            .map(|arg| match arg {
                Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => panic!("a plain argument"),
            })
            .collect())
    }

    #[test]
    fn arguments_travel_as_they_are_written() {
        let json = r#"["set","k",1180591620717411303424,1.5e-09,true,"\u00e9"]"#;
        assert_eq!(read(json).expect("reads"), ["set", "k", "1180591620717411303424", "1.5e-09", "true", "é"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for json in ["{}", "\"GET\"", r#"["GET",null]"#, r#"["GET",["k"]]"#, r#"[["GET","k"]]"#] {
            assert!(matches!(read(json), Err(CommandError::Malformed(_))), "{json}");
        }
        assert_eq!(read("[]"), Err(CommandError::Empty));
    }

    #[test]
    fn never_means_never_in_any_case() {
        for json in [
            r#"["flushall"]"#,
            r#"["Select",1]"#,
            r#"["config","set","a","b"]"#,
            r#"["CLIENT","No-Evict","on"]"#,
            r#"["blpop","k",0]"#,
            r#"["xread","block",0,"streams","s","$"]"#,
            r#"["mUlTi"]"#,
            r#"["xreadgroup","group","STREAMS","c","BLOCK",0,"streams","s",">"]"#,
            r#"["copy","a","b","db",1]"#,
            r#"["config","get","requirepass"]"#,
            r#"["acl","list"]"#,
            r#"["post","/"]"#,
            r#"["Host:","x"]"#,
        ] {
            let forbidden = matches!(read(json), Err(CommandError::Forbidden(_)));
            assert_eq!(forbidden, !json.contains("flushall"), "{json}");
        }
        assert!(read(r#"["xreadgroup","GROUP","block","block","STREAMS","s",">"]"#).is_ok(), "a group called block");
        assert!(read(r#"["copy","db","b"]"#).is_ok(), "a key called db");
        assert!(read(r#"["xread","streams","block","0"]"#).is_ok(), "a stream called block");
        let long = format!(r#"["KEYS","{}"]"#, "*".repeat(2000));
        assert_eq!(read(&long), Err(CommandError::LongPattern));
    }
}
