//! Checks fields when an event is read: as strictly as requests were checked, but never more
//! strictly than in any past release. A ticket that was answered 201 must take effect even if later
//! releases refuse such a title. So never narrow these rules.

use serde::{Deserialize, Deserializer, de::Error};

use super::title::Title;

/// The longest title, and the longest name of a buyer, in characters.
pub(crate) const LONGEST: usize = 200;
// A title that a request may have must be accepted in its event.
const _: () = assert!(Title::MAX_CHARACTERS <= LONGEST);

/// A title: 1–200 characters without surrounding white space, none of them a control character.
pub(super) fn title<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    line(text.trim()).map_err(D::Error::custom)?;
    Ok(text.trim().to_owned())
}

/// A buyer's name: 1–200 characters, none of them a control character.
pub(super) fn buyer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    line(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// A seller's name, if there is one, with the rules for a buyer's.
pub(super) fn seller<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.as_deref().map_or(Ok(()), line).map_err(D::Error::custom)?;
    Ok(text)
}

/// A payment's reference at its provider. Only an event's own limits apply to it.
pub(super) fn reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = !text.is_empty() && !text.contains('\0');
    fits.then_some(text).ok_or_else(|| D::Error::custom("must not be empty, or hold U+0000"))
}

/// A version, counted from 1.
pub(super) fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let version = i32::deserialize(deserializer)?;
    (version >= 1).then_some(version).ok_or_else(|| D::Error::custom("must be at least 1"))
}

/// Checks one line of text.
fn line(text: &str) -> Result<(), String> {
    let characters = text.chars().count();
    if characters == 0 {
        return Err("must not be empty".to_owned());
    }
    if characters > LONGEST {
        return Err(format!("must have at most {LONGEST} characters, has {characters}"));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => {
            Err(format!("must not hold control characters, holds U+{:04X}", u32::from(control)))
        }
        None => Ok(()),
    }
}
