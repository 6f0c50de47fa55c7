//! Making hostile text fit to be stored and shown.

/// `text` without control characters (newline and tab excepted), without
/// bidirectional overrides and zero-width characters, cut to at most `bytes`
/// bytes at a character boundary.
pub fn clean(text: &str, bytes: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes));
    for c in text.chars() {
        let hidden = matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        let c = if hidden || (c.is_control() && c != '\n' && c != '\t') { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > bytes {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn escapes_and_overrides_are_defused_and_length_is_kept() {
        let hostile = "a\x1b[2J\u{202e}b\0c\r\nd";
        let cleaned = clean(hostile, 100);
        assert!(!cleaned.contains('\x1b') && !cleaned.contains('\u{202e}') && !cleaned.contains('\r'));
        assert!(cleaned.ends_with("\nd"));
        assert_eq!(clean("ééé", 3), "é");
    }
}
