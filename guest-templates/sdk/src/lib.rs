//! What a candidate is written against.
//!
//! A candidate is one Rust source file. This crate gives it tensors on the
//! host's device ([`Tensor`]), a tape that turns model code into a recorded
//! training step with gradients ([`Tape`]), row kernels for activations and
//! losses of its own ([`rowkernel`]), [`layers`] and [`init`]ial values,
//! optimizers ([`optim`]), learning-rate
//! schedules ([`schedule`]), named tunables ([`knobs`]), and the macros that
//! make it a program of the host's: [`export_trainer!`] and
//! [`export_function!`].
//!
//! # A training program
//!
//! ```no_run
//! use terrarium_sdk::init::Seeds;
//! use terrarium_sdk::layers::{Embedding, LayerNorm, Mlp, SelfAttention};
//! use terrarium_sdk::optim::{AdamW, AdamWConfig, Optimizer};
//! use terrarium_sdk::tape::Activation;
//! use terrarium_sdk::{Result, Tape, Tensor, Var, data, train};
//!
//! struct Block { norms: [LayerNorm; 2], attention: SelfAttention, mlp: Mlp }
//!
//! fn hidden(t: &mut Tape, tokens: Var, embedding: &Embedding, blocks: &[Block]) -> Result<Var> {
//!     let mut x = embedding.forward(t, tokens)?; // [B, T, C]
//!     for block in blocks {
//!         let h = block.norms[0].forward(t, x)?;
//!         x = block.attention.forward(t, h, Some(x))?;
//!         let h = block.norms[1].forward(t, x)?;
//!         x = block.mlp.forward(t, h, Some(x))?;
//!     }
//!     Ok(x)
//! }
//!
//! fn learn(embedding: &Embedding, blocks: &[Block], head: &Tensor, params: &[Tensor]) -> Result<u64> {
//!     let (tokens, targets) = (Tensor::zeros_int(&[8, 128])?, Tensor::zeros_int(&[8, 128])?);
//!     let mut t = Tape::training();
//!     let (input, target) = (t.input(&tokens), t.input(&targets));
//!     let x = hidden(&mut t, input, embedding, blocks)?;
//!     let head = t.param(head);
//!     let losses = t.linear_cross_entropy(x, head, target, 0.0)?;
//!     let loss = t.mean(losses)?;
//!     t.backward(loss)?;
//!     let mut adamw = AdamW::new(params, AdamWConfig::default())?;
//!     adamw.emit(&mut t)?;
//!     let step = t.record()?; // the whole step, forward, backward and update
//!     train::until_budget_used(&step, &mut |now| {
//!         adamw.prepare(now.number, 1.0)?;
//!         data::next_batch(&tokens, &targets)
//!     })
//! }
//! # let _ = learn;
//! # let _ = |seeds: &mut Seeds| Mlp::new(seeds, 64, 256, Activation::ReluSquared);
//! ```
//!
//! # What things cost
//!
//! Device fuel is flops + 4 · bytes moved + 10,000 for each operation, known
//! before anything runs: [`Graph::cost`] says it. N is a number of rows.
//!
//! | on a [`Tape`] | shapes | flops, forward (the gradient: about twice) |
//! | --- | --- | --- |
//! | `linear`, `linear_fused` | \[N,K\], \[M,K\] → \[N,M\] | 2·N·M·K |
//! | `mlp` | \[N,C\], \[H,C\], \[C,H\] → \[N,C\] | 4·N·C·H |
//! | `attention` | \[B,T,H,D\] → the same | 4·B·H·D·Σ positions seen (T²/2, or T·window) |
//! | `attention_fused` | \[B,T,(H+2K)·D\] → \[B,T,H·D\] | the same: one projection holds all three |
//! | `linear_cross_entropy` | \[N,C\], \[V,C\] → \[N\] | 2·N·V·C, and no logits are stored |
//! | `mixture` | \[N,C\], experts of width H, k of them | 4·k·N·C·H |
//! | `map`, norms, `rope_norm` | \[N,C\] → \[N,C\] | a few for each element; the bytes count |
//! | `gather`, `columns`, `transpose`, `cast` | | none; the bytes count |
//! | `reshape`, `detach` | | free |
//!
//! So many small operations on small tensors cost more than they look, and
//! what reads and writes less (`linear_fused`, `mlp`, `rope_norm`, one `map`
//! in place of several) leaves more of the budget for learning. Optimizers:
//! [`optim::AdamW`] 20 flops and 28 bytes for each parameter, [`optim::Lion`]
//! 20 bytes, [`optim::Muon`] about 5·(4·m²n + 2·m³) flops for each m × n
//! matrix, m ≤ n.
//!
//! **Invariants.** Nothing here trusts or checks the host: the host checks
//! everything again. The interface itself is defined in `sandbox/wit` only;
//! [`bindings`] is generated from it. On native targets the module `native`
//! (not there on WebAssembly) takes the host's place for tests and benches.

pub mod bindings;
pub mod budget;
pub mod data;
mod error;
mod export;
pub mod heap;
mod host;
mod host_call;
pub mod init;
pub mod interior_point;
pub mod knobs;
pub mod layers;
#[cfg(not(target_arch = "wasm32"))]
pub mod native;
pub mod optim;
pub mod report;
pub mod rowkernel;
pub mod schedule;
pub mod tape;
mod tensor;
pub mod train;

pub use error::{Error, ErrorKind, Result};
#[cfg(target_arch = "wasm32")]
pub use export::log_panics;
pub use export::{Function, Trainer};
pub use host_call::{HostCallError, host_call};
pub use tape::{Graph, Slot, Tape, Var};
pub use tensor::{Distribution, Dtype, Tensor, elements};
