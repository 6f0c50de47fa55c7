//! How text is cut before its bytes are paired: into words, numbers, runs of
//! signs and runs of white space, each with at most one space before it, as
//! GPT-2 does (Radford et al., 2019), but with numbers of at most three digits
//! and pieces of at most [`MAX_BYTES`].

/// Longest piece, in bytes.
pub(super) const MAX_BYTES: usize = 64;

/// Most digits in one piece.
const MAX_DIGITS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Letters,
    Digits,
    Space,
    Signs,
}

fn kind(c: char) -> Kind {
    if c.is_alphabetic() || c == '_' {
        Kind::Letters
    } else if c.is_numeric() {
        Kind::Digits
    } else if c.is_whitespace() {
        Kind::Space
    } else {
        Kind::Signs
    }
}

/// The pieces of a text, in order; together they are the text.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(first(rest));
        rest = after;
        Some(piece)
    })
}

/// Length of the first piece of a text that is not empty, in bytes.
fn first(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    let Some((_, start)) = chars.next() else { return 0 };
    let mut of = kind(start);
    let mut digits = usize::from(of == Kind::Digits);
    // One space belongs to what follows it, if that is not space itself.
    if start == ' '
        && let Some(&(_, next)) = chars.peek()
        && kind(next) != Kind::Space
    {
        of = kind(next);
    }
    let mut last_space = None;
    for (at, c) in chars {
        let more = kind(c) == of && at + c.len_utf8() <= MAX_BYTES;
        digits += usize::from(kind(c) == Kind::Digits);
        if !more || (of == Kind::Digits && digits > MAX_DIGITS) {
            // A run of spaces leaves its last one to the word after it.
            let word_follows = of == Kind::Space && kind(c) != Kind::Space;
            return if word_follows { last_space.unwrap_or(at) } else { at };
        }
        if of == Kind::Space {
            last_space = (c == ' ').then_some(at);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_cut_into_words_numbers_signs_and_space() {
        let of = |text| pieces(text).collect::<Vec<_>>();
        assert_eq!(of("let x_1 = 12345;"), ["let", " x_", "1", " =", " 123", "45", ";"]);
        assert_eq!(of("if a {\n        b();\n}"), ["if", " a", " {", "\n       ", " b", "();", "\n", "}"]);
        assert_eq!(of("a\t\tb  \n"), ["a", "\t\t", "b", "  \n"]);
        assert_eq!(of("größer als 北京"), ["größer", " als", " 北京"]);
        assert_eq!(of(""), [""; 0]);
        let long = "x".repeat(200);
        assert_eq!(of(&long).iter().map(|p| p.len()).collect::<Vec<_>>(), [64, 64, 64, 8]);
    }

    proptest! {
        #[test]
        fn pieces_are_short_and_together_the_text(text in "(\\PC|[ \t\r\n]|[0-9]|[a-z]){0,300}") {
            let cut: Vec<&str> = pieces(&text).collect();
            prop_assert!(cut.iter().all(|piece| !piece.is_empty() && piece.len() <= MAX_BYTES));
            prop_assert_eq!(cut.concat(), text);
        }
    }
}
