//! Identifiers as types of their own, so that a tenant is never passed where a database is meant.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Wraps a name that configuration or identity has checked.
            pub fn new(name: &str) -> Self {
                Self(Arc::from(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Whose limits and rights apply. Cheap to clone.
    TenantId
}
name! {
    /// A database or a cache as the configuration names it.
    BackendName
}
name! {
    /// The public half of an API key.
    KeyId
}
name! {
    /// One request, from the caller's header or made here.
    RequestId
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The longest request id taken from a caller; a longer one is replaced. Unit: bytes.
const REQUEST_ID_MAX_BYTES: usize = 128;

impl RequestId {
    /// The caller's own id where it is plain enough to be logged and echoed, else a new one.
    pub fn from_header(value: Option<&[u8]>) -> Self {
        value
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .filter(|text| !text.is_empty() && text.len() <= REQUEST_ID_MAX_BYTES)
            .filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b)))
            .map_or_else(Self::random, Self::new)
    }

    fn random() -> Self {
        let mut text = *b"req_00000000000000000000000000000000";
        let id: [u8; 16] = rand::random();
        for (pair, byte) in text[4..].chunks_exact_mut(2).zip(id) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        Self(Arc::from(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_could_break_a_log_line_is_replaced() {
        assert_eq!(RequestId::from_header(Some(b"abc-1.2")).as_str(), "abc-1.2");
        for bad in [&b""[..], b"a b", b"a\nb", b"\xff", &[b'x'; 129]] {
            assert!(RequestId::from_header(Some(bad)).as_str().starts_with("req_"));
        }
        assert_ne!(RequestId::from_header(None), RequestId::from_header(None));
    }
}
