//! Where a listener starts.

use async_nats::jetstream::consumer::DeliverPolicy;
use common::pod::config;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A start position in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartAt {
    All,
    New,
    Last,
    Sequence(u64),
    Time(OffsetDateTime),
}

impl StartAt {
    /// Parses the words after `--from`.
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["all"] => Ok(Self::All),
            ["new"] => Ok(Self::New),
            ["last"] => Ok(Self::Last),
            ["seq", number] => match number.parse() {
                Ok(number) if number > 0 => Ok(Self::Sequence(number)),
                _ => Err(format!("{number:?} is not a sequence number, 1 or higher")),
            },
            ["time", time] => Self::time(time),
            _ => Err(format!("{:?} is not one of: all, new, last, seq N, time T", words.join(" "))),
        }
    }

    fn time(text: &str) -> Result<Self, String> {
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::Time(time));
        }
        let ago = config::duration(text).ok().and_then(|ago| ago.try_into().ok());
        ago.and_then(|ago: time::Duration| OffsetDateTime::now_utc().checked_sub(ago))
            .map(Self::Time)
            .ok_or_else(|| {
                format!("{text:?} is neither a time (2026-01-31T12:00:00Z) nor an age (5m)")
            })
    }
}

impl From<StartAt> for DeliverPolicy {
    fn from(from: StartAt) -> Self {
        match from {
            StartAt::All => Self::All,
            StartAt::New => Self::New,
            StartAt::Last => Self::Last,
            StartAt::Sequence(start_sequence) => Self::ByStartSequence { start_sequence },
            StartAt::Time(start_time) => Self::ByStartTime { start_time },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StartAt, String> {
        StartAt::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_start_position_is_parsed_and_an_error_repeats_the_invalid_word() {
        assert_eq!(parse("all"), Ok(StartAt::All));
        assert_eq!(parse("seq 17"), Ok(StartAt::Sequence(17)));
        let at = OffsetDateTime::from_unix_timestamp(1_769_860_800).unwrap();
        assert_eq!(parse("time 2026-01-31T12:00:00Z"), Ok(StartAt::Time(at)));
        assert!(matches!(parse("time 5m"), Ok(StartAt::Time(_))));
        for bad in ["", "seq", "seq 0", "seq x", "time", "time x", "all 3", "yesterday"] {
            let why = parse(bad).unwrap_err();
            assert!(why.contains(bad.split(' ').next_back().unwrap_or_default()), "{bad}: {why}");
        }
    }
}
