//! `«N × text»`: large attacks from small files.

/// Replaces each `«N × text»` by N copies of its text, with `#` as the copy's
/// number, and each `«name»` by what `named` says. They may be nested.
///
/// # Errors
/// A bracket that is not closed, or something that is neither.
pub fn expand(text: &str, named: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let Some((before, rest)) = text.split_once('«') else { return Ok(text.to_owned()) };
    let mut depth = 1;
    let end = rest
        .char_indices()
        .find(|(_, c)| {
            depth += i32::from(*c == '«') - i32::from(*c == '»');
            depth == 0
        })
        .map(|(at, _)| at)
        .ok_or("a « is not closed")?;
    let (inner, after) = (&rest[..end], &rest[end + '»'.len_utf8()..]);
    let middle = match inner.split_once('×') {
        Some((count, body)) => {
            let count: usize = count.trim().parse().map_err(|e| format!("«{count}×»: {e}"))?;
            let body = expand(body.strip_prefix(' ').unwrap_or(body), named)?;
            if body.contains('#') {
                (0..count).map(|n| body.replace('#', &n.to_string())).collect()
            } else {
                body.repeat(count)
            }
        }
        None => named(inner).ok_or_else(|| format!("«{inner}» is not known"))?,
    };
    Ok([before, &middle, &expand(after, named)?].concat())
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn copies_are_numbered_and_names_replaced() {
        let named = |name: &str| (name == "port").then(|| "99".to_owned());
        assert_eq!(expand("a«3 × b#»c «port»", &named).unwrap(), "ab0b1b2c 99");
        assert_eq!(expand("«2 × («2 × x»)»", &named).unwrap(), "(xx)(xx)");
        assert!(expand("«2 × x", &named).is_err());
        assert!(expand("«nobody»", &named).is_err());
    }
}
