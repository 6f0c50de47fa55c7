//! The mutation operators: a site in, a replacement out.

use super::sites::{Kind, Site};
use crate::proposer::knobs::rounded;
use crate::seeds::SplitMix64;
use std::ops::Range;

/// A mutation operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    ScaleNumber,
    ChangeConstant,
    SwapBinaryOp,
    ChangeComparison,
    SwapMethod,
    DeleteStatement,
    DuplicateStatement,
    SwapStatements,
    NegateCondition,
    ReplaceExpression,
    ToggleBool,
}

/// All operators, with how often each is tried and its name in the archive.
pub(super) const OPERATORS: [(Operator, f64, &str); 11] = [
    (Operator::ScaleNumber, 4.0, "scale-number"),
    (Operator::ChangeConstant, 2.0, "change-constant"),
    (Operator::SwapBinaryOp, 2.0, "swap-binary-op"),
    (Operator::ChangeComparison, 1.0, "change-comparison"),
    (Operator::SwapMethod, 2.0, "swap-method"),
    (Operator::DeleteStatement, 1.0, "delete-statement"),
    (Operator::DuplicateStatement, 0.7, "duplicate-statement"),
    (Operator::SwapStatements, 1.0, "swap-statements"),
    (Operator::NegateCondition, 0.7, "negate-condition"),
    (Operator::ReplaceExpression, 1.5, "replace-expression"),
    (Operator::ToggleBool, 1.0, "toggle-bool"),
];

const BINARY_CLASSES: [&[&str]; 6] = [
    &["+", "-", "*", "/"],
    &["+=", "-=", "*=", "/="],
    &["&&", "||"],
    &["&", "|", "^"],
    &["<<", ">>"],
    &["%", "/"],
];
const COMPARISONS: [&str; 6] = ["<", "<=", ">", ">=", "==", "!="];

/// Text in place of a byte range.
pub(super) struct Edit {
    pub range: Range<usize>,
    pub text: String,
}

/// Everything an operator may look at.
pub(super) struct Scene<'a> {
    pub source: &'a str,
    pub sites: &'a [Site],
    pub methods: &'a [Vec<String>],
}

impl Scene<'_> {
    fn text(&self, range: &Range<usize>) -> &str {
        self.source.get(range.clone()).unwrap_or_default()
    }
}

/// Whether the operator can do anything at this kind of site.
pub(super) fn applies(operator: Operator, kind: &Kind) -> bool {
    match (operator, kind) {
        (Operator::ScaleNumber, Kind::Number { constant }) => !constant,
        (Operator::ChangeConstant, Kind::Number { constant }) => *constant,
        (Operator::SwapBinaryOp, Kind::Operator)
        | (Operator::ChangeComparison, Kind::Comparison)
        | (Operator::SwapMethod, Kind::Method { .. })
        | (Operator::NegateCondition, Kind::Condition)
        | (Operator::ReplaceExpression, Kind::Expression { .. })
        | (Operator::ToggleBool, Kind::Bool)
        | (Operator::SwapStatements, Kind::Statement { .. }) => true,
        // A binding can go when it shadows, and come twice when it rebinds.
        (
            Operator::DeleteStatement | Operator::DuplicateStatement,
            Kind::Statement { is_let, binds, uses, .. },
        ) => !is_let || !binds.is_disjoint(uses),
        _ => false,
    }
}

