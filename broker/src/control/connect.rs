//! Reaching the control database.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{ControlError, Reader, Store, migrate};
use crate::config::{ControlConfig, Secret, database_url};
use crate::pool::postgres::tls;

/// How to reach the control database.
pub struct Control {
    /// Its section of the configuration.
    pub config: ControlConfig,
    postgres: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    /// Over the password and the root certificate, as they were read.
    read: [u8; 32],
    writers: Arc<Semaphore>,
}

/// Sessions for the admin interface at one time: enough for people, and no burden to a small server.
const MAX_WRITERS: usize = 4;

impl Control {
    /// Prepares to connect. Errors: an address, a secret or a certificate that does not work.
    pub fn new(config: &ControlConfig) -> Result<Self, String> {
        let url = database_url(&config.url)?;
        let mut read = Sha256::new();
        let mut postgres = url.postgres.clone();
        if let Some(password) = config.password.as_ref().map(Secret::reveal).transpose()? {
            read.update(&password);
            postgres.password(password);
        }
        if let Some(roots) = &url.root_cert {
            read.update(std::fs::read(roots).unwrap_or_default());
        }
        if postgres.get_application_name().is_none() {
            postgres.application_name("hearth control");
        }
        // A network that has gone silent is noticed by the next look; this frees the socket.
        postgres.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
        let writers = Arc::new(Semaphore::new(MAX_WRITERS));
        Ok(Self { config: config.clone(), postgres, tls: tls::connector(&url)?, read: read.finalize().into(), writers })
    }

    /// True if both reach the same database in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        self.config == other.config && self.read == other.read
    }

    /// Opens a session, whatever its schema.
    pub async fn open(&self) -> Result<Session, ControlError> {
        let patience = self.config.connect_timeout;
        timeout(patience, self.sign_in()).await.map_err(|_| ControlError::TimedOut(patience))?
    }

    async fn sign_in(&self) -> Result<Session, ControlError> {
        let told = Arc::new(Notify::new());
        let client = if let Some(tls) = self.tls.clone() {
            let (client, connection) = self.postgres.connect(tls).await.map_err(ControlError::Unreachable)?;
            tokio::spawn(drive(connection, Arc::clone(&told)));
            client
        } else {
            let (client, connection) = self.postgres.connect(NoTls).await.map_err(ControlError::Unreachable)?;
            tokio::spawn(drive(connection, Arc::clone(&told)));
            client
        };
        Ok(Session { client, told })
    }

    /// Opens a session to read from. Errors: also a schema that is too old.
    pub async fn reader(&self) -> Result<Reader, ControlError> {
        let session = self.open().await?;
        migrate::must_be_current(&session.client).await?;
        Ok(Reader::new(session))
    }

    /// Opens a session to write with. Errors: also a schema that is too old.
    pub async fn store(&self) -> Result<Store, ControlError> {
        let patience = self.config.connect_timeout;
        let turn = timeout(patience, Arc::clone(&self.writers).acquire_owned()).await;
        let turn = turn.map_err(|_| ControlError::Busy(patience))?.expect("is never closed");
        let session = self.open().await?;
        migrate::must_be_current(&session.client).await?;
        Ok(Store::new(session.client, turn))
    }
}

/// A session. Ends when it is dropped.
pub struct Session {
    /// The driver's client.
    pub client: Client,
    /// Told of each notification, and of the session's end.
    pub told: Arc<Notify>,
}

async fn drive<S, T>(mut connection: Connection<S, T>, told: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            // What was told is asked again anyhow: only that something has changed counts.
            Some(Ok(AsyncMessage::Notification(_))) => told.notify_one(),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = %error, "a session of the control database ended");
                break;
            }
            None => break,
        }
    }
    told.notify_one();
}
