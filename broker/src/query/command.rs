//! A Redis command and its arguments, checked: what is never forwarded, what a shared connection can run, what waits.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use super::never;
use crate::encode::resp::Args;

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
    /// A blocking command without a time that can be read.
    #[error("ERR timeout is not a float or out of range")]
    NoTimeout,
    /// A blocking command among others.
    #[error("ERR '{0}' waits, and cannot be one of several: send it by itself")]
    WaitsAmongOthers(String),
    /// One command of a transaction is refused, and so all are.
    #[error("EXECABORT Transaction discarded because of previous errors. (command {index}: {error})")]
    InTransaction {
        /// Which one, from 0.
        index: usize,
        /// Why.
        error: Box<CommandError>,
    },
    /// A pattern that only an attacker writes.
    #[error("ERR pattern is longer than {PATTERN_MAX_BYTES} bytes")]
    LongPattern,
}

/// A command that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its name and its arguments.
    pub args: Args<'a>,
    /// Where it says how long it waits, if it is one that waits: it then needs a connection of its own.
    pub wait: Option<Wait>,
}

/// How long a blocking command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Which argument says so.
    index: usize,
    unit: Unit,
    /// What it says; `None`: for ever.
    asked: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
}

impl<'a> Command<'a> {
    /// Its arguments so that it ends in Redis after `most`, unless it asks for less.
    pub fn within(&self, most: Duration) -> Args<'a> {
        let mut args = self.args.clone();
        if let Some(wait) = self.wait.filter(|wait| wait.asked.is_none_or(|asked| asked > most)) {
            // Zero would mean for ever.
            let millis = most.as_millis().max(1);
            args[wait.index] = Cow::Owned(match wait.unit {
                Unit::Seconds => format!("{}.{:03}", millis / 1000, millis % 1000).into_bytes(),
                Unit::Milliseconds => millis.to_string().into_bytes(),
            });
        }
        args
    }

    /// Its name, for texts.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.args[0]).to_uppercase()
    }
}

/// Reads one command: a JSON array of strings, numbers and booleans.
pub fn command(json: &str) -> Result<Command<'_>, CommandError> {
    if !json.trim_start().starts_with('[') {
        parse::<&RawValue>(json)?;
        return Err(CommandError::Malformed("expected an array of arguments, as in [\"GET\",\"key\"]".to_owned()));
    }
    let items: Vec<&RawValue> = parse(json)?;
    let args = items.into_iter().enumerate().map(|(index, item)| argument(index, item));
    checked(args.collect::<Result<_, _>>()?)
}

/// Reads JSON.
pub fn parse<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Result<T, CommandError> {
    serde_json::from_str(json).map_err(|error| CommandError::Malformed(error.to_string()))
}

/// Checks a command that came as its arguments.
pub fn checked(args: Args<'_>) -> Result<Command<'_>, CommandError> {
    if args.is_empty() {
        return Err(CommandError::Empty);
    }
    let wait = check(&args)?;
    Ok(Command { args, wait })
}

fn argument(index: usize, item: &RawValue) -> Result<Cow<'_, [u8]>, CommandError> {
    let json = item.get();
    match json.as_bytes()[0] {
        // Without a backslash a string is what stands between its quotes.
        b'"' if memchr::memchr(b'\\', json.as_bytes()).is_none() => {
            Ok(Cow::Borrowed(&json.as_bytes()[1..json.len() - 1]))
        }
        b'"' => serde_json::from_str(json)
            .map(|text: String| Cow::Owned(text.into_bytes()))
            .map_err(|_| CommandError::Malformed(format!("argument {index} is not a valid string"))),
        b'[' if index == 0 => Err(CommandError::Malformed("an array of commands goes to /pipeline".to_owned())),
        b'[' | b'{' => Err(CommandError::Malformed(format!("argument {index} is an array or object; send a string"))),
        b'n' => Err(CommandError::Malformed(format!("argument {index} is null; send a string"))),
        // Numbers and booleans travel as they are written.
        _ => Ok(Cow::Borrowed(json.as_bytes())),
    }
}

/// Longer names are none of those that are looked for here.
const LONGEST_NAME: usize = 24;

