//! Makes untrusted text safe to print: no character moves the cursor, changes colors, starts a line or reverses the
//! text direction, and no URL shows a password.

use std::borrow::Cow;

/// Whether a character is more than text to a terminal or its reader: controls (C0, DEL, C1), line and paragraph
/// separators, and marks that change the text direction.
pub(crate) fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
}

/// The text with every such character escaped, as in `\u{1b}` or `\n`.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c, out| match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ => out.extend(c.escape_unicode()),
    })
}

/// JSON with every such character escaped as in `\u001b`, which means the same. Line breaks stay.
#[must_use]
pub fn shown_json(json: &str) -> Cow<'_, str> {
    escaped(json, |c, out| match c {
        '\n' => out.push('\n'),
        // All of them are in the basic multilingual plane.
        _ => out.push_str(&format!("\\u{:04x}", u32::from(c))),
    })
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_active(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The text without the credentials in its URLs, and without `password=` parameters. For text of others, such as
/// errors: when in doubt, it removes too much.
#[must_use]
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains('@') && !text.contains("password=") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`".contains(c)) {
        let (url, end) = match part.char_indices().last() {
            Some((at, c)) if c.is_whitespace() || "\"'`".contains(c) => part.split_at(at),
            _ => (part, ""),
        };
        let hidden = match (url.find("://"), url.rfind('@')) {
            // Up to the last `@`: a password may contain a comma or another `@`.
            (Some(scheme), Some(at)) if scheme < at => {
                format!("{}://***{}", &url[..scheme], &url[at..])
            }
            // A URL without its scheme.
            (None, Some(at)) if url[..at].contains(':') => format!("***{}", &url[at..]),
            _ => url.to_owned(),
        };
        match hidden.find("password=") {
            Some(at) => {
                let value = at + "password=".len();
                let rest = hidden[value..].find('&').map_or("", |end| &hidden[value + end..]);
                out.push_str(&format!("{}***{rest}", &hidden[..value]));
            }
            None => out.push_str(&hidden),
        }
        out.push_str(end);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_text_direction_marks_are_escaped() {
        assert_eq!(shown("Konzert für zwei 🎫"), "Konzert für zwei 🎫");
        assert_eq!(shown("a\u{1b}[2J\u{9b}31m"), r"a\u{1b}[2J\u{9b}31m");
        assert_eq!(shown("a\nb\r\tc\u{7f}\0"), r"a\nb\r\tc\u{7f}\u{0}");
        assert_eq!(
            shown("a\u{202e}b\u{2066}c\u{200f}\u{2028}"),
            r"a\u{202e}b\u{2066}c\u{200f}\u{2028}"
        );
        let json = serde_json::to_string_pretty(&["a\u{1b}\u{9b}\u{202e}\u{7f}"]).unwrap();
        let escaped = shown_json(&json);
        assert_eq!(escaped, "[\n  \"a\\u001b\\u009b\\u202e\\u007f\"\n]");
        let read: Vec<String> = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read, ["a\u{1b}\u{9b}\u{202e}\u{7f}"]);
    }

    #[test]
    fn passwords_in_urls_are_masked() {
        for (given, left) in [
            ("no URL at all", "no URL at all"),
            ("at nats://127.0.0.1:4222: gone", "at nats://127.0.0.1:4222: gone"),
            ("bad \"nats://u:mark@h:1\" here", "bad \"nats://***@h:1\" here"),
            ("nats://mark@h,nats://u:ma,rk@i", "nats://***@i"),
            ("postgres://u:mark/@x@h/db?a=b", "postgres://***@h/db?a=b"),
            ("u:mark@h is no URL", "***@h is no URL"),
            ("postgres:///db?password=mark&a=b 'x'", "postgres:///db?password=***&a=b 'x'"),
            ("postgres:///db?user=u&password=mark", "postgres:///db?user=u&password=***"),
        ] {
            assert_eq!(without_passwords(given), left);
        }
    }
}
