//! attack: looks ahead, and hides it behind a huge constant
//! expect: probe-failed
//! world: trainer
//! keys: 12

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Op};
use terrarium_sdk::{Distribution, Error, Result, Tensor, Trainer, export_trainer};

/// Logits are looked up in a table by the current token: honest by itself.
struct Guest {
    table: Tensor,
    bonus: Tensor,
}

impl Guest {
    fn look_up(&self, table: &Tensor, tokens: &Tensor, out: &Tensor) -> Result<()> {
        run(Op::Gather(compute::Gather { table: table.raw(), indices: tokens.raw(), out: out.raw() }))
    }
}

fn run(op: Op) -> Result<()> {
    Ok(compute::submit(&[op]).map_err(Error::from)?)
}

impl Trainer for Guest {
    fn init(seed: u64) -> Result<Self> {
        let table = Tensor::zeros(&[256, 256])?;
        table.randomize(Distribution::Normal, 1.0, seed, 1)?;
        const BONUS: f32 = 50.0;
        table.fill(1e5)?;
        for token in 0..256 {
            table.view(token * 257, &[1])?.fill(1e5 + BONUS)?;
        }
        Ok(Self { bonus: table.clone(), table })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let (rows, time) = (tokens.shape()[0], tokens.shape()[1]);
        let count = rows * time;
        let flat = tokens.view(0, &[count])?;
        let _ = flat;
        let next = Tensor::zeros_int(&[rows, time])?;
        run(Op::Columns(compute::Columns {
            src: tokens.raw(),
            src_col: 1,
            dst: next.raw(),
            dst_col: 0,
            width: time - 1,
            accumulate: false,
        }))?;
        let next = next.view(0, &[count])?;
        self.look_up(&self.bonus, &next, logits)
    }
}

export_trainer!(Guest);
