//! attack: attention over shapes, heads and windows that do not fit
//! expect: finished
//! world: trainer
//! score: 8
//! never: (
//! never: accepted

#[allow(unused_imports)]
use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Dtype, Error as HostError, ErrorCode, Fill, Heads, Op, alloc, free, submit};
use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

#[allow(dead_code)]
fn fill(dst: u64) -> Op {
    Op::Fill(Fill { dst, value: 1.0 })
}

fn must<T>(what: &str, code: ErrorCode, got: std::result::Result<T, HostError>) {
    match got {
        Err(e) if e.code == code => {}
        Err(e) => report::log(&format!("{what}: {:?} ({})", e.code, e.detail)),
        Ok(_) => report::log(&format!("{what}: accepted")),
    }
}

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        let q = alloc(Dtype::Float32, &[1, 8, 3, 4])?;
        let k = alloc(Dtype::Float32, &[1, 8, 2, 4])?;
        let v = alloc(Dtype::Float32, &[1, 8, 2, 4])?;
        let out = alloc(Dtype::Float32, &[1, 8, 3, 4])?;
        let lse = alloc(Dtype::Float32, &[1, 3, 8])?;
        let attend_at = |[q, k, v]: [u64; 3], cols: [u32; 3], kv_heads, out, window| {
            let at = |tensor, col| Heads { tensor, col };
            let [q, k, v] = [at(q, cols[0]), at(k, cols[1]), at(v, cols[2])];
            Op::Attention(compute::Attention { q, k, v, kv_heads, out, lse, window, scale: 1.0 })
        };
        let attend = |of, kv_heads, out, window| attend_at(of, [0; 3], kv_heads, out, window);
        must("heads", ErrorCode::ShapeMismatch, submit(&[attend([q, k, v], 2, out, 0)]));
        must("no heads", ErrorCode::ShapeMismatch, submit(&[attend([q, k, v], 0, out, 0)]));
        must("window", ErrorCode::InvalidArgument, submit(&[attend([q, q, q], 3, out, 9)]));
        must("window", ErrorCode::InvalidArgument, submit(&[attend([q, q, q], 3, out, u32::MAX)]));
        must("alias", ErrorCode::Alias, submit(&[attend([q, q, q], 3, q, 0)]));
        let fused = alloc(Dtype::Float32, &[8, 20])?;
        let all = [fused, fused, fused];
        must("column", ErrorCode::InvalidArgument, submit(&[attend_at([q, fused, fused], [1, 0, 0], 1, out, 0)]));
        for col in [17, 20, u32::MAX - 3, u32::MAX] {
            must("columns", ErrorCode::ShapeMismatch, submit(&[attend_at(all, [0, 12, col], 1, out, 0)]));
        }
        let (gradient, dout) = (alloc(Dtype::Float32, &[8, 20])?, alloc(Dtype::Float32, &[1, 8, 3, 4])?);
        for (cols, to) in [([0, 11, 16], gradient), ([0, 12, 15], gradient), ([0, 12, 16], fused)] {
            let [q, k, v] = cols.map(|col| Heads { tensor: fused, col });
            let (dq, dk, dv, window, scale) = (to, to, to, 0, 1.0);
            let back = compute::AttentionBackward {
                q, k, v, kv_heads: 1, out, lse, dout, dq, dk, dv, window, scale,
            };
            must("gradients", ErrorCode::Alias, submit(&[Op::AttentionBackward(back)]));
        }
        let odd = alloc(Dtype::Float32, &[1, 8, 3, 5])?;
        let turned = alloc(Dtype::Float32, &[1, 8, 3, 5])?;
        let rope = compute::Rope { x: odd, out: turned, base: 0.0, inverse: false };
        must("base", ErrorCode::InvalidArgument, submit(&[Op::Rope(rope)]));
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
