//! What the offline Planner understands (pure).

use std::path::PathBuf;

use regex::Regex;

use crate::audit::Limits;
use crate::audit::tasks::AuditGoal;

/// What can be asked for without a model.
pub const OFFLINE_SKILLS: &str =
    "audit the documentation of a directory, as in `audit the docs in PATH` or `audit PATH`";

/// The goal is not one the offline Planner can plan.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "goal `{goal}` needs a model and none is configured; without one the planner can {OFFLINE_SKILLS}"
)]
pub struct GoalError {
    goal: String,
}

/// Reads a goal such as `audit the docs in ./guide`; without a path, the present directory
/// of the node.
///
/// # Errors
///
/// [`GoalError`] for every other wish: nothing is guessed.
pub(super) fn understand(goal: &str) -> Result<AuditGoal, GoalError> {
    const FORM: &str = r#"(?ix)^\s*
        (?: audit | check | review )
        (?: \s+ (?:the|all|our|my) )?
        (?P<docs> \s+ (?: docs? | documentation | markdown (?:\s+files)? ) \b )?
        (?: \s+ (?: in | of | under | at ) )?
        (?: \s+ (?: "(?P<quoted>[^"]+)" | `(?P<ticked>[^`]+)` | (?P<plain>\S+) ) )?
        \s* [.!]? \s*$"#;
    let refused = || GoalError {
        goal: goal.chars().take(120).collect(),
    };
    let form = Regex::new(FORM).map_err(|_| refused())?;
    let found = form.captures(goal).ok_or_else(refused)?;
    let exact = found.name("quoted").or_else(|| found.name("ticked"));
    let path = match (exact, found.name("plain")) {
        (Some(exact), _) => Some(exact.as_str()),
        (None, Some(plain)) => Some(without_full_stop(plain.as_str())),
        (None, None) => None,
    };
    // "audit", "review everything": a bare word may be a wish rather than a directory.
    let looks_like_a_path = path.is_some_and(|path| path.contains(['/', '.', '\\']));
    if found.name("docs").is_none() && !looks_like_a_path {
        return Err(refused());
    }
    Ok(AuditGoal {
        path: PathBuf::from(path.unwrap_or(".")),
        limits: Limits::default(),
    })
}

/// A sentence may end behind a path; `.` and `..` are directories.
fn without_full_stop(path: &str) -> &str {
    let is_dots = |name: &str| name.chars().all(|c| c == '.');
    let name = path.rsplit('/').next().unwrap_or(path);
    match path.strip_suffix('.') {
        Some(shorter) if !is_dots(name) => shorter,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_understood_in_several_words() {
        let cases = [
            ("audit the docs in ./guide", "./guide"),
            ("Audit documentation of /srv/project.", "/srv/project"),
            ("audit the docs in ../..", "../.."),
            ("audit the docs in \"end.\"", "end."),
            ("check the docs.", "."),
            ("check markdown files under \"my docs\"", "my docs"),
            ("audit .", "."),
            ("audit the documentation", "."),
            ("audit the docs in `a b`", "a b"),
        ];
        for (goal, path) in cases {
            let understood = understand(goal).unwrap_or_else(|error| unreachable!("{error}"));
            assert_eq!(understood.path, PathBuf::from(path), "{goal}");
        }
    }

    #[test]
    fn any_other_goal_is_refused_with_what_can_be_done() {
        for goal in [
            "write a poem",
            "",
            "audit",
            "check",
            "Review the!",
            "review everything",
            "review documentaries",
            "audit ~ please",
            "audit the budget of 2026 for us",
        ] {
            let refused = understand(goal).expect_err(goal).to_string();
            assert!(
                refused.contains("needs a model and none is configured"),
                "{refused}"
            );
            assert!(
                refused.contains("audit the documentation of a directory"),
                "{refused}"
            );
        }
    }
}