/// What the operator makes of the site; none when it finds nothing to do.
pub(super) fn apply(
    operator: Operator,
    site: &Site,
    scene: &Scene<'_>,
    rng: &mut SplitMix64,
) -> Option<Edit> {
    let old = scene.text(&site.range);
    let replace = |text: String| Some(Edit { range: site.range.clone(), text });
    match operator {
        Operator::ScaleNumber => replace(number(old, 1.0, rng)?),
        Operator::ChangeConstant => replace(number(old, 2.0, rng)?),
        Operator::ToggleBool => replace(if old == "true" { "false" } else { "true" }.into()),
        Operator::ChangeComparison => replace(other(&COMPARISONS, old, rng)?.into()),
        Operator::SwapBinaryOp => {
            let class = BINARY_CLASSES.iter().find(|class| class.contains(&old))?;
            replace(other(class, old, rng)?.into())
        }
        Operator::SwapMethod => replace(method(site, old, scene, rng)?),
        Operator::NegateCondition => {
            replace(match old.strip_prefix("!(").and_then(|t| t.strip_suffix(')')) {
                Some(inner) if balanced(inner) => inner.into(),
                _ => format!("!({old})"),
            })
        }
        Operator::ReplaceExpression => replace(expression(site, scene, rng)?),
        Operator::DeleteStatement => {
            Some(Edit { range: whole_lines(scene.source, &site.range), text: String::new() })
        }
        Operator::DuplicateStatement => {
            let start = scene.source[..site.range.start].rfind('\n').map_or(0, |n| n + 1);
            let indent = &scene.source[start..site.range.start];
            let between = if indent.trim().is_empty() { format!("\n{indent}") } else { " ".into() };
            replace(format!("{old}{between}{old}"))
        }
        Operator::SwapStatements => swap(site, scene),
    }
}

fn other<'t>(class: &[&'t str], old: &str, rng: &mut SplitMix64) -> Option<&'t str> {
    let rest: Vec<_> = class.iter().copied().filter(|t| *t != old).collect();
    rest.get(rng.below(rest.len())).copied()
}

/// Scales a decimal literal by a log-normal factor, or steps an integer;
/// `boldness` widens the steps. The type suffix is kept.
fn number(old: &str, boldness: f64, rng: &mut SplitMix64) -> Option<String> {
    if ["0x", "0o", "0b"].iter().any(|radix| old.starts_with(radix)) {
        return None;
    }
    let digits = old.find(|c: char| !(c.is_ascii_digit() || "._eE+-".contains(c))).unwrap_or(old.len());
    let (value, suffix) = old.split_at(digits);
    let value = value.replace('_', "");
    let factor = match rng.below(4) {
        0 => 2.0,
        1 => 0.5,
        _ => (boldness * 0.5 * (rng.unit() + rng.unit() + rng.unit() - 1.5)).exp(),
    };
    if value.contains(['.', 'e', 'E']) || suffix.starts_with('f') {
        let x: f64 = value.parse().ok()?;
        let new = if x == 0.0 { 10f64.powi(-1 - rng.below(3) as i32) } else { rounded(x * factor) };
        if !new.is_finite() || new == x {
            return None;
        }
        let text =
            if new != 0.0 && !(1e-4..1e7).contains(&new) { format!("{new:e}") } else { format!("{new}") };
        let whole = !text.contains(['.', 'e']) && suffix.is_empty();
        return Some(format!("{text}{}{suffix}", if whole { ".0" } else { "" }));
    }
    let n: u64 = value.parse().ok()?;
    let new = match rng.below(3) {
        0 => n.checked_add(1)?,
        1 => n.saturating_sub(1),
        _ => (n as f64 * factor).round() as u64,
    };
    (new != n).then(|| format!("{new}{suffix}"))
}

fn method(site: &Site, old: &str, scene: &Scene<'_>, rng: &mut SplitMix64) -> Option<String> {
    let Kind::Method { arguments } = site.kind else {
        return None;
    };
    let mut choices: Vec<&str> = Vec::new();
    for class in scene.methods.iter().filter(|class| class.iter().any(|m| m == old)) {
        choices.extend(class.iter().map(String::as_str).filter(|m| *m != old));
    }
    // Another method of the file is the bolder guess: its type may differ.
    if choices.is_empty() || rng.unit() < 0.15 {
        choices = scene
            .sites
            .iter()
            .filter(|s| matches!(s.kind, Kind::Method { arguments: n } if n == arguments))
            .map(|s| scene.text(&s.range))
            .filter(|m| *m != old)
            .collect();
        choices.sort_unstable();
        choices.dedup();
    }
    choices.get(rng.below(choices.len())).map(|m| (*m).to_owned())
}

