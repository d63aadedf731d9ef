//! What is refused by its text, before the engine sees it.

use super::PolicyError;

/// Refuses what the engine's parser takes too long for:
///
/// * numbers with an exponent: it computes them in full, and `1e1000000000` has a billion digits;
/// * brackets in brackets, deeper than [`MAX_NESTING`]: it tries each `{` as set, object and comprehension, and so doubles
///   its work with each level;
/// * texts with expressions inside, because either could hide there.
pub(super) fn is_modest(text: &str) -> Result<(), PolicyError> {
    let mut rest = text;
    let mut depth = 0_usize;
    // The last character before `rest` that is not in a text or comment.
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '#' => rest = rest.split_once('\n').map_or("", |(_, after)| after),
            '"' | '`' if before == '$' => return Err(PolicyError::Function("a text with expressions inside".to_owned())),
            '(' | '[' | '{' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(PolicyError::Function(format!("brackets nested deeper than {MAX_NESTING}")));
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '`' => rest = rest.split_once('`').map_or("", |(_, after)| after),
            '"' => rest = after_text(rest),
            digit if digit.is_ascii_digit() && !is_name(before) => {
                let end = rest.find(|c: char| !is_name(c) && c != '.').unwrap_or(rest.len());
                if rest[..end].contains(['e', 'E']) {
                    return Err(PolicyError::Function("a number with an exponent".to_owned()));
                }
                rest = &rest[end..];
            }
            _ => {}
        }
        before = next;
    }
    Ok(())
}

fn after_text(mut rest: &str) -> &str {
    while let Some(at) = rest.find(['"', '\\']) {
        let escape = rest.as_bytes()[at] == b'\\';
        rest = &rest[at + 1..];
        if !escape {
            return rest;
        }
        // The escaped character, of whatever length.
        let escaped = rest.chars().next().map_or(0, char::len_utf8);
        rest = &rest[escaped..];
    }
    ""
}

const MAX_NESTING: usize = 10;

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
