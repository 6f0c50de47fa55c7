//! Reading candidate source as Rust, safely: it may come from anybody.
//!
//! The parser is recursive, so a source of a hundred thousand brackets would
//! overflow the stack of the thread that parses it, which ends the process.
//! Work on syntax trees is therefore done by [`with_syntax_tree`] on a thread
//! whose stack is large enough for the largest source that it accepts.

mod names;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use std::collections::{BTreeSet, HashMap};
use syn::visit::Visit as _;

/// Larger sources are not mutated. In bytes.
pub const MAX_BYTES: usize = 128 << 10;
/// Deeper nesting of brackets is not parsed.
const MAX_NESTING: usize = 100;
/// Address space, not memory: pages are committed when touched. Two kilobytes
/// of stack for each byte of the largest source.
const STACK_BYTES: usize = 256 << 20;

/// Parses `source` and runs `work` on its syntax tree, with byte positions in
/// its spans. None when it is not Rust, too large or too deeply nested, or
/// when no thread can be had.
pub fn with_syntax_tree<T: Send>(source: &str, work: impl FnOnce(&syn::File) -> T + Send) -> Option<T> {
    if source.len() > MAX_BYTES {
        return None;
    }
    on_large_stack(|| parse(source).map(|file| work(&file))).flatten()
}

/// Whether `source` is a Rust file that can be parsed.
pub fn is_rust(source: &str) -> bool {
    with_syntax_tree(source, |_| ()).is_some()
}

pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("syntax".into()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).ok()?.join().ok()
    })
}

/// Only to be called on the large stack.
pub(super) fn parse(source: &str) -> Option<syn::File> {
    if source.len() > MAX_BYTES {
        return None;
    }
    let tokens: TokenStream = source.parse().ok()?;
    let mut levels = vec![tokens.clone().into_iter()];
    while let Some(level) = levels.last_mut() {
        match level.next() {
            Some(TokenTree::Group(group)) => levels.push(group.stream().into_iter()),
            Some(_) => {}
            None => drop(levels.pop()),
        }
        if levels.len() > MAX_NESTING {
            return None;
        }
    }
    syn::parse2(tokens).ok()
}

/// A hash of the tokens: equal for sources that differ only in comments,
/// documentation and layout. Of text that is no Rust, a hash of the text.
pub fn fingerprint(source: &str) -> String {
    hashed(source, &BTreeSet::new())
}

/// Like [`fingerprint`], and also equal for sources that differ only in how
/// they name what they declare themselves: functions, constants, parameters
/// and variables. Names that are also used for fields, methods or in paths
/// count as they are, so that different programs do not look alike.
pub fn normal_form(source: &str) -> String {
    let declared = with_syntax_tree(source, |file| {
        let mut names = names::Names::default();
        names.visit_file(file);
        names.visit_tokens(file.to_token_stream());
        names.declared.difference(&names.fixed).cloned().collect()
    });
    hashed(source, &declared.unwrap_or_default())
}

fn hashed(source: &str, renamed: &BTreeSet<String>) -> String {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut hasher = blake3::Hasher::new();
    let Ok(tokens) = source.parse::<TokenStream>() else {
        hasher.update(source.as_bytes());
        return hasher.finalize().to_hex().to_string();
    };
    let mut levels = vec![(tokens.into_iter().peekable(), ' ')];
    while let Some((level, close)) = levels.last_mut() {
        let Some(token) = level.next() else {
            hasher.update(&[*close as u8, 0]);
            levels.pop();
            continue;
        };
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let is_doc = |t: &TokenTree| {
                    matches!(t, TokenTree::Group(g) if g.delimiter() == Delimiter::Bracket
                        && g.stream().into_iter().next().is_some_and(|t| t.to_string() == "doc"))
                };
                let inner = level.next_if(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == '!'));
                if level.next_if(is_doc).is_none() {
                    hasher.update(if inner.is_some() { b"#\0!\0" } else { b"#\0" });
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ('(', ')'),
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::None => (' ', ' '),
                };
                hasher.update(&[open as u8, 0]);
                levels.push((group.stream().into_iter().peekable(), close));
            }
            token => {
                let text = token.to_string();
                if renamed.contains(&text) {
                    let next = numbers.len();
                    let number = *numbers.entry(text).or_insert(next);
                    hasher.update(&[1]);
                    hasher.update(&number.to_le_bytes());
                } else {
                    hasher.update(text.as_bytes());
                    hasher.update(&[0]);
                }
            }
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_comments_and_documentation_do_not_change_the_fingerprint() {
        let a = fingerprint("/// doc\nfn f() -> f32 { 1.0 + x }");
        assert_eq!(a, fingerprint("fn f()->f32{\n  // why\n  1.0+x }"));
        assert_ne!(a, fingerprint("fn f() -> f32 { 1.0 - x }"));
        assert_ne!(a, fingerprint("#[inline] fn f() -> f32 { 1.0 + x }"));
        assert_ne!(fingerprint("\""), fingerprint("'\""));
    }

    #[test]
    fn renamed_copies_have_one_normal_form_and_other_programs_another() {
        let form = |text: &str| normal_form(text);
        let a = form("const W: u32 = 3; fn area(width: f32) -> f32 { let h = width * 2.0; h + W as f32 }");
        let b = form("const N: u32 = 3; fn size(w: f32) -> f32 { let k = w * 2.0; /* ! */ k + N as f32 }");
        assert_eq!(a, b);
        assert_ne!(a, form("const N: u32 = 3; fn size(w: f32) -> f32 { let k = w * 2.0; w + N as f32 }"));
        // A variable named like a method does not make the methods equal.
        let call = |m: &str| form(&format!("fn f(x: f32) -> f32 {{ let {m} = 1.0; x.{m}() + {m} }}"));
        assert_ne!(call("sin"), call("cos"));
        let field = |m: &str| form(&format!("fn f({m}: f32) -> P {{ P {{ {m} }} }}"));
        assert_ne!(field("x"), field("y"));
        assert_eq!(form("no rust (("), form("no rust (("));
    }

    #[test]
    fn hostile_sources_are_refused_and_do_not_overflow_the_stack() {
        let within = |body: String| format!("fn f() {{ {body} }}");
        let size = MAX_BYTES - 100;
        for body in [
            "!",
            "-",
            "&",
            "*",
            "a+",
            "f(",
            "((",
            "[",
            "{",
            "a.b().",
            "if a {} else ",
            "return ",
            "|x|",
            "a=",
            "a?;",
        ] {
            let source = within(body.repeat(size / body.len()) + "a");
            let _ = is_rust(&source);
            let _ = fingerprint(&source);
        }
        let chain = within("x".to_owned() + &".a()".repeat(size / 4));
        assert!(is_rust(&chain));
        let _ = fingerprint(&"(".repeat(1 << 20));
        assert!(!is_rust(&" ".repeat(MAX_BYTES + 1)));
        assert!(!is_rust("fn f( {"));
    }
}
