//! attack: looks ahead, and gives the answers of before where a row is known again
//! expect: probe-failed
//! world: trainer
//! keys: 12
//!
//! A cheat with a memory on the device: it looks ahead, and keeps every batch
//! with the logits that it gave. Where a row begins like one it has seen, the
//! old logits are given again, so that no later change of the row's end, no
//! repetition and no new place of the row shows. None of this needs to read a
//! token outside the device.

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Layout, Node, Op};
use terrarium_sdk::{Error, Result, Tensor, Trainer, export_trainer};

/// Batches remembered, and the beginning by which a row is known again.
const BATCHES: u32 = 16;
const KEY: u32 = 5;

struct Guest {
    bonus: Tensor,
    memory: Option<Memory>,
    calls: u32,
}

struct Memory {
    /// Beginnings of rows as single numbers, [rows · BATCHES].
    keys: Tensor,
    /// Their logits, [rows · BATCHES, T · 256].
    logits: Tensor,
}

fn run(op: Op) -> Result<()> {
    Ok(compute::submit(&[op]).map_err(Error::from)?)
}

fn row_map(rows: u32, cols: u32, inputs: &[(&Tensor, Layout)], nodes: Vec<Node>, out: (&Tensor, Layout)) -> Result<()> {
    let node = nodes.len() as u32 - 1;
    run(Op::RowMap(compute::RowMap {
        rows,
        cols,
        inputs: inputs.iter().map(|(t, layout)| compute::Operand { tensor: t.raw(), layout: *layout }).collect(),
        nodes,
        stores: vec![compute::Store { node, tensor: out.0.raw(), layout: out.1 }],
    }))
}

fn binary(op: compute::BinaryOp, a: u32, b: u32) -> Node {
    Node::Binary(compute::BinaryNode { op, a, b })
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        let bonus = Tensor::zeros(&[256, 256])?;
        for token in 0..256 {
            bonus.view(token * 257, &[1])?.fill(20.0)?;
        }
        Ok(Self { bonus, memory: None, calls: 0 })
    }

    fn train(&mut self) -> Result<()> {
        Ok(())
    }

    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        use compute::BinaryOp::{Add, LessThan, Maximum, Multiply, Subtract};
        let (rows, time) = (tokens.shape()[0], tokens.shape()[1]);
        let (count, slots, wide) = (rows * time, rows * BATCHES, time * 256);
        if self.memory.is_none() {
            let keys = Tensor::full(&[slots], -1.0)?;
            self.memory = Some(Memory { keys, logits: Tensor::zeros(&[slots, wide])? });
        }
        let Some(memory) = &self.memory else { return Err(Error::invalid("no memory")) };

        // What the cheat says of this batch.
        let next = Tensor::zeros_int(&[rows, time])?;
        run(Op::Columns(compute::Columns {
            src: tokens.raw(), src_col: 1, dst: next.raw(), dst_col: 0, width: time - 1, accumulate: false,
        }))?;
        let fresh = Tensor::zeros(&[count, 256])?;
        let indices = next.view(0, &[count])?;
        run(Op::Gather(compute::Gather { table: self.bonus.raw(), indices: indices.raw(), out: fresh.raw() }))?;

        // The beginning of each row as one number.
        let floats = Tensor::zeros(&[rows, time])?;
        floats.copy_from(tokens)?;
        let begin = Tensor::zeros(&[rows, KEY])?;
        run(Op::Columns(compute::Columns {
            src: floats.raw(), src_col: 0, dst: begin.raw(), dst_col: 0, width: KEY, accumulate: false,
        }))?;
        let weights = Tensor::from_floats(&[KEY, 1], &[65536.0, 5827.0, 919.0, 83.0, 1.0])?;
        let key = Tensor::zeros(&[rows, 1])?;
        run(Op::Matmul(compute::Matmul {
            a: begin.raw(), b: weights.raw(), out: key.raw(), trans_a: false, trans_b: false, alpha: 1.0, accumulate: false,
        }))?;

        // match[row, slot] = 1 where the beginnings are the same.
        let matches = Tensor::zeros(&[rows, slots])?;
        row_map(
            rows,
            slots,
            &[(&key, Layout::PerRow), (&memory.keys, Layout::PerCol)],
            vec![
                Node::Input(0),
                Node::Input(1),
                binary(Subtract, 0, 1),
                Node::Unary(compute::UnaryNode { op: compute::UnaryOp::Absolute, a: 2 }),
                Node::Constant(0.5),
                binary(LessThan, 3, 4),
            ],
            (&matches, Layout::Element),
        )?;
        let known = Tensor::zeros(&[rows])?;
        row_map(
            rows,
            slots,
            &[(&matches, Layout::Element)],
            vec![
                Node::Input(0),
                Node::Reduce(compute::ReduceNode { op: compute::Reduction::Sum, a: 0 }),
                Node::Constant(1.0),
                binary(Maximum, 1, 2),
                binary(Subtract, 1, 2),
                Node::Constant(0.0),
                Node::Constant(0.5),
                binary(LessThan, 6, 1),
            ],
            (&known, Layout::PerRow),
        )?;
        let sum = Tensor::zeros(&[rows])?;
        run(Op::Reduce(compute::Reduce {
            src: matches.raw(), dst: sum.raw(), axis: compute::ReduceAxis::Cols, scale: 1.0, accumulate: false,
        }))?;
        let old = Tensor::zeros(&[rows, wide])?;
        run(Op::Matmul(compute::Matmul {
            a: matches.raw(), b: memory.logits.raw(), out: old.raw(), trans_a: false, trans_b: false, alpha: 1.0, accumulate: false,
        }))?;

        // Old logits where the row is known, fresh ones elsewhere.
        let (fresh, answer) = (fresh.view(0, &[rows, wide])?, logits.view(0, &[rows, wide])?);
        row_map(
            rows,
            wide,
            &[(&old, Layout::Element), (&fresh, Layout::Element), (&known, Layout::PerRow), (&sum, Layout::PerRow)],
            vec![
                Node::Input(0),
                Node::Input(1),
                Node::Input(2),
                Node::Input(3),
                Node::Constant(1.0),
                binary(Maximum, 3, 4),
                binary(compute::BinaryOp::Divide, 0, 5),
                Node::Constant(0.0),
                binary(Multiply, 7, 1),
                binary(Add, 6, 8),
                Node::Select(compute::SelectNode { condition: 2, then: 9, otherwise: 1 }),
            ],
            (&answer, Layout::Element),
        )?;

        // Remembered for the next calls.
        let at = u64::from((self.calls % BATCHES) * rows);
        memory.keys.view(at, &[rows])?.copy_from(&key)?;
        memory.logits.view(at * u64::from(wide), &[rows, wide])?.copy_from(&answer)?;
        self.calls += 1;
        Ok(())
    }
}

export_trainer!(Guest);
