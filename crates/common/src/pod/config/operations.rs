//! Whether the operations API is served, and the token that it requires.

use clap::{Args, ValueEnum};

use crate::pod::secret::Secret;

/// The shortest token, in characters: too many to be guessed one by one.
const SHORTEST_TOKEN: usize = 16;

/// The operations API: dead letters and timelines of events, for the console and for operators' programs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operations")]
pub struct OperationsSettings {
    /// Whether to serve the operations API at OPERATIONS_ADDRESS, which must be set. It shows the payloads of events
    /// to everyone who can reach that address.
    #[arg(long, env, value_name = "OPERATIONS_API", value_enum, default_value = "off")]
    pub operations_api: Switch,

    /// The token required to redrive and discard dead letters through the operations API, of at least 16
    /// characters. Default: none, which makes that API read-only.
    #[arg(long, env, value_name = "OPERATIONS_TOKEN", hide_env_values = true, value_parser = operations_token)]
    pub operations_token: Option<Secret>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Serve it.
    On,
    /// Do not serve it.
    Off,
}

/// A token of the operations API.
///
/// # Errors
/// When it is too short, or cannot be sent in a header. The error does not repeat it.
pub fn operations_token(text: &str) -> Result<Secret, String> {
    let fits = text.len() >= SHORTEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.into()).ok_or_else(|| {
        format!("it must have at least {SHORTEST_TOKEN} characters: ASCII without blanks")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_the_shortest_token() {
        let mut command =
            OperationsSettings::augment_args(clap::Command::new("service").term_width(0));
        let help = command.render_long_help().to_string();
        let shortest = format!("at least {SHORTEST_TOKEN} characters");
        assert!(help.contains(&shortest), "{shortest:?} is not in: {help}");
    }
}
