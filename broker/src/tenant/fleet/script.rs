//! What is asked of Redis: a script a kind of limit, each atomic and over one key, so that a cluster will do.
//!
//! Each has its latest moment, in Redis' own time: a script that comes to run later does nothing. What was sent to a Redis that
//! hung is then not granted to nobody when it comes back. Each answers `{done, now, a, b}`.

use std::borrow::Cow;

use redis::Value;

use crate::encode::reply::Replies;
use crate::encode::resp::{self, Args, Head, NotResp};

/// Which script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Says that this broker is alive. Arguments: broker, time to live. Answer: live brokers.
    Beat,
    /// Says that it leaves. Arguments: broker.
    Leave,
    /// Tokens of a rate. Arguments: tokens a second, burst, deepest debt, spent, wanted, given back, time to live. Answer: granted,
    /// left.
    Tokens,
    /// A share of a limit. Arguments: limit, broker, held, wanted, time to live. Answer: the share, brokers that have one.
    Share,
    /// A count. Arguments: what it should be at least without what is added, what is added, time to live. Answer: the count.
    Count,
}

/// Times are microseconds, but for `PEXPIRE`.
const HEAD: &str = "local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
if now > tonumber(ARGV[1]) then return {0, now, 0, 0} end
local a = {}
for i = 2, #ARGV do a[i - 1] = tonumber(ARGV[i]) or ARGV[i] end
";

const BEAT: &str = "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + a[2], ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.ceil(a[2] / 1000))
return {1, now, redis.call('ZCARD', KEYS[1]), 0}
";

const LEAVE: &str = "redis.call('ZREM', KEYS[1], ARGV[2])
return {1, now, 0, 0}
";

/// What is spent is charged whatever is left; what is wanted is granted as far as there is something.
const TOKENS: &str = "local rate, burst, debt, spent, want, give, ttl = unpack(a)
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(known[1]) or burst, tonumber(known[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate / 1000000)
tokens = math.min(burst, tokens + give)
tokens = math.max(tokens - spent, math.min(tokens, -debt))
local grant = math.max(0, math.min(want, math.floor(tokens)))
tokens = tokens - grant
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], ttl)
return {1, now, grant, math.floor(tokens)}
";

