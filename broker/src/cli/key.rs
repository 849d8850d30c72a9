//! `hearth key`: API keys, shown once.

use std::error::Error;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use jiff::{Timestamp, ToSpan};
use sha2::{Digest, Sha256};

use super::print;
use crate::base::hex::hex;
use crate::config::units::parse_duration;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key: prints it once, and the line with its hash for the configuration file.
    ///
    /// To rotate: add the new key beside the old one and reload; hand it out; when the old one's `last_used` in `GET
    /// /admin/v1/keys` stands still, give it an `expires`, and take it out after that.
    Create(CreateArgs),
}

/// The key to make.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the key may do: any of sql:read, sql:write, redis.
    #[arg(long, value_delimiter = ',', default_value = "sql:read,sql:write,redis", value_parser = ["sql:read", "sql:write", "redis"])]
    scopes: Vec<String>,
    /// How long the key is valid, for example 90d. Default: for ever.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// Make a key for the admin interface in place of a tenant's.
    #[arg(long)]
    admin: bool,
}

/// A key as it is handed out, and what is kept of it.
pub struct NewKey {
    /// The public half.
    pub id: String,
    /// The secret half: 256 random bits.
    pub secret: String,
    /// SHA-256 of the secret half, in hexadecimal.
    pub sha256: String,
}

impl NewKey {
    /// Makes a key from the operating system's randomness.
    pub fn random() -> Self {
        let id: [u8; 9] = rand::random();
        let secret: [u8; 32] = rand::random();
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let sha256 = hex(&Sha256::digest(secret.as_bytes()));
        Self { id: format!("hk_{}", URL_SAFE_NO_PAD.encode(id)), secret, sha256 }
    }

    /// The whole key, as a caller sends it.
    pub fn token(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// Runs `hearth key …`.
pub fn run(command: &KeyCommand) -> Result<(), Box<dyn Error>> {
    let KeyCommand::Create(args) = command;
    let key = NewKey::random();
    if args.admin {
        return print(&format!(
            "The admin key, shown only now:\n\n  {}\n\nPut its hash into the configuration:\n\n  [server]\n  admin_key_sha256 = \"{}\"\n",
            key.secret, key.sha256
        ));
    }
    let scopes = args.scopes.iter().map(|scope| format!("\"{scope}\"")).collect::<Vec<_>>().join(", ");
    let expires = match &args.expires_in {
        None => String::new(),
        Some(text) => {
            let span = i64::try_from(parse_duration(text)?.as_millis())?.milliseconds();
            format!(", expires = \"{}\"", Timestamp::now().checked_add(span)?)
        }
    };
    print(&format!(
        "The key, shown only now:\n\n  {}\n\nAdd its hash to the tenant's keys in the configuration:\n\n  \
         {{ id = \"{}\", sha256 = \"{}\", scopes = [{scopes}]{expires} }}\n",
        key.token(),
        key.id,
        key.sha256
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_hash_is_of_its_secret_half() {
        let key = NewKey::random();
        let token = key.token();
        let (id, secret) = token.split_once('.').expect("has two halves");
        assert_eq!(id, key.id);
        let hash = hex(&Sha256::digest(secret.as_bytes()));
        assert_eq!(hash, key.sha256);
        assert_ne!(NewKey::random().secret, key.secret);
    }
}
