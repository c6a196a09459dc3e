//! The settings of the bus, with defaults, bounds and reasons.

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use async_nats::ServerAddr;

use crate::{client_id::ClientId, store::Store, user::User};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where NATS is, who this process is, and how its bus behaves.
///
/// ```
/// use bus::{ClientId, Options};
///
/// let options = Options {
///     servers: "nats://a:4222,nats://b:4222".to_owned(),
///     stream_replicas: 3,
///     ..Options::new(ClientId::of_this_process())
/// };
/// assert!(options.check().is_ok());
/// ```
///
/// Processes that share a stream or a queue group should set the same [`ack_wait`](Self::ack_wait),
/// [`max_ack_pending`](Self::max_ack_pending) and [`retention`](Self::retention): each process restores
/// its own values on the server.
#[derive(Clone)]
pub struct Options {
    /// The URLs of one server, or of several of one cluster separated by commas. Each is tried in turn.
    /// Default: `nats://127.0.0.1:4222`.
    pub servers: String,
    /// The user, if the server asks for one. Default: none.
    pub user: Option<User>,
    /// Names of streams that live in the NATS account of another service and are imported from there.
    /// See [`Bus::imports`](crate::Bus::imports). Default: none.
    pub imported: Vec<String>,
    /// A PEM file with the authority that signed the server's certificate. Setting it requires TLS.
    /// Default: none.
    pub certificate_authority: Option<PathBuf>,
    /// How many replicas a new stream has in the cluster: 1, 3 or 5. Default: 1.
    pub stream_replicas: usize,
    /// Where the events of a stream are kept. Every process that shares the stream should set the same. Default: none,
    /// which is [`Store::File`] for a new stream, and leaves the storage of an existing one alone.
    pub store: Option<Store>,
    /// The name of this process. Two processes must not share one: see [`Lease`](crate::Lease).
    pub client_id: ClientId,
    /// The node this process runs on, which a duplicate's error message names. Empty: unknown.
    pub node: String,
    /// How long a member may be silent about an event before the server delivers it to another. A live
    /// member reports progress eight times as often. Shorter: a dead member's events are taken over
    /// sooner. Longer: fewer false redeliveries on busy machines. From 2 s to 5 min, default 8 s.
    pub ack_wait: Duration,
    /// The most events in one transaction and in one pull. A member holds less than four times as many: two
    /// batches being processed and those that have arrived meanwhile. From 1 to 1,000, default 256.
    pub batch_size: usize,
    /// How often an event that fails on its own is tried before it becomes a dead letter. With the
    /// growing delay between tries, five take about 20 s. From 1 to 100, default 5.
    pub max_attempts: i32,
    /// How many events of one group may be unacknowledged at once, over all members, including those
    /// that wait for a retry. At least twice `batch_size`, default 20,000.
    pub max_ack_pending: i64,
    /// How long streams and the outbox keep an event: how long a group may be down without losing
    /// events, and how far back a new group can start. From 1 to 14 days, default 14: the outbox is a
    /// ring of partitions that holds no more, and the inbox remembers ids for twice that time.
    pub retention: Duration,
}

/// An option outside its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `servers` is empty.
    #[error("no NATS server URL is given")]
    NoServers,
    /// A part of `servers` is no URL. It is named by its number, because it may hold a password.
    #[error("NATS server URL number {number} is invalid: {reason}")]
    Server {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of `certificate_authority` does not exist.
    #[error("the certificate authority {} is not a file", .0.display())]
    CertificateAuthority(PathBuf),
    /// A number or a duration is out of bounds.
    #[error("{name} is {value}, it must be {bounds}")]
    OutOfBounds {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// The allowed values.
        bounds: String,
    },
}

impl Options {
    /// The default [`ack_wait`](Self::ack_wait).
    pub const ACK_WAIT: Duration = Duration::from_secs(8);
    /// The default [`batch_size`](Self::batch_size).
    pub const BATCH_SIZE: usize = 256;
    /// The default [`max_attempts`](Self::max_attempts).
    pub const MAX_ATTEMPTS: i32 = 5;
    /// The default [`max_ack_pending`](Self::max_ack_pending).
    pub const MAX_ACK_PENDING: i64 = 20_000;
    /// The default [`retention`](Self::retention), which is also the longest.
    pub const RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

