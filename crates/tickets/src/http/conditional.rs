//! Conditional requests (RFC 9110, section 13): a ticket's entity tag is its version in quotes.

use axum::http::{HeaderMap, HeaderName, header};
use common::pod::{page::bad_request, problem::Problem};

/// The condition in If-Match or If-None-Match.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: any version.
    Any,
    /// One of these versions. Tags that are not this service's match none.
    Versions(Vec<i32>),
}

impl Tags {
    /// Returns whether the tags include a version.
    pub(super) fn contain(&self, version: i32) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// Returns the request's If-Match, which compares strongly: a weak tag never matches.
///
/// # Errors
/// 400 if it is malformed.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Tags>, Problem> {
    tags(headers, &header::IF_MATCH, "If-Match", false)
}

/// Returns the request's If-None-Match, which compares weakly.
///
/// # Errors
/// 400 if it is malformed.
pub(super) fn if_none_match(headers: &HeaderMap) -> Result<Option<Tags>, Problem> {
    tags(headers, &header::IF_NONE_MATCH, "If-None-Match", true)
}

fn tags(
    headers: &HeaderMap,
    name: &HeaderName,
    shown: &str,
    weak_counts: bool,
) -> Result<Option<Tags>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    // Several lines of a list header form one list.
    let lines: Option<Vec<&str>> =
        headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
    lines
        .and_then(|lines| parse(&lines.join(","), weak_counts))
        .map(Some)
        .ok_or_else(|| bad_request(shown, "must be * or versions in quotes, such as \"1\""))
}

fn parse(list: &str, weak_counts: bool) -> Option<Tags> {
    if list.trim() == "*" {
        return Some(Tags::Any);
    }
    let mut versions = Vec::new();
    let mut rest = list.trim_matches(BETWEEN);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if !tag.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        // `"01"` and `"1"` are different tags.
        let version = tag.parse().ok().filter(|version: &i32| version.to_string() == tag);
        versions.extend(version.filter(|_| weak_counts || !weak));
        let next = after.trim_start_matches([' ', '\t']);
        if !next.is_empty() && !next.starts_with(',') {
            return None;
        }
        rest = next.trim_start_matches(BETWEEN);
    }
    Some(Tags::Versions(versions))
}

/// The characters allowed between the tags of a list.
const BETWEEN: [char; 3] = [' ', '\t', ','];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read_as_versions() {
        let versions = |list: &[i32]| Some(Tags::Versions(list.to_vec()));
        for (text, strong, weak) in [
            ("\"1\"", versions(&[1]), versions(&[1])),
            (" \"1\" , \"22\",", versions(&[1, 22]), versions(&[1, 22])),
            ("W/\"3\"", versions(&[]), versions(&[3])),
            ("\"01\", \"abc\", \"a,b\", \"\", \"-1\"", versions(&[-1]), versions(&[-1])),
            ("*", Some(Tags::Any), Some(Tags::Any)),
        ] {
            assert_eq!(parse(text, false), strong, "{text}");
            assert_eq!(parse(text, true), weak, "{text}");
        }
    }

    #[test]
    fn a_malformed_list_of_tags_is_refused() {
        for text in
            ["", ",", "1", "\"1", "1\"", "\"1\" \"2\"", "\"1\"2", "w/\"1\"", "*, \"1\"", "\"a b\""]
        {
            assert_eq!(parse(text, true), None, "{text}");
        }
    }
}