/// Refuses what is never forwarded. Where the command waits, tells how long.
fn check(args: &Args<'_>) -> Result<Option<Wait>, CommandError> {
    let mut buffer = [0; LONGEST_NAME];
    let Some(upper) = buffer.get_mut(..args[0].len()) else { return Ok(None) };
    upper.copy_from_slice(&args[0]);
    upper.make_ascii_uppercase();
    let name = &*upper;
    let rest = &args[1..];
    if let Some(never) = never::forbidden(name, rest.first().map(|arg| &**arg)) {
        return Err(CommandError::Forbidden(never));
    }
    match name {
        b"KEYS" | b"SCAN" | b"HSCAN" | b"SSCAN" | b"ZSCAN" | b"PUBSUB"
            if rest.iter().any(|arg| arg.len() > PATTERN_MAX_BYTES) =>
        {
            Err(CommandError::LongPattern)
        }
        b"COPY" if rest.iter().skip(2).any(|arg| arg.eq_ignore_ascii_case(b"DB")) => {
            Err(CommandError::Forbidden("COPY … DB".to_owned()))
        }
        b"BLPOP" | b"BRPOP" | b"BRPOPLPUSH" | b"BLMOVE" | b"BZPOPMIN" | b"BZPOPMAX" => {
            waits(args, args.len() - 1, Unit::Seconds).map(Some)
        }
        b"BLMPOP" | b"BZMPOP" => waits(args, 1, Unit::Seconds).map(Some),
        // `GROUP group consumer`: the names may read like options.
        b"XREAD" | b"XREADGROUP" => {
            let options = if name == b"XREADGROUP" { 4 } else { 1 };
            let mut before = args.iter().enumerate().skip(options).take_while(|(_, arg)| !is(arg, b"STREAMS"));
            before.find(|(_, arg)| is(arg, b"BLOCK")).map(|(at, _)| waits(args, at + 1, Unit::Milliseconds)).transpose()
        }
        _ => Ok(None),
    }
}

fn is(arg: &[u8], word: &[u8]) -> bool {
    arg.eq_ignore_ascii_case(word)
}

/// Reads how long a command waits. What Redis would not read either is refused with its words.
fn waits(args: &Args<'_>, index: usize, unit: Unit) -> Result<Wait, CommandError> {
    let text = args.get(index).filter(|_| index > 0).and_then(|arg| std::str::from_utf8(arg).ok());
    let asked = match unit {
        Unit::Seconds => text.and_then(|text| text.parse::<f64>().ok()),
        Unit::Milliseconds => {
            text.and_then(|text| text.parse::<u64>().ok()).map(|ms| Duration::from_millis(ms).as_secs_f64())
        }
    };
    // Longer than a century is for ever; what is longer than the deadline is cut to it anyway.
    let asked = asked.filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or(CommandError::NoTimeout)?;
    let asked = Duration::try_from_secs_f64(asked).ok().filter(|asked| !asked.is_zero());
    Ok(Wait { index, unit, asked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<String>, CommandError> {
        Ok(texts(&command(json)?.args))
    }

    fn texts(args: &Args<'_>) -> Vec<String> {
        args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }

    #[test]
    fn what_waits_ends_before_the_deadline() {
        let cut = |json: &str| {
            let command = command(json).expect("reads");
            (command.wait.is_some(), texts(&command.within(Duration::from_millis(1500))).join(" "))
        };
        for (json, waits, sent) in [
            (r#"["BLPOP","a","b",0]"#, true, "BLPOP a b 1.500"),
            (r#"["brpop","a","1"]"#, true, "brpop a 1"),
            (r#"["brpop","a","0.0001"]"#, true, "brpop a 0.0001"),
            (r#"["BLMPOP","1e3","1","a","LEFT"]"#, true, "BLMPOP 1.500 1 a LEFT"),
            (r#"["bzpopmin","z",2]"#, true, "bzpopmin z 1.500"),
            (r#"["XREAD","COUNT",2,"block",0,"STREAMS","s","$"]"#, true, "XREAD COUNT 2 block 1500 STREAMS s $"),
            (
                r#"["XREADGROUP","GROUP","g","BLOCK","BLOCK","9","STREAMS","s",">"]"#,
                true,
                "XREADGROUP GROUP g BLOCK BLOCK 9 STREAMS s >",
            ),
            (r#"["xread","streams","block","0"]"#, false, "xread streams block 0"),
            (r#"["LPOP","a"]"#, false, "LPOP a"),
        ] {
            assert_eq!(cut(json), (waits, sent.to_owned()), "{json}");
        }
        for json in [
            r#"["BLPOP"]"#,
            r#"["BLPOP","a","x"]"#,
            r#"["BLPOP","a","-1"]"#,
            r#"["XREAD","BLOCK"]"#,
            r#"["BLPOP","a","nan"]"#,
        ] {
            assert_eq!(read(json), Err(CommandError::NoTimeout), "{json}");
        }
    }

    #[test]
    fn arguments_travel_as_they_are_written() {
        let json = r#" ["set","k",1180591620717411303424,1.5e-09,true,"\u00e9"]"#;
        assert_eq!(read(json).expect("reads"), ["set", "k", "1180591620717411303424", "1.5e-09", "true", "é"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for json in
            ["", "{}", "\"GET\"", "GET k", "[\"GET\"] k", r#"["GET",null]"#, r#"["GET",["k"]]"#, r#"[["GET","k"]]"#]
        {
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
            r#"["wait",1,0]"#,
            r#"["mUlTi"]"#,
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