    /// The defaults, for a process of this name.
    #[must_use]
    pub fn new(client_id: ClientId) -> Self {
        Self {
            servers: "nats://127.0.0.1:4222".to_owned(),
            user: None,
            imported: Vec::new(),
            certificate_authority: None,
            stream_replicas: 1,
            store: None,
            client_id,
            node: String::new(),
            ack_wait: Self::ACK_WAIT,
            batch_size: Self::BATCH_SIZE,
            max_attempts: Self::MAX_ATTEMPTS,
            max_ack_pending: Self::MAX_ACK_PENDING,
            retention: Self::RETENTION,
        }
    }

    /// Whether events that a stream has lost are republished.
    pub(crate) fn refills(&self) -> bool {
        self.store.is_none_or(Store::refills)
    }

    /// Checks every option against its bounds.
    ///
    /// # Errors
    /// The first option that is out of bounds.
    pub fn check(&self) -> Result<(), OptionsError> {
        servers(&self.servers)?;
        if let Some(file) = &self.certificate_authority
            && !file.is_file()
        {
            return Err(OptionsError::CertificateAuthority(file.clone()));
        }
        if !matches!(self.stream_replicas, 1 | 3 | 5) {
            let (value, bounds) = (self.stream_replicas.to_string(), "1, 3 or 5".to_owned());
            return Err(OptionsError::OutOfBounds { name: "stream_replicas", value, bounds });
        }
        within("ack_wait", self.ack_wait, Duration::from_secs(2)..=Duration::from_secs(300))?;
        within("batch_size", self.batch_size, 1..=1_000)?;
        within("max_attempts", self.max_attempts, 1..=100)?;
        let least = i64::try_from(self.batch_size).unwrap_or(i64::MAX).saturating_mul(2);
        within("max_ack_pending", self.max_ack_pending, least..=i64::MAX)?;
        within("retention", self.retention, DAY..=Self::RETENTION)
    }
}

/// Shows neither URLs nor the user: they may hold a password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

fn within<T: PartialOrd + fmt::Debug>(
    name: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), OptionsError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let bounds = format!("from {:?} to {:?}", bounds.start(), bounds.end());
    Err(OptionsError::OutOfBounds { name, value: format!("{value:?}"), bounds })
}

/// Parses the URLs of one server, or of several separated by commas.
///
/// # Errors
/// [`OptionsError::NoServers`] or [`OptionsError::Server`].
pub fn servers(text: &str) -> Result<Vec<ServerAddr>, OptionsError> {
    let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    let servers: Vec<ServerAddr> = urls
        .enumerate()
        .map(|(at, url)| {
            let refused = |reason: String| OptionsError::Server { number: at + 1, reason };
            let server: ServerAddr =
                url.parse().map_err(|error: std::io::Error| refused(error.to_string()))?;
            if server.host().is_empty() {
                return Err(refused("it has no host".to_owned()));
            }
            Ok(server)
        })
        .collect::<Result<_, _>>()?;
    if servers.is_empty() { Err(OptionsError::NoServers) } else { Ok(servers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_bounds_and_an_option_out_of_bounds_is_named() {
        let options = || Options::new(ClientId::of_this_process());
        options().check().unwrap();
        for (bad, name) in [
            (Options { ack_wait: Duration::from_secs(1), ..options() }, "ack_wait"),
            (Options { stream_replicas: 2, ..options() }, "stream_replicas"),
            (Options { batch_size: 0, ..options() }, "batch_size"),
            (Options { max_attempts: 101, ..options() }, "max_attempts"),
            (Options { max_ack_pending: 511, ..options() }, "max_ack_pending"),
            (Options { retention: 15 * DAY, ..options() }, "retention"),
            (Options { servers: " , ".to_owned(), ..options() }, "no NATS server URL"),
            (Options { servers: "nats://a,nats://b:x".to_owned(), ..options() }, "number 2"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
