//! The tape: a whole training step, written once, replayed many times.
//!
//! Calls on a [`Tape`] compute nothing; they append operations. A [`Var`] is
//! a value of the computation, and [`Tape::backward`] appends the operations
//! that make the gradients. [`Tape::record`] then plans memory (values that
//! are never alive together share storage) and hands the list to the host as
//! one [`Graph`], which a training loop replays.
//!
//! ```no_run
//! # use terrarium_sdk::{Result, Tape, Tensor};
//! # fn step(x: &Tensor, targets: &Tensor, w1: &Tensor, w2: &Tensor) -> Result<()> {
//! let mut t = Tape::training();
//! let x = t.input(x);
//! let w1 = t.param(w1);
//! let w2 = t.param(w2);
//! let targets = t.input(targets);
//! let h = t.linear(x, w1)?;
//! let h = t.map_elements(&[h], &|e| e[0].relu().square())?;
//! let losses = t.linear_cross_entropy(h, w2, targets, 15.0)?;
//! let loss = t.mean(losses)?;
//! t.backward(loss)?;
//! # Ok(()) }
//! ```
//!
//! Below the differentiable layer is a plain one: a [`Slot`] is a buffer
//! (a tensor of yours, a view, or a temporary of the tape), and the `emit_*`
//! methods append single operations on slots. Optimizers are written with it.

mod attention;
mod backward;
mod emit;
mod experts;
mod fused;
mod loss;
mod map;
mod matmul;
mod operands;
mod plan;
mod shape;

use crate::bindings::trainer::terrarium::guest::compute;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor, elements};

pub use attention::Heads;
pub use backward::Adjoint;
pub use experts::Sorted;
pub use fused::{Activation, Affine, Ends};
pub use plan::Graph;

/// A value of the computation; a number, so copy it freely.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Var(u32);

/// A buffer that operations of the tape read and write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(u32);

impl Slot {
    /// The number by which an operation given to [`Tape::emit`] names it.
    pub fn raw(self) -> u64 {
        u64::from(self.0)
    }
}

enum Storage {
    /// Memory of the caller's.
    Tensor(Tensor),
    /// Memory of the tape's, placed by the planner.
    Temporary,
    /// Part of another slot, which is not a view itself.
    View { of: Slot, offset: u64 },
}

struct SlotEntry {
    storage: Storage,
    shape: Vec<u32>,
    dtype: Dtype,
}

struct VarEntry {
    slot: Slot,
    needs_gradient: bool,
    gradient: Option<backward::Gradient>,
    /// Its gradient has gone on to its operands, and is not read again.
    passed_on: bool,
    /// Where the gradient has to end up (rows of a parameter bank).
    home: Option<Slot>,
    /// A gradient of which only some columns are written yet.
    columns: Option<backward::Columns>,
    /// The value whose gradient is meant: this one is that in other elements.
    stands_for: Option<Var>,
    /// Its gradient is float32, whatever it is itself.
    parameter: bool,
}

struct ParamEntry {
    tensor: Tensor,
    var: Var,
    /// The rows handed out as variables of their own, if any.
    rows: Vec<Option<Var>>,
    whole: bool,
}

/// A list of operations under construction. See the [module](self).
pub struct Tape {
    ops: Vec<compute::Op>,
    slots: Vec<SlotEntry>,
    vars: Vec<VarEntry>,
    rules: Vec<(Var, backward::Rule)>,
    params: Vec<ParamEntry>,
    training: bool,
}

impl Tape {
    /// A tape that remembers how to differentiate.
    pub fn training() -> Self {
        Self::new(true)
    }

    /// A tape for prediction only: no gradients, and so less memory.
    pub fn inference() -> Self {
        Self::new(false)
    }

    fn new(training: bool) -> Self {
        Self {
            ops: Vec::new(),
            slots: Vec::new(),
            vars: Vec::new(),
            rules: Vec::new(),
            params: Vec::new(),
            training,
        }
    }

    /// Data: a value without a gradient.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape) -> Result<()> {
    /// let tokens = Tensor::zeros_int(&[8, 128])?;
    /// let x = t.input(&tokens); // read anew at each replay
    /// # let _ = x;
    /// # Ok(()) }
    /// ```
    pub fn input(&mut self, tensor: &Tensor) -> Var {
        let slot = self.bind(tensor);
        self.add_var(slot, false)
    }

    /// A parameter: a value with a gradient, which [`Tape::gradient_of`]
    /// names after [`Tape::backward`]. Asking twice gives the same variable.
    pub fn param(&mut self, tensor: &Tensor) -> Var {
        let index = self.param_index(tensor);
        self.params[index].whole = true;
        self.params[index].var
    }

