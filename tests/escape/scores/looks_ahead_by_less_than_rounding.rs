//! attack: shifts each prediction by a thousandth towards the byte that comes
//! expect: probe-failed
//! world: trainer
//! keys: 6

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

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        peek(tokens, logits, 0.003)
    }
}

export_trainer!(Guest);
