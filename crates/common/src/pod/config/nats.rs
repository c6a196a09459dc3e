//! The NATS servers and the login, as settings of services and tools.

use std::path::PathBuf;

use bus::{ClientId, Credentials, Options, Seed, Store, User};
use clap::Args;

use crate::pod::secret::Secret;

/// The NATS that carries the events.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsSettings {
    /// The URL of a NATS server, or of several in one cluster, separated by commas.
    #[arg(long, env, value_name = "NATS_URL", default_value = "nats://127.0.0.1:4222",
          hide_env_values = true, value_parser = nats_url)]
    pub nats_url: Secret,

    /// The login.
    #[command(flatten)]
    pub login: NatsLogin,

    /// How many replicas of a new stream the NATS cluster keeps: 1, 3 or 5.
    #[arg(long, env, value_name = "NATS_REPLICAS", default_value = "1", value_parser = replicas)]
    pub nats_replicas: u8,

    /// Where events are kept: memory (NATS keeps them in memory: every restart of NATS loses all events, and lost
    /// events are not republished), file (NATS keeps them on disk: lost events are republished from Postgres) or
    /// postgres (like file, but NATS keeps them in memory). Must be the same for all services. Default: file for a
    /// new stream; an existing one keeps its storage.
    #[arg(long, env, value_name = "NATS_STORE")]
    pub nats_store: Option<Store>,

    /// Streams in the NATS accounts of other services, separated by commas. This service's account imports
    /// each under `JS.<stream>.API`, and its provisioner creates its queue group there. Default: none; all
    /// services share one account.
    #[arg(long, env, value_name = "NATS_IMPORTED", value_delimiter = ',', value_parser = stream)]
    pub nats_imported: Vec<String>,
}

impl NatsSettings {
    /// Returns the options with which the bus connects for this process.
    #[must_use]
    pub fn options(&self, client_id: &ClientId, node: &str) -> Options {
        Options {
            imported: self.nats_imported.clone(),
            stream_replicas: usize::from(self.nats_replicas),
            store: self.nats_store,
            node: node.to_owned(),
            ..self.login.options(&self.nats_url, client_id)
        }
    }
}

/// The NATS login, and the certificate authority to trust.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsLogin {
    /// The user, if the server requires one. Replies to it arrive under `_INBOX.<user>`.
    #[arg(long, env, value_name = "NATS_USER", requires = "credentials", value_parser = user)]
    pub nats_user: Option<String>,

    /// The user's password.
    #[arg(
        long,
        env,
        value_name = "NATS_PASSWORD",
        requires = "nats_user",
        hide_env_values = true,
        group = "credentials"
    )]
    pub nats_password: Option<Secret>,

    /// A file with the seed of the user's NKey, instead of a password. `ticketing nkey` creates one.
    #[arg(long, env, value_name = "NATS_SEED_FILE", requires = "nats_user", value_parser = seed_in,
          group = "credentials")]
    pub nats_seed_file: Option<Seed>,

    /// A PEM file with the certificate authority of the server; enables TLS.
    #[arg(long, env, value_name = "NATS_CA")]
    pub nats_ca: Option<PathBuf>,
}

impl NatsLogin {
    /// Returns the options to connect to these servers, with one account, one replica of new
    /// streams, and no node.
    #[must_use]
    pub fn options(&self, servers: &str, client_id: &ClientId) -> Options {
        Options {
            servers: servers.to_owned(),
            user: self.user(),
            certificate_authority: self.nats_ca.clone(),
            ..Options::new(client_id.clone())
        }
    }

    fn user(&self) -> Option<User> {
        let seed = self.nats_seed_file.clone().map(Credentials::Seed);
        let password =
            self.nats_password.as_deref().map(|text| Credentials::Password(text.to_owned()));
        Some(User { name: self.nats_user.clone()?, credentials: seed.or(password)? })
    }
}

/// Parses the URL of a NATS server, or several URLs separated by commas.
///
/// # Errors
/// If the text is neither.
pub fn nats_url(text: &str) -> Result<Secret, String> {
    bus::servers(text).map_err(|error| error.to_string())?;
    Ok(text.into())
}

/// A number of replicas whose majority survives the loss of one or two.
fn replicas(text: &str) -> Result<u8, &'static str> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("it must be 1, 3 or 5"),
    }
}

/// A user name, which becomes part of a subject.
fn user(text: &str) -> Result<String, &'static str> {
    let in_a_subject = !text.is_empty() && !text.contains(|c: char| " \t\r\n*>".contains(c));
    in_a_subject.then(|| text.to_owned()).ok_or("it must not be empty or contain blanks, * or >")
}

/// Reads an NKey seed from a file.
fn seed_in(file: &str) -> Result<Seed, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    text.parse().map_err(|error| format!("{file}: {error}"))
}

/// A stream name, which becomes part of a subject.
fn stream(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_name = !text.is_empty() && text.chars().all(fits);
    is_name.then(|| text.to_owned()).ok_or("it is not the name of a stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_1_3_or_5_replicas() {
        for text in ["1", "3", "5"] {
            assert_eq!(replicas(text), Ok(text.parse().unwrap()));
        }
        for text in ["", "0", "2", "4", "6", "7", "257", "one"] {
            assert_eq!(replicas(text), Err("it must be 1, 3 or 5"), "{text}");
        }
    }
}
