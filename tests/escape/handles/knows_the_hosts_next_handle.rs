//! attack: guesses the handle that the host will take next, and uses it first
//! expect: finished
//! world: trainer
//! score: 8

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{Dtype, alloc, free, shape, view};
use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let next = alloc(Dtype::Int32, &[1]).expect("room");
        free(next).expect("mine");
        for generation in 0..4u64 {
            for slot in 0..64u64 {
                let guess = next.wrapping_add(generation << 32).wrapping_add(slot);
                if shape(guess).is_ok() || view(guess, 0, &[1]).is_ok() {
                    report::log("found");
                }
            }
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
