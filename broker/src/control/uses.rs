//! When keys were last used, as brokers tell it: the one thing that a broker writes by itself.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use super::read::LOOK;
use super::{ControlError, Reader};

/// One statement, whatever the number. Of several brokers the one that saw a key last wins. All go by the order of ids, so that
/// two never wait for each other in a circle. A key that is gone by now is left out, and one that stands here twice counts once.
const WRITE: &str = "INSERT INTO hearth.key_uses AS stored (id, last_used) \
     SELECT k.id, max(u.used) FROM unnest($1::text[], $2::timestamptz[]) AS u(id, used) JOIN hearth.keys k ON k.id = u.id \
     GROUP BY k.id ORDER BY k.id \
     ON CONFLICT (id) DO UPDATE SET last_used = excluded.last_used WHERE stored.last_used < excluded.last_used";
/// Changes are read over the same session: what holds a row for longer is waited for at another time.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Less than a look may take, so that the server's answer comes before the broker gives up on the session.
const PATIENCE: Duration = Duration::from_secs(4);

impl Reader {
    /// Writes that these keys were used at these moments, at the latest. Errors: also a role that may only read. Nothing is written
    /// then, and the session is as it was, but after [`ControlError::TimedOut`].
    pub async fn write_uses(&mut self, ids: &[&str], moments: &[Timestamp]) -> Result<(), ControlError> {
        let written = async {
            let transaction = self.session.client.transaction().await?;
            let (lock, whole) = (LOCK_PATIENCE.as_millis(), PATIENCE.as_millis());
            let bounds = format!("SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {whole}");
            transaction.batch_execute(&bounds).await?;
            transaction.execute_typed(WRITE, &[(&ids, Type::TEXT_ARRAY), (&moments, Type::TIMESTAMPTZ_ARRAY)]).await?;
            transaction.commit().await
        };
        let written = timeout(LOOK, written).await.map_err(|_| ControlError::TimedOut(LOOK))?;
        written.map_err(|error| match error.into() {
            ControlError::Busy(_) => ControlError::Busy(LOCK_PATIENCE),
            other => other,
        })
    }
}
