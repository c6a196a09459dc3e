//! Money that is never a float: parsed from the decimal text of a JSON number, and written as the
//! same decimal.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A price: not negative, at most two decimals, at most [`Price::MAX`]. In JSON a number with
/// exactly two decimals (`20.50`), read and written digit by digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct Price(Decimal);

impl Price {
    /// The highest price: 1,000,000.00.
    pub const MAX: Self = Self(Decimal::from_parts(100_000_000, 0, 0, false, 2));
}

/// Why a text is not a [`Price`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a decimal number.
    #[error("must be a decimal number")]
    NotANumber,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// More than two decimals.
    #[error("must have at most two decimals")]
    TooFine,
    /// Above [`Price::MAX`].
    #[error("must be at most {}", Price::MAX)]
    TooLarge,
}

impl TryFrom<Decimal> for Price {
    type Error = PriceError;

    fn try_from(value: Decimal) -> Result<Self, PriceError> {
        let mut value = value.normalize();
        if value.is_sign_negative() && !value.is_zero() {
            return Err(PriceError::Negative);
        }
        if value.scale() > 2 {
            return Err(PriceError::TooFine);
        }
        if value > Self::MAX.0 {
            return Err(PriceError::TooLarge);
        }
        value.set_sign_positive(true);
        value.rescale(2);
        Ok(Self(value))
    }
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let exponent = text.split_once(['e', 'E']).map(|(_, exponent)| exponent);
        let decimal = match exponent {
            None => Decimal::from_str_exact(text),
            Some(_) => Decimal::from_scientific(text),
        };
        let decimal = decimal.map_err(|error| match error {
            // More digits than a decimal holds: far too many decimals, or far too large.
            rust_decimal::Error::Underflow => PriceError::TooFine,
            _ if exponent.is_some_and(|exponent| exponent.starts_with('-')) => PriceError::TooFine,
            _ if text.starts_with('-') && is_numeric(text) => PriceError::Negative,
            _ if is_numeric(text) => PriceError::TooLarge,
            _ => PriceError::NotANumber,
        })?;
        Self::try_from(decimal)
    }
}

/// Returns whether a text that is not a valid decimal is still a number.
fn is_numeric(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Price {
    /// Reads a JSON number by its text, so that no digit passes through a float. Works only with
    /// `serde_json`, like every [`RawValue`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        raw.get().parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for Price {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0.0))
            .maximum(Some(1_000_000.0))
            .multiple_of(Some(0.01))
            .description(Some("Exact, with at most two decimals."))
            .into()
    }
}

impl ToSchema for Price {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_survive_a_round_trip_through_json() {
        for (given, kept) in [
            ("0", "0.00"),
            ("-0", "0.00"),
            ("20", "20.00"),
            ("20.5", "20.50"),
            ("0.10", "0.10"),
            ("1.230", "1.23"),
            ("1e2", "100.00"),
            ("1000000", "1000000.00"),
            ("999999.99", "999999.99"),
        ] {
            let price: Price = serde_json::from_str(given).unwrap();
            assert_eq!(serde_json::to_string(&price).unwrap(), kept, "{given}");
        }
    }

    #[test]
    fn an_invalid_price_is_refused_with_its_reason() {
        for (given, reason) in [
            ("-1", "must not be negative"),
            ("-0.001", "must not be negative"),
            ("1.005", "must have at most two decimals"),
            ("1e-40", "must have at most two decimals"),
            ("1000000.01", "must be at most 1000000.00"),
            ("1e40", "must be at most 1000000.00"),
            ("1e400", "must be at most 1000000.00"),
            ("99999999999999999999999999999999999999", "must be at most 1000000.00"),
            ("\"20\"", "must be a decimal number"),
            ("true", "must be a decimal number"),
            ("null", "must be a decimal number"),
        ] {
            let error = serde_json::from_str::<Price>(given).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{given}: {error}");
        }
    }
}
