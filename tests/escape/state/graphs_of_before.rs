//! attack: replays the graphs that an evaluation before it recorded
//! expect: finished
//! world: trainer
//! score: 8
//! never: found
//! times: 4

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{Fill, Op, record_graph, replay};
use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        for graph in 0..200 {
            if replay(graph).is_ok() {
                report::log("found");
            }
        }
        let tensor = Tensor::zeros(&[4])?;
        let fill = Op::Fill(Fill { dst: tensor.raw(), value: 1.0 });
        for _ in 0..50 {
            record_graph(&[fill.clone()]).expect("room");
        }
        std::mem::forget(tensor);
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