fn expression(site: &Site, scene: &Scene<'_>, rng: &mut SplitMix64) -> Option<String> {
    let old = scene.text(&site.range);
    let mut donors: Vec<&str> = scene
        .sites
        .iter()
        .filter(|s| s.kind == site.kind && s.function == site.function)
        .map(|s| scene.text(&s.range))
        .filter(|t| *t != old && t.len() < 4 * old.len() + 40)
        .collect();
    donors.sort_unstable();
    donors.dedup();
    let donor = *donors.get(rng.below(donors.len()))?;
    let before = scene.source[..site.range.start].trim_end().chars().next_back();
    let after = scene.source[site.range.end..].trim_start().chars().next();
    let alone = matches!(before, Some('(' | ',' | '=' | '[')) && matches!(after, Some(')' | ',' | ';' | ']'));
    let binary = matches!(&site.kind, Kind::Expression { family } if family == "binary" || family == "unary");
    Some(if binary && !alone { format!("({donor})") } else { donor.to_owned() })
}

fn swap(site: &Site, scene: &Scene<'_>) -> Option<Edit> {
    let Kind::Statement { block, number, binds, uses, .. } = &site.kind else {
        return None;
    };
    let next = scene.sites.iter().find(
        |s| matches!(&s.kind, Kind::Statement { block: b, number: n, .. } if b == block && *n == number + 1),
    )?;
    let Kind::Statement { binds: later_binds, uses: later_uses, .. } = &next.kind else {
        return None;
    };
    // What needs the other's name cannot come before it.
    if !binds.is_disjoint(later_uses) || !later_binds.is_disjoint(uses) || !binds.is_disjoint(later_binds) {
        return None;
    }
    let between = scene.source.get(site.range.end..next.range.start)?;
    let text = [scene.text(&next.range), between, scene.text(&site.range)].concat();
    Some(Edit { range: site.range.start..next.range.end, text })
}

fn balanced(text: &str) -> bool {
    let mut depth = 0;
    text.bytes().all(|b| {
        depth += match b {
            b'(' => 1,
            b')' => -1,
            _ => 0,
        };
        depth >= 0
    })
}

/// The range, and the lines that it leaves empty.
fn whole_lines(source: &str, range: &Range<usize>) -> Range<usize> {
    let start = source[..range.start].rfind('\n').map_or(0, |n| n + 1);
    let end = source[range.end..].find('\n').map_or(source.len(), |n| range.end + n + 1);
    let blank = source[start..range.start].trim().is_empty() && source[range.end..end].trim().is_empty();
    if blank { start..end } else { range.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_suffix_and_kind() {
        let mut rng = SplitMix64::new(1);
        for _ in 0..500 {
            for (old, suffix) in [
                ("0.5", ""),
                ("1e-6", ""),
                ("3f32", "f32"),
                ("0.0", ""),
                ("2.0_f64", "f64"),
                ("7u8", "u8"),
                ("1_000", ""),
            ] {
                let Some(new) = number(old, 2.0, &mut rng) else {
                    continue;
                };
                assert!(new.ends_with(suffix), "{old} → {new}");
                let literal: syn::Lit = syn::parse_str(&new).unwrap();
                // `3f32` is an integer literal to the parser, a float to the compiler.
                let float = |l: &syn::Lit, text: &str| matches!(l, syn::Lit::Float(_)) || text.contains('f');
                assert_eq!(float(&literal, &new), float(&syn::parse_str(old).unwrap(), old), "{old} → {new}");
                assert_ne!(new, old);
            }
        }
        assert_eq!(number("0xff", 1.0, &mut rng), None);
        assert_eq!(number("99999999999999999999999999", 1.0, &mut rng), None);
    }

    #[test]
    fn a_negation_is_taken_back_only_when_it_covers_the_whole_condition() {
        assert!(balanced("a(b)"));
        assert!(!balanced("a) && (b"));
    }
}
