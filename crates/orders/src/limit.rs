//! How many tickets one buyer may have reserved at a time.

use std::{fmt, str::FromStr};

/// The highest limit that can be set.
const MOST: u16 = 1_000;

/// The most open reservations that one buyer may have at a time. A reservation is open until it is
/// paid, cancelled or expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// At most this many, 1–1000. Each new order reads that many index entries.
    AtMost(u16),
    /// No limit.
    Off,
}

/// The text is not a [`Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a whole number from 1 to {most}, or off", most = MOST)]
pub struct LimitError;

impl Limit {
    /// The default: enough to buy for family and friends.
    pub const DEFAULT: Self = Self::AtMost(10);

    /// The number, as the database takes it. `None` means no limit.
    #[must_use]
    pub fn most(self) -> Option<i64> {
        match self {
            Self::AtMost(most) => Some(most.into()),
            Self::Off => None,
        }
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        match text.parse() {
            Ok(most @ 1..=MOST) => Ok(Self::AtMost(most)),
            _ if text.eq_ignore_ascii_case("off") => Ok(Self::Off),
            _ => Err(LimitError),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => most.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::{LONGEST_RESERVATION, Settings};

    #[test]
    fn the_help_names_the_limits_that_hold() {
        let mut command = Settings::command().term_width(0);
        let help = command.render_long_help().to_string();
        let days = LONGEST_RESERVATION.as_secs() / (24 * 3600);
        let limits = [
            format!("1 to {MOST}, or off"),
            format!("Default: {};", Limit::DEFAULT),
            format!("at most {days}days"),
        ];
        for limit in limits {
            assert!(help.contains(&limit), "{limit:?} is not in: {help}");
        }
    }

    #[test]
    fn a_limit_is_a_whole_number_in_range_or_off() {
        assert_eq!("1".parse(), Ok(Limit::AtMost(1)));
        assert_eq!("1000".parse(), Ok(Limit::AtMost(1_000)));
        assert_eq!("off".parse(), Ok(Limit::Off));
        for text in ["", "0", "-1", "1001", "65537", "1.5", "ten", "none"] {
            assert_eq!(text.parse::<Limit>(), Err(LimitError), "{text}");
        }
    }
}
