//! Making hostile text fit to be stored and shown.

/// Whether a character shows nothing by itself, or turns or breaks the line of
/// others: Unicode's `Default_Ignorable_Code_Point` (bidirectional controls,
/// zero-width characters, variation selectors, tags, fillers), interlinear
/// annotations, and separators of lines and paragraphs. By such characters a
/// text can tell a model what nobody sees.
pub fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// `text` without control characters (newline and tab excepted) and without
/// hidden ones ([`is_hidden`]), cut to at most `bytes` bytes at a character
/// boundary.
pub fn clean(text: &str, bytes: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes));
    for c in text.chars() {
        let c = if is_hidden(c) || (c.is_control() && c != '\n' && c != '\t') { '\u{fffd}' } else { c };
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

    #[test]
    fn what_shows_nothing_is_shown() {
        for hidden in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{2028}',
            '\u{2029}',
            '\u{2064}',
            '\u{2069}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{e01ef}',
        ] {
            assert_eq!(clean(&format!("a{hidden}b"), 100), "a\u{fffd}b", "{:x}", u32::from(hidden));
        }
        let plain = "año — 日本語 🦀 naïve ﬁ ∑ \t";
        assert_eq!(clean(plain, 100), plain);
    }
}
