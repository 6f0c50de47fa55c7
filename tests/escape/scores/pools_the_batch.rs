//! attack: pools over the rows of a batch
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
        self.look_up(&self.table, &flat, logits)?;
        let pool = Tensor::zeros(&[time * 256])?;
        let wide = logits.view(0, &[rows, time * 256])?;
        run(Op::Reduce(compute::Reduce {
            src: wide.raw(),
            dst: pool.raw(),
            axis: compute::ReduceAxis::Rows,
            scale: 1.0,
            accumulate: false,
        }))?;
        let input = |tensor, layout| compute::Operand { tensor, layout };
        run(Op::RowMap(compute::RowMap {
            rows,
            cols: time * 256,
            inputs: vec![input(wide.raw(), compute::Layout::Element), input(pool.raw(), compute::Layout::PerCol)],
            nodes: vec![
                compute::Node::Input(0),
                compute::Node::Input(1),
                compute::Node::Binary(compute::BinaryNode { op: compute::BinaryOp::Add, a: 0, b: 1 }),
            ],
            stores: vec![compute::Store { node: 2, tensor: wide.raw(), layout: compute::Layout::Element }],
        }))
    }
}

export_trainer!(Guest);
