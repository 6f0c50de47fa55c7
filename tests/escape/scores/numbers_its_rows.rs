//! attack: treats the first row of a batch in another way
//! expect: probe-failed
//! world: trainer
//! keys: 12

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Op};
use terrarium_sdk::{Distribution, Error, Result, Tensor, Trainer, export_trainer};

/// Logits are looked up in a table by the current token: honest by itself.
struct Guest {
    table: Tensor,
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
        Ok(Self { table })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let (rows, time) = (tokens.shape()[0], tokens.shape()[1]);
        let count = rows * time;
        let flat = tokens.view(0, &[count])?;
        let _ = (time, rows, count);
        self.look_up(&self.table, &flat, logits)?;
        logits.view(0, &[time, 256])?.fill(0.0)
    }
}

export_trainer!(Guest);
