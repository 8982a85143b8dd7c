//! Text from audited files, made harmless for a Markdown page.

/// Text in a code span that nothing in it can end; fit for a table.
pub(super) fn code(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let text = text.replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    if longest == 0 {
        return format!("`{text}`");
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence} {text} {fence}")
}

/// Text in which only code spans keep their meaning.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (index, part) in text.split('`').enumerate() {
        let in_code = index % 2 == 1;
        if 0 < index {
            shown.push('`');
        }
        for c in part.chars().filter(|c| !c.is_control()) {
            if c == '|' || (!in_code && "\\*_[]<>#&!~".contains(c)) {
                shown.push('\\');
            }
            shown.push(c);
        }
    }
    if text.matches('`').count() % 2 == 1 {
        shown.push('`');
    }
    shown
}

/// Thousands apart: `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_spans_keep_their_meaning() {
        assert_eq!(escaped("a*b <c> `d*` | `e"), "a\\*b \\<c\\> `d*` \\| `e`");
        assert_eq!(code("a`b|c"), "`` a`b\\|c ``");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([grouped(7), grouped(1234567)], ["7", "1,234,567"]);
    }
}
