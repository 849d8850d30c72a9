//! What handlers take from the router: the broker as it is when their request comes, which they keep to its end.

use std::sync::Arc;

use axum::extract::FromRef;

use crate::broker::{Broker, Live};

impl FromRef<Live> for Arc<Broker> {
    fn from_ref(live: &Live) -> Self {
        live.now()
    }
}
