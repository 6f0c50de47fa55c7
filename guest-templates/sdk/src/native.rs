//! The stand-in for the host on native targets: tests and benches install a
//! [`NativeHost`], and the same candidate that would run in the sandbox runs
//! in the process. Nothing here exists in a WebAssembly build.

use std::cell::RefCell;

use crate::bindings::trainer::terrarium::guest::{budget, compute, data, knobs};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The functions of the host interface, one for one; see `sandbox/wit`.
#[allow(missing_docs)]
pub trait NativeHost {
    fn alloc(&mut self, dtype: compute::Dtype, shape: &[u32]) -> HostResult<u64>;
    fn view(&mut self, of: u64, offset: u64, shape: &[u32]) -> HostResult<u64>;
    fn free(&mut self, tensor: u64) -> HostResult<()>;
    fn shape(&mut self, tensor: u64) -> HostResult<Vec<u32>>;
    fn upload_floats(&mut self, tensor: u64, offset: u64, values: &[f32]) -> HostResult<()>;
    fn upload_ints(&mut self, tensor: u64, offset: u64, values: &[i32]) -> HostResult<()>;
    fn download_floats(&mut self, tensor: u64, offset: u64, count: u32) -> HostResult<Vec<f32>>;
    fn download_ints(&mut self, tensor: u64, offset: u64, count: u32) -> HostResult<Vec<i32>>;
    fn submit(&mut self, ops: &[compute::Op]) -> HostResult<()>;
    fn record_graph(&mut self, ops: &[compute::Op]) -> HostResult<u64>;
    fn cost(&mut self, graph: u64) -> HostResult<u64>;
    fn replay(&mut self, graph: u64) -> HostResult<()>;
    fn free_graph(&mut self, graph: u64) -> HostResult<()>;
    fn describe(&mut self) -> data::Info;
    fn next_batch(&mut self, tokens: u64, targets: u64) -> HostResult<()>;
    fn knob_number(&mut self, name: &str, default: f64, low: f64, high: f64, scale: knobs::Scale) -> f64;
    fn knob_integer(&mut self, name: &str, default: i64, low: i64, high: i64, scale: knobs::Scale) -> i64;
    fn knob_choice(&mut self, name: &str, default: u32, options: &[String]) -> u32;
    fn log(&mut self, message: &str);
    fn metric(&mut self, name: &str, step: u64, value: f64);
    fn budget(&mut self) -> budget::State;
}

/// What a host function returns.
pub type HostResult<T> = std::result::Result<T, compute::Error>;

thread_local! {
    static HOST: RefCell<Option<Box<dyn NativeHost>>> = const { RefCell::new(None) };
}

/// Makes `host` answer this thread's calls; returns the one before it.
pub fn install(host: Box<dyn NativeHost>) -> Option<Box<dyn NativeHost>> {
    HOST.with(|cell| cell.borrow_mut().replace(host))
}

/// Takes the thread's host away. Tensors that outlive it are no longer freed.
pub fn uninstall() -> Option<Box<dyn NativeHost>> {
    HOST.with(|cell| cell.borrow_mut().take())
}

/// Calls the thread's host; `None` when there is none.
pub(crate) fn with<T>(call: impl FnOnce(&mut dyn NativeHost) -> T) -> Option<T> {
    HOST.try_with(|cell| cell.borrow_mut().as_mut().map(|host| call(host.as_mut()))).ok().flatten()
}

/// The error of a call with no host installed.
pub(crate) fn no_host() -> Error {
    Error::invalid("no host: call terrarium_sdk::native::install first")
}

/// A candidate's `Trainer`, behind one type, for a native harness.
pub struct NativeTrainer {
    train: Box<dyn FnMut(NativeCall<'_>) -> Result<()>>,
}

/// The two calls a built trainer answers.
pub enum NativeCall<'a> {
    /// [`crate::Trainer::train`].
    Train,
    /// [`crate::Trainer::forward`].
    Forward(&'a Tensor, &'a Tensor),
}

impl NativeTrainer {
    /// Builds a trainer of type `T`, as the export `init` would.
    pub fn init<T: crate::Trainer + 'static>(seed: u64) -> Result<Self> {
        let mut trainer = T::init(seed)?;
        Ok(Self {
            train: Box::new(move |call| match call {
                NativeCall::Train => trainer.train(),
                NativeCall::Forward(tokens, logits) => trainer.forward(tokens, logits),
            }),
        })
    }

    /// The export `train`.
    pub fn train(&mut self) -> Result<()> {
        (self.train)(NativeCall::Train)
    }

    /// The export `forward`.
    pub fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        (self.train)(NativeCall::Forward(tokens, logits))
    }
}
