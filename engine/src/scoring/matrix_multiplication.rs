//! Matrix multiplication with few multiplications: a decomposition of the
//! tensor ⟨n, m, p⟩ of (n×m)·(m×p), exact over Gaussian half-integers. The
//! score is its rank.
//!
//! Each term is a product of three linear forms: of A's entries (n·m numbers,
//! row by row), of B's (m·p) and of the product's (n·p, row by row, not
//! transposed). A number is (re + i·im)/2, given as two signed bytes, re and
//! im. The output is the terms one after the other. The sum of the outer
//! products must be 1 where A's entry (i, j), B's entry (j, k) and the
//! product's entry (i, k) meet, and 0 elsewhere: all entries are compared, as
//! integers, times 8.

use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixMultiplication {
    /// Rows of the first matrix: 1 to 8.
    pub n: u32,
    /// Columns of the first, rows of the second: 1 to 8.
    pub m: u32,
    /// Columns of the second: 1 to 8.
    pub p: u32,
}

/// A Gaussian integer.
type Gaussian = (i64, i64);

fn times(a: Gaussian, b: Gaussian) -> Gaussian {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

impl Construction for MatrixMultiplication {
    fn fault(&self) -> Option<Fault> {
        [("n", self.n), ("m", self.m), ("p", self.p)].into_iter().find(|(_, v)| !(1..=8).contains(v)).map(
            |(name, v)| (name, format!("{name} = {v} is out of range: 1..=8"), "4, 5, 6 has rank at most 90"),
        )
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.n, self.m, self.p]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let [n, m, p] = [self.n, self.m, self.p].map(|v| v as usize);
        let sizes = [n * m, m * p, n * p];
        let term = 2 * sizes.iter().sum::<usize>();
        let most = n * m * p;
        let rank = output.len() / term;
        if output.is_empty() || !output.len().is_multiple_of(term) || rank > most {
            let size = output.len();
            return Err(format!("{size} bytes are not 1 to {most} terms of {term} bytes"));
        }
        // At most 512 products of three numbers of at most 182 in size: below
        // 2³², so nothing overflows.
        let mut tensor = vec![(0, 0); sizes.iter().product()];
        for bytes in output.chunks(term) {
            let numbers: Vec<Gaussian> = bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| (i64::from(b[0] as i8), i64::from(b[1] as i8)))
                .collect();
            let (u, rest) = numbers.split_at(sizes[0]);
            let (v, w) = rest.split_at(sizes[1]);
            let mut at = tensor.iter_mut();
            for a in u {
                for b in v {
                    let ab = times(*a, *b);
                    for (c, sum) in w.iter().zip(at.by_ref()) {
                        let product = times(ab, *c);
                        *sum = (sum.0 + product.0, sum.1 + product.1);
                    }
                }
            }
        }
        for (at, sum) in tensor.iter().enumerate() {
            let (a, b, c) = (at / (sizes[1] * sizes[2]), at / sizes[2] % sizes[1], at % sizes[2]);
            let one = a % m == b / p && a / m == c / p && b % p == c % p;
            let wanted = if one { (8, 0) } else { (0, 0) };
            if *sum != wanted {
                let (re, im) = (sum.0 as f64 / 8.0, sum.1 as f64 / 8.0);
                return Err(format!(
                    "the tensor's entry ({a}, {b}, {c}) is {re} + {im}i, not {}",
                    wanted.0 / 8
                ));
            }
        }
        Ok(rank as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: MatrixMultiplication = MatrixMultiplication { n: 2, m: 2, p: 2 };

    /// V. Strassen, "Gaussian elimination is not optimal", 1969.
    fn strassen() -> Vec<[i8; 12]> {
        vec![
            [1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1],
            [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, -1],
            [1, 0, 0, 0, 0, 1, 0, -1, 0, 1, 0, 1],
            [0, 0, 0, 1, -1, 0, 1, 0, 1, 0, 1, 0],
            [1, 1, 0, 0, 0, 0, 0, 1, -1, 1, 0, 0],
            [-1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1],
            [0, 1, 0, -1, 0, 0, 1, 1, 1, 0, 0, 0],
        ]
    }

    /// Whole numbers, as halves.
    fn bytes(terms: &[[i8; 12]]) -> Vec<u8> {
        terms.iter().flatten().flat_map(|v| [(2 * v) as u8, 0]).collect()
    }

    /// One term for each of the n·m·p products.
    fn plain(n: usize, m: usize, p: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, j, k) in (0..n * m * p).map(|t| (t / (m * p), t / p % m, t % p)) {
            for (size, one) in [(n * m, i * m + j), (m * p, j * p + k), (n * p, i * p + k)] {
                out.extend((0..size).flat_map(|at| [if at == one { 2 } else { 0 }, 0]));
            }
        }
        out
    }

    #[test]
    fn strassen_has_rank_seven_and_the_plain_way_as_many_as_products() {
        assert_eq!(TWO.value(&bytes(&strassen())), Ok(7.0));
        assert_eq!(TWO.value(&plain(2, 2, 2)), Ok(8.0));
        let large = MatrixMultiplication { n: 4, m: 5, p: 6 };
        assert_eq!(large.value(&plain(4, 5, 6)), Ok(120.0));
        // Of other proportions, the same bytes are wrong.
        assert!(MatrixMultiplication { n: 5, m: 4, p: 6 }.value(&plain(4, 5, 6)).is_err());
    }

    #[test]
    fn complex_factors_count_exactly() {
        // i · (−i) = 1: one factor of a term turned, another turned back.
        let mut turned = bytes(&strassen());
        let term = &mut turned[..24];
        for number in term[..8].chunks_mut(2) {
            (number[0], number[1]) = ((number[1] as i8).wrapping_neg() as u8, number[0]);
        }
        assert!(TWO.value(&turned).is_err());
        let term = &mut turned[..24];
        for number in term[8..16].chunks_mut(2) {
            (number[0], number[1]) = (number[1], (number[0] as i8).wrapping_neg() as u8);
        }
        assert_eq!(TWO.value(&turned), Ok(7.0));
    }

    #[test]
    fn one_wrong_entry_is_enough() {
        let good = bytes(&strassen());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = bad[at].wrapping_add(1);
            assert!(TWO.value(&bad).is_err(), "byte {at}");
        }
        assert!(TWO.value(&good[24..]).unwrap_err().contains("entry"));
        assert!(TWO.value(&good[1..]).unwrap_err().contains("terms"));
        assert!(TWO.value(&[]).is_err());
        assert!(TWO.value(&[0; 24]).unwrap_err().contains("entry"));
        let many = plain(2, 2, 2).repeat(2);
        assert!(TWO.value(&many).unwrap_err().contains("1 to 8 terms"));
        assert!(TWO.value(&[0x80; 24]).is_err());
    }
}
