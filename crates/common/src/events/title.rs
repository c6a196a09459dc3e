//! A ticket's title: one line of text with something visible, which does not change the direction
//! of surrounding text.

use serde::Serialize;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A ticket's title, as checked by [`Title::check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Title(String);

/// Why a text is not a [`Title`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TitleError {
    /// No visible character.
    #[error("must have at least one visible character")]
    Invisible,
    /// More than [`Title::MAX_CHARACTERS`].
    #[error("must have at most {max} characters, has {0}", max = Title::MAX_CHARACTERS)]
    TooLong(usize),
    /// A title is one line of text, and Postgres cannot store U+0000.
    #[error("must not hold control characters or line breaks, holds U+{0:04X}")]
    Control(u32),
    /// Overrides, embeddings and isolates reorder text, even beyond the title.
    #[error("must not hold characters that change the direction of text, holds U+{0:04X}")]
    Direction(u32),
    /// Only from [`Title::check`]; a request's title is trimmed.
    #[error("must not begin or end with white space")]
    Untrimmed,
}

impl Title {
    /// The longest title, in characters (Unicode scalar values).
    pub const MAX_CHARACTERS: usize = 200;
    /// The rule for machines, as far as a pattern can express it: one line, no control character,
    /// no change of direction, and something besides white space. Spelled out, because `\s` differs
    /// between dialects.
    const PATTERN: &str = concat!(
        r"^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*",
        r"[^\u0000- \u007f-\u00a0\u1680\u2000-\u200a\u2028-\u202f\u205f\u2066-\u2069\u3000]",
        r"([^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*",
        r"[^\u0000- \u007f-\u00a0\u1680\u2000-\u200a\u2028-\u202f\u205f\u2066-\u2069\u3000])?",
        r"[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$",
    );

    /// Checks a title as stored and published: 1–200 characters without surrounding white space; at
    /// least one of them visible; no control character, line break, or character that changes the
    /// direction of text (U+202A–202E, U+2066–2069). The marks U+200E, U+200F and U+061C are
    /// allowed, because Hebrew and Arabic need them, and so are joiners and variation selectors
    /// next to the characters that they join or vary.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn check(text: &str) -> Result<(), TitleError> {
        if text.trim().len() != text.len() {
            return Err(TitleError::Untrimmed);
        }
        for c in text.chars() {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                return Err(TitleError::Control(c.into()));
            }
            if matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') {
                return Err(TitleError::Direction(c.into()));
            }
        }
        if !text.chars().any(is_visible) {
            return Err(TitleError::Invisible);
        }
        match text.chars().count() {
            characters if characters > Self::MAX_CHARACTERS => Err(TitleError::TooLong(characters)),
            _ => Ok(()),
        }
    }

    /// Returns the title as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns whether a character alone is visible. Combining marks, format characters, private
/// characters, and characters unknown to this version of Unicode are not.
fn is_visible(c: char) -> bool {
    use GeneralCategoryGroup::{Letter, Number, Punctuation, Symbol};
    matches!(c.general_category_group(), Letter | Number | Punctuation | Symbol) && !is_blank(c)
}

/// Letters and symbols drawn as nothing: Hangul fillers, blank Braille patterns, blank hieroglyphs
/// and notes, and the object replacement character.
fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{115F}'
            | '\u{1160}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FFA0}'
            | '\u{FFFC}'
            | '\u{13441}'
            | '\u{13442}'
            | '\u{1D159}'
    )
}

/// Trims surrounding white space and checks the rest.
impl TryFrom<String> for Title {
    type Error = TitleError;

    fn try_from(text: String) -> Result<Self, TitleError> {
        let text = text.trim();
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl From<Title> for String {
    fn from(title: Title) -> Self {
        title.0
    }
}

impl PartialSchema for Title {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(Self::MAX_CHARACTERS))
            .pattern(Some(Self::PATTERN))
            .description(Some(
                "The title: one line with at least one visible character, and none that changes the \
                 direction of text. Surrounding white space is removed.",
            ))
            .into()
    }
}

impl ToSchema for Title {}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Result<String, TitleError> {
        Title::try_from(text.to_owned()).map(String::from)
    }

    #[test]
    fn a_title_is_trimmed_and_counted_in_characters() {
        for (given, kept) in [
            ("  Concert\n", "Concert"),
            ("\u{3000}Konzert\u{2009}für zwei\u{a0}", "Konzert\u{2009}für zwei"),
            (&"é".repeat(200), &"é".repeat(200)),
            (&format!("{} ", "🎫".repeat(200)), &"🎫".repeat(200)),
        ] {
            assert_eq!(made(given).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn an_invalid_title_is_refused_with_its_reason() {
        use TitleError::{Control, Direction, Invisible, TooLong};
        for (given, error) in [
            ("", Invisible),
            (" \t\u{85}\u{3000}", Invisible),
            (&"é".repeat(201), TooLong(201)),
            ("a\0b", Control(0)),
            ("a\nb", Control(10)),
            ("a\u{9f}b", Control(0x9f)),
            ("a\u{2028}b", Control(0x2028)),
            ("a\u{202e}b", Direction(0x202e)),
            ("\u{2066}a\u{2069}", Direction(0x2066)),
        ] {
            assert_eq!(made(given), Err(error), "{given:?}");
        }
        assert_eq!(Title::check(" a"), Err(TitleError::Untrimmed));
    }

    #[test]
    fn a_title_of_invisible_characters_of_any_kind_is_refused() {
        for invisible in [
            "\u{ad}",             // soft hyphen
            "\u{34f}",            // grapheme joiner
            "\u{61c}",            // Arabic letter mark
            "\u{115f}\u{1160}",   // Hangul fillers
            "\u{17b4}",           // an invisible Khmer vowel
            "\u{180e}",           // Mongolian vowel separator
            "\u{200b}",           // zero width space
            "\u{200c}\u{200d}",   // joiners
            "\u{200e}\u{200f}",   // direction marks
            "\u{2060}\u{2064}",   // word joiner, invisible plus
            "\u{206f}",           // a deprecated format character
            "\u{2800} \u{2800}",  // blank Braille
            "\u{3164}",           // Hangul filler
            "\u{fe0f}",           // variation selector
            "\u{feff}",           // byte order mark
            "\u{ffa0}",           // half-width Hangul filler
            "\u{fff9}\u{fffb}",   // interlinear annotation
            "\u{fffc}",           // object replacement
            "\u{301}\u{302}",     // combining marks
            "\u{93f}",            // a vowel sign without a letter
            "\u{e000}\u{10fffd}", // private use
            "\u{fdd0}\u{ffff}",   // noncharacters
            "\u{1d159}\u{1d173}", // musical
            "\u{e0041}\u{e007f}", // tags
            "\u{e0100}",          // variation selector
            "\u{13441}",          // blank hieroglyph
            "\u{200b} \u{301}\u{3164}",
        ] {
            assert_eq!(made(invisible), Err(TitleError::Invisible), "{invisible:?}");
        }
    }

    #[test]
    fn titles_in_every_script_are_accepted() {
        for title in [
            "7",
            "!",
            "👩\u{200d}👩\u{200d}👧 Family day", // joined
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}", // a flag with tags
            "❤\u{fe0f}",
            "नमस्\u{200d}ते",
            "می\u{200c}خواهم", // a Persian word with a non-joiner
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd} (C++)\u{200e}",
            "한국어",
            "co\u{ad}op\u{e9}ration",
            "e\u{301}t\u{e9}",
        ] {
            assert_eq!(made(title).as_deref(), Ok(title));
        }
    }
}
