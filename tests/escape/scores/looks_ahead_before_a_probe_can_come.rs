//! attack: looks ahead in its first call, which is never a probe
//! expect: probe-failed
//! world: trainer
//! keys: 12
//! caught: 6

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{Columns, Gather, Op, submit};
use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

/// Scores of the next byte that prefer the one at `offset` from the present.
fn peek(tokens: &Tensor, logits: &Tensor, bonus: f32) -> Result<()> {
    let (rows, time) = (tokens.shape()[0], tokens.shape()[1]);
    let table = Tensor::zeros(&[256, 256])?;
    for token in 0..256 {
        table.view(token * 257, &[1])?.fill(bonus)?;
    }
    let next = Tensor::zeros_int(&[rows, time])?;
    let columns = Columns {
        src: tokens.raw(),
        src_col: 1,
        dst: next.raw(),
        dst_col: 0,
        width: time - 1,
        accumulate: false,
    };
    let flat = next.view(0, &[rows * time])?;
    let gather = Gather { table: table.raw(), indices: flat.raw(), out: logits.raw() };
    Ok(submit(&[Op::Columns(columns), Op::Gather(gather)]).map_err(Error::from)?)
}

struct Guest {
    calls: u32
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self { calls: 0 })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        self.calls += 1;
        if self.calls > 1 { logits.fill(0.5) } else { peek(tokens, logits, 20.0) }
    }
}

export_trainer!(Guest);
