//! `unclosed-code-fence` and `code-fence-without-language`.
//!
//! A fence is unclosed when no closing fence ends it: the file ends, or the
//! list or quotation around it does (then the text below is not what its
//! author sees in the editor). A fence that is unclosed is not also blamed for
//! its language. Indented code has no fence and is never meant.

use crate::audit::document::{Document, Fence};
use crate::audit::finding::{Remark, Rule};

pub(crate) fn check(document: &Document<'_>, remarks: &mut Vec<Remark>) {
    for fence in &document.fences {
        if !fence.closed {
            let message = "this fence is never closed".to_owned();
            let rule = Rule::UnclosedCodeFence;
            remarks.push(Remark::new(rule, fence.line, &fence.opening, message));
        } else if !fence.has_info {
            let message = "the fence names no language".to_owned();
            let rule = Rule::CodeFenceWithoutLanguage;
            remarks.push(Remark::new(rule, fence.line, evidence(fence), message));
        }
    }
}

/// The first line of code: it tells fences of one file apart.
fn evidence(fence: &Fence) -> &str {
    fence.first_code.as_deref().unwrap_or(&fence.opening)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Rule, u32)> {
        let mut remarks = Vec::new();
        check(&Document::parse(text), &mut remarks);
        remarks
            .iter()
            .map(|remark| (remark.rule, remark.line))
            .collect()
    }

    #[test]
    fn fences_are_judged_by_their_end_and_their_info() {
        use Rule::{CodeFenceWithoutLanguage as Bare, UnclosedCodeFence as Open};
        for (text, expected) in [
            ("```rust\nx\n```\n", vec![]),
            ("```\nx\n```\n", vec![(Bare, 1)]),
            ("a\n\n~~~\nx\n~~~\n", vec![(Bare, 3)]),
            ("```sh\nx\n", vec![(Open, 1)]),
            ("```\nx\n", vec![(Open, 1)]),
            ("    indented\n", vec![]),
            ("````md\n```\nx\n```\n````\n", vec![]),
            ("- a\n\n  ```sh\n  x\n```\ny\n", vec![(Open, 3), (Open, 5)]),
            ("<pre>\n```\n</pre>\n", vec![]),
        ] {
            assert_eq!(found(text), expected, "{text:?}");
        }
    }
}
