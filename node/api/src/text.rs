//! How things are said to people, the same by every program.

use std::path::Path;

use crate::Problem;
use crate::types::ErrorDocument;

/// A problem as it goes to standard error: a JSON document, or what failed and what to try.
pub fn problem(problem: &Problem, as_json: bool) -> String {
    if as_json && let Ok(document) = serde_json::to_string(&ErrorDocument::from(problem)) {
        return document;
    }
    let hint = problem.hint.as_deref().map(|hint| format!("\nhint: {}", plain(hint))).unwrap_or_default();
    format!("error: {}{hint}", plain(&problem.message))
}

/// A path as a word that a shell takes back.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-+:@%,=".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Names come from files and from other nodes: what would steer the terminal is shown as a mark.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn a_problem_says_what_failed_and_what_to_try() {
        let full = Problem::new(Code::Full, "the disk is \u{1b}[31mfull").hint("free some");
        assert_eq!(problem(&full, false), "error: the disk is \u{fffd}[31mfull\nhint: free some");
        let json = problem(&full, true);
        assert!(json.contains(r#""code":"full""#) && json.contains(r#""exit":10"#), "{json}");
    }

    #[test]
    fn a_path_comes_back_from_a_shell_as_it_was() {
        assert_eq!(shell_word(Path::new("/srv/p2p-cli")), "/srv/p2p-cli");
        assert_eq!(shell_word(Path::new("/my files/it's")), r"'/my files/it'\''s'");
    }
}