    /// A parameter whose value is read from `rounded`, a bfloat16 copy that
    /// someone keeps up to date: see [`AdamW::rounded`](crate::optim::AdamW::rounded).
    /// Its gradient is the parameter's, in float32. Costs nothing, where a
    /// [cast](Tape::cast) of the parameter moves it once a step.
    pub fn param_rounded(&mut self, param: &Tensor, rounded: &Tensor) -> Result<Var> {
        if rounded.dtype() != Dtype::Bfloat16 || rounded.shape() != param.shape() {
            return Err(Error::shape(format!(
                "param_rounded needs bfloat16 of shape {:?}, not {:?} of shape {:?}",
                param.shape(),
                rounded.dtype(),
                rounded.shape()
            )));
        }
        let param = self.param(param);
        let slot = self.bind(rounded);
        Ok(self.stands_for(slot, param))
    }

    /// A value of `slot` whose gradient is that of `x`.
    fn stands_for(&mut self, slot: Slot, x: Var) -> Var {
        let y = self.add_var(slot, self.needs_gradient(x));
        self.vars[y.0 as usize].stands_for = Some(x);
        y
    }

    /// Row `index` of a parameter bank [L, …], of shape […]. Banks hold the
    /// same matrix of every layer side by side, so that an optimizer can work
    /// on all of them in one batched operation.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let bank = Tensor::zeros(&[3, 256, 64])?; // a matrix for each of 3 layers
    /// let w = t.param_row(&bank, 0)?; // [256, 64]; costs nothing
    /// let y = t.linear(x, w)?;
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn param_row(&mut self, bank: &Tensor, index: u32) -> Result<Var> {
        let shape = bank.shape().to_vec();
        if shape.len() < 2 || index >= shape[0] {
            return Err(Error::shape(format!("param_row {index} of a bank of shape {shape:?}")));
        }
        let at = self.param_index(bank);
        self.params[at].rows.resize(shape[0] as usize, None);
        if let Some(var) = self.params[at].rows[index as usize] {
            return Ok(var);
        }
        let rest = &shape[1..];
        let offset = u64::from(index) * elements(rest);
        let slot = self.slot(self.params[at].var);
        let slot = self.view(slot, offset, rest)?;
        let var = self.add_var(slot, self.training);
        self.vars[var.0 as usize].parameter = true;
        if self.training {
            let bank_gradient = self.bank_gradient(at);
            self.vars[var.0 as usize].home = Some(self.view(bank_gradient, offset, rest)?);
        }
        self.params[at].rows[index as usize] = Some(var);
        Ok(var)
    }

    fn param_index(&mut self, tensor: &Tensor) -> usize {
        if let Some(at) = self.params.iter().position(|p| p.tensor.raw() == tensor.raw()) {
            return at;
        }
        let slot = self.bind(tensor);
        let var = self.add_var(slot, self.training);
        self.vars[var.0 as usize].parameter = true;
        self.params.push(ParamEntry { tensor: tensor.clone(), var, rows: Vec::new(), whole: false });
        self.params.len() - 1
    }

    fn bank_gradient(&mut self, at: usize) -> Slot {
        let var = self.params[at].var.0 as usize;
        if let Some(home) = self.vars[var].home {
            return home;
        }
        let shape = self.params[at].tensor.shape().to_vec();
        let home = self.temporary(&shape);
        self.vars[var].home = Some(home);
        home
    }

    /// The same value, cut off from the gradient.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let target = t.detach(x); // the same buffer; costs nothing
    /// # let _ = target;
    /// # Ok(()) }
    /// ```
    pub fn detach(&mut self, x: Var) -> Var {
        let slot = self.slot(x);
        self.add_var(slot, false)
    }

    /// Copies the value into a tensor of yours at each replay.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, loss: Var) -> Result<()> {
    /// let kept = Tensor::zeros(&[1])?;
    /// t.store(loss, &kept)?; // after a replay, kept.scalar() reads it
    /// # let _ = kept;
    /// # Ok(()) }
    /// ```
    pub fn store(&mut self, x: Var, into: &Tensor) -> Result<()> {
        let (src, dst) = (self.slot(x), self.bind(into));
        self.emit_copy(src, dst)
    }

    /// Shape of a value.
    pub fn shape(&self, x: Var) -> &[u32] {
        self.slot_shape(self.slot(x))
    }

    /// The buffer behind a value.
    pub fn slot(&self, x: Var) -> Slot {
        self.vars[x.0 as usize].slot
    }

    /// Whether this tape is for training.
    pub fn is_training(&self) -> bool {
        self.training
    }

    fn add_var(&mut self, slot: Slot, needs_gradient: bool) -> Var {
        self.vars.push(VarEntry {
            slot,
            needs_gradient,
            gradient: None,
            passed_on: false,
            home: None,
            columns: None,
            stands_for: None,
            parameter: false,
        });
        Var(self.vars.len() as u32 - 1)
    }

    fn needs_gradient(&self, x: Var) -> bool {
        self.vars[x.0 as usize].needs_gradient
    }

    /// (rows, cols) of a value: cols is the last dimension.
    fn rows_cols(&self, x: Var) -> Result<(u32, u32)> {
        let shape = self.shape(x);
        let cols = shape.last().copied().unwrap_or(1).max(1);
        let rows = u32::try_from(elements(shape) / u64::from(cols))
            .map_err(|_| Error::shape("more than 2³² rows"))?;
        Ok((rows, cols))
    }
}