/// Max-min: what is wanted is met as evenly as possible, and what nobody wants is shared out evenly too. Nobody is given what
/// another still holds.
const SHARE: &str = "local limit, held, want, ttl = a[1], a[3], a[4], a[5]
local me = ARGV[3]
local all = redis.call('HGETALL', KEYS[1])
local wants, others = {}, 0
for i = 1, #all, 2 do
  local s, w, e = string.match(all[i + 1], '^(%d+):(%d+):(%d+)$')
  if all[i] ~= me then
    if not e or tonumber(e) < now then
      redis.call('HDEL', KEYS[1], all[i])
    else
      others = others + tonumber(s)
      wants[#wants + 1] = tonumber(w)
    end
  end
end
if held == 0 and want == 0 then
  redis.call('HDEL', KEYS[1], me)
  return {1, now, 0, #wants}
end
wants[#wants + 1] = want
table.sort(wants)
local left, n, level = limit, #wants, nil
for i, w in ipairs(wants) do
  local even = left / (n - i + 1)
  if w > even then level = even break end
  left = left - w
end
local share
if level and want > level then share = math.ceil(level)
elseif level then share = want
else share = want + math.floor(left / n) end
share = math.max(math.min(share, limit - others), held)
redis.call('HSET', KEYS[1], me, string.format('%d:%d:%d', share, want, now + ttl))
redis.call('PEXPIRE', KEYS[1], math.ceil(ttl / 1000))
return {1, now, share, n}
";

/// A count that Redis has lost is mended by whoever remembers it.
const COUNT: &str = "local count = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, a[1]) + a[2]
redis.call('SET', KEYS[1], string.format('%.0f', count), 'PX', a[3])
return {1, now, count, 0}
";

impl Script {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Beat, Self::Leave, Self::Tokens, Self::Share, Self::Count];

    /// Its text.
    pub fn text(self) -> String {
        let body = match self {
            Self::Beat => BEAT,
            Self::Leave => LEAVE,
            Self::Tokens => TOKENS,
            Self::Share => SHARE,
            Self::Count => COUNT,
        };
        format!("{HEAD}{body}")
    }
}

/// One run of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub script: Script,
    /// Over which key.
    pub key: String,
    /// With what.
    pub args: Vec<String>,
}

impl Ask {
    /// The command, for a Redis that has the script under this hash. `latest`: in Redis' time, microseconds.
    pub fn command(&self, hash: &str, latest: i64) -> Args<'_> {
        let head = [&b"EVALSHA"[..], hash.as_bytes(), b"1", self.key.as_bytes()];
        let mut command: Args<'_> = head.iter().map(|part| Cow::Owned(part.to_vec())).collect();
        command.push(Cow::Owned(latest.to_string().into_bytes()));
        command.extend(self.args.iter().map(|arg| Cow::Borrowed(arg.as_bytes())));
        command
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Of a script: done, now, and two more.
    Numbers([i64; 4]),
    /// Of a script that was loaded: its hash.
    Text(String),
    /// A refusal.
    Refused(String),
}

/// Reads answers. Errors: they are not what a script gives.
pub fn read(replies: Replies) -> Result<Vec<Told>, NotResp> {
    match replies {
        Replies::Tree(values) => values.map(of_value).collect(),
        Replies::Wire(bytes) => {
            let (mut told, mut at) = (Vec::new(), 0);
            while at < bytes.len() {
                told.push(of_wire(&bytes, &mut at)?);
            }
            Ok(told)
        }
    }
}

fn of_value(value: Value) -> Result<Told, NotResp> {
    match value {
        Value::Array(values) => {
            let numbers: Vec<i64> =
                values.iter().filter_map(|v| if let Value::Int(n) = v { Some(*n) } else { None }).collect();
            numbers.try_into().map(Told::Numbers).map_err(|_| NotResp)
        }
        Value::BulkString(text) => String::from_utf8(text).map(Told::Text).map_err(|_| NotResp),
        Value::SimpleString(text) => Ok(Told::Text(text)),
        Value::ServerError(error) => Ok(Told::Refused(crate::encode::reply::error_text(&error))),
        _ => Err(NotResp),
    }
}

fn of_wire(bytes: &[u8], at: &mut usize) -> Result<Told, NotResp> {
    let Head { kind, line, next } = resp::head(bytes, *at)?.ok_or(NotResp)?;
    *at = next;
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    match kind {
        b'-' => Ok(Told::Refused(text(line))),
        b'+' => Ok(Told::Text(text(line))),
        b'$' => {
            let length = resp::length(line)?.ok_or(NotResp)?;
            *at = next + length + 2;
            Ok(Told::Text(text(bytes.get(next..next + length).ok_or(NotResp)?)))
        }
        b'*' if line == b"4" => {
            let mut numbers = [0; 4];
            for number in &mut numbers {
                let Head { kind, line, next } = resp::head(bytes, *at)?.ok_or(NotResp)?;
                *at = next;
                let digits = std::str::from_utf8(line).ok().filter(|_| kind == b':');
                *number = digits.and_then(|digits| digits.parse().ok()).ok_or(NotResp)?;
            }
            Ok(Told::Numbers(numbers))
        }
        _ => Err(NotResp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_come_over_the_wire() {
        let wire = Replies::Wire(
            (&b"*4\r\n:1\r\n:1700000000000000\r\n:45\r\n:-3\r\n$3\r\nabc\r\n-NOSCRIPT No matching\r\n"[..]).into(),
        );
        let told = read(wire).expect("is RESP");
        let refused = Told::Refused("NOSCRIPT No matching".to_owned());
        assert_eq!(told, [Told::Numbers([1, 1_700_000_000_000_000, 45, -3]), Told::Text("abc".to_owned()), refused]);
        assert!(read(Replies::Wire((&b"*1\r\n:1\r\n"[..]).into())).is_err());
    }
}
