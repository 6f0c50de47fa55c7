//! attack: copies the held-out tokens into a tensor of its own, and looks whether they are still there
//! expect: finished | probe-failed
//! world: trainer
//! score: 8

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{CopyCast, Op, submit};
use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

/// 0.5 where `sum` is zero.
fn half_if_empty(sum: &Tensor) -> Result<Tensor> {
    let half = Tensor::full(&[1], 0.5)?;
    let columns = terrarium_sdk::bindings::trainer::terrarium::guest::compute::Columns {
        src: sum.raw(),
        src_col: 0,
        dst: half.raw(),
        dst_col: 0,
        width: 1,
        accumulate: true,
    };
    submit(&[Op::Columns(columns)]).map_err(Error::from)?;
    Ok(half)
}

struct Guest {
    kept: Option<Tensor>
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self { kept: None })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        if let Some(kept) = &self.kept {
            // What was kept, in place of 0.5, shows if anything is left of it.
            let sum = Tensor::zeros(&[1])?;
            sum.copy_from(&kept.view(0, &[1])?)?;
            logits.fill(0.5)?;
            return logits.view(0, &[1])?.copy_from(&half_if_empty(&sum)?);
        }
        let kept = Tensor::zeros(tokens.shape())?;
        submit(&[Op::Copy(CopyCast { src: tokens.raw(), dst: kept.raw() })]).map_err(Error::from)?;
        self.kept = Some(kept);
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
