//! From a Rust type to a world's exports.

use crate::error::Result;
use crate::tensor::Tensor;

/// A program that trains a model and predicts with it.
pub trait Trainer: Sized {
    /// Builds the model. All randomness must follow from `seed`.
    fn init(seed: u64) -> Result<Self>;

    /// Trains until the budget is used. [`crate::train::until_budget_used`]
    /// is the usual loop.
    fn train(&mut self) -> Result<()>;

    /// Predicts: tokens int32 `[B,T]` → logits float32 [B·T, vocabulary], all of
    /// it. T is `data::describe().context`, B varies. The tokens are held-out
    /// data: downloads, logs, metrics and batches are refused here. The same
    /// tokens must give the same logits, whatever else is in the batch, and
    /// the logits at a position must not depend on later ones: the host tests
    /// this bit by bit. Nothing computed from the tokens outlives the call:
    /// the host zeroes every tensor that was written with it (so never write
    /// to a parameter, or to a view that shares its storage).
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()>;
}

/// A program from bytes to bytes. The instance lives as long as the
/// evaluation, so state may be kept between calls.
pub trait Function: Default {
    /// Answers one input.
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>>;
}

/// Sends the text of a panic to the log before the program is aborted, so
/// that its author learns more than that it trapped. Called by the macros.
#[cfg(target_arch = "wasm32")]
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| crate::report::log(&panic.to_string())));
}

/// Makes a type that implements [`Trainer`](crate::Trainer) the candidate's
/// `trainer` world. Natively it defines `native_trainer(seed)` instead.
#[macro_export]
macro_rules! export_trainer {
    ($ty:ident) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::std::{cell::RefCell, result::Result, string::String};
            use $crate::bindings::trainer as world;

            ::std::thread_local! {
                static TRAINER: RefCell<Option<$ty>> = const { RefCell::new(None) };
            }
            struct World;

            fn with(run: &mut dyn FnMut(&mut $ty) -> $crate::Result<()>) -> Result<(), String> {
                TRAINER.with(|cell| match cell.borrow_mut().as_mut() {
                    Some(trainer) => Ok(run(trainer)?),
                    None => Err("init was not called, or failed".into()),
                })
            }

            impl world::Guest for World {
                fn init(seed: u64) -> Result<(), String> {
                    $crate::log_panics();
                    let trainer = <$ty as $crate::Trainer>::init(seed)?;
                    TRAINER.with(|cell| cell.replace(Some(trainer)));
                    Ok(())
                }
                fn train() -> Result<(), String> {
                    with(&mut |trainer| $crate::Trainer::train(trainer))
                }
                fn forward(tokens: u64, logits: u64) -> Result<(), String> {
                    let tokens = $crate::Tensor::lent(tokens, $crate::Dtype::Int32)?;
                    let logits = $crate::Tensor::lent(logits, $crate::Dtype::Float32)?;
                    with(&mut |trainer| $crate::Trainer::forward(trainer, &tokens, &logits))
                }
            }
    world::export_trainer_world!(World with_types_in world);
        };

        /// The candidate's trainer, for a native harness.
        #[cfg(not(target_arch = "wasm32"))]
        pub fn native_trainer(seed: u64) -> $crate::Result<$crate::native::NativeTrainer> {
            $crate::native::NativeTrainer::init::<$ty>(seed)
        }
    };
}

/// Makes a type that implements [`Function`](crate::Function) the candidate's
/// `function` world. Natively it defines `native_function(input)` instead.
///
/// It brings a global allocator, [`Heap`](crate::heap::Heap), which makes small
/// calls about twice as fast; a candidate that has one of its own says
/// `export_function!(Name, own_allocator)`.
#[macro_export]
macro_rules! export_function {
    ($ty:ident) => {
        #[cfg(target_arch = "wasm32")]
        #[global_allocator]
        static TERRARIUM_HEAP: $crate::heap::Heap = $crate::heap::Heap::new();

        $crate::export_function!($ty, own_allocator);
    };
    ($ty:ident, own_allocator) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::std::{cell::RefCell, result::Result, string::String, vec::Vec};
            use $crate::bindings::function as world;

            ::std::thread_local! {
                static FUNCTION: RefCell<Option<$ty>> = const { RefCell::new(None) };
            }
            struct World;

            impl world::Guest for World {
                fn call(input: Vec<u8>) -> Result<Vec<u8>, String> {
                    FUNCTION.with(|cell| {
                        let mut cell = cell.borrow_mut();
                        let function = cell.get_or_insert_with(|| {
                            $crate::log_panics();
                            <$ty as Default>::default()
                        });
                        Ok($crate::Function::call(function, &input)?)
                    })
                }
            }
    world::export_function_world!(World with_types_in world);
        };

        /// One call of a fresh instance of the candidate, for a native harness.
        #[cfg(not(target_arch = "wasm32"))]
        pub fn native_function(input: &[u8]) -> $crate::Result<Vec<u8>> {
            $crate::Function::call(&mut <$ty as Default>::default(), input)
        }
    };
}
