//! Numbers from a candidate's bytes, and onto a grid of integers.

/// Exactly `count` finite little-endian doubles; `what` names them.
pub fn doubles(output: &[u8], count: usize, what: &str) -> Result<Vec<f64>, String> {
    let wanted = count * 8;
    if output.len() != wanted {
        return Err(format!(
            "{} bytes, but {count} {what} as little-endian f64 are {wanted} bytes",
            output.len()
        ));
    }
    let values: Vec<f64> = output.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("number {at} of the {what} is not finite")),
        None => Ok(values),
    }
}

/// The nearest multiple of 2^-`bits`, counted in that unit. `value` must be
/// finite and below 2^`(100 - bits)` in size: scaling by a power of two is
/// exact (subnormals scale up), so only the rounding to an integer rounds.
pub fn to_grid(value: f64, bits: i32) -> i128 {
    (value * 2f64.powi(bits)).round() as i128
}

#[cfg(test)]
pub fn bytes(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(f64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_non_finite_numbers_are_refused() {
        assert_eq!(doubles(&bytes([1.0, 2.0]), 2, "heights"), Ok(vec![1.0, 2.0]));
        assert!(doubles(&bytes([1.0]), 2, "heights").unwrap_err().contains("16 bytes"));
        assert!(doubles(&[0; 15], 2, "heights").is_err());
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(doubles(&bytes([0.0, bad]), 2, "heights").unwrap_err().contains("number 1"));
        }
        assert_eq!(to_grid(-0.75, 2), -3);
        assert_eq!(to_grid(f64::MIN_POSITIVE / 2.0, 50), 0);
    }
}
