//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many as the system lets it have: the usual 1024 would be the limit long before any in the configuration. Answers
/// how many these are; `None`: no limit.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(error = %error, "the limit of open files could not be raised");
        }
    }
    getrlimit(Resource::Nofile).current
}
