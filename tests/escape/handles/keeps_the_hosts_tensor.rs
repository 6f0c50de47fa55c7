//! attack: keeps a view of the tokens, for the next call
//! expect: finished
//! world: trainer
//! score: 8

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{CopyCast, Op, submit, view};
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest {
    kept: Option<u64>
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self { kept: None })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        if let Some(kept) = self.kept {
            // The tokens of this call, by a handle of the one before.
            let _ = submit(&[Op::Copy(CopyCast { src: tokens.raw(), dst: kept })]);
        }
        self.kept = view(tokens.raw(), 0, &[1]).ok();
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
