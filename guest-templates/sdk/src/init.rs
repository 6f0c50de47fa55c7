//! Initial values of parameters.
//!
//! A [`Seeds`] gives each tensor a stream of random numbers of its own, so
//! that adding a parameter does not change the values of those before it.
//!
//! ```no_run
//! # use terrarium_sdk::{Result, Tensor, init::Seeds};
//! # fn f() -> Result<()> {
//! let mut seeds = Seeds::new(7);
//! let hidden: Tensor = seeds.kaiming(&[256, 64])?; // 256 outputs of 64 inputs
//! let head: Tensor = seeds.normal(&[1000, 64], 0.02)?;
//! # Ok(()) }
//! ```

use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::{Distribution, Tensor};

/// A seed, and how many tensors were drawn from it.
#[derive(Clone, Debug)]
pub struct Seeds {
    seed: u64,
    next: u64,
}

impl Seeds {
    /// The first stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    fn draw(&mut self, shape: &[u32], distribution: Distribution, scale: f32) -> Result<Tensor> {
        let tensor = Tensor::zeros(shape)?;
        self.next += 1;
        tensor.randomize(distribution, scale, self.seed, self.next)?;
        Ok(tensor)
    }

    /// N(0, deviation²).
    pub fn normal(&mut self, shape: &[u32], deviation: f32) -> Result<Tensor> {
        self.draw(shape, Distribution::Normal, deviation)
    }

    /// U(-bound, bound), whose deviation is bound/√3.
    pub fn uniform(&mut self, shape: &[u32], bound: f32) -> Result<Tensor> {
        self.draw(shape, Distribution::Uniform, bound)
    }

    /// Glorot and Bengio (2010): U(±√(6/(inputs + outputs))) of matrices
    /// […, outputs, inputs].
    pub fn xavier(&mut self, shape: &[u32]) -> Result<Tensor> {
        let (outputs, inputs) = fans(shape)?;
        self.uniform(shape, (6.0 / (inputs + outputs)).sqrt())
    }

    /// He et al. (2015), for ReLU: N(0, 2/inputs) of matrices […, outputs,
    /// inputs].
    pub fn kaiming(&mut self, shape: &[u32]) -> Result<Tensor> {
        let (_, inputs) = fans(shape)?;
        self.normal(shape, (2.0 / inputs).sqrt())
    }

    /// Nearly orthogonal matrices [m, n] or [L, m, n] (Saxe et al. 2014),
    /// times `gain`: singular values within a fifth of it, by the iteration
    /// of [`Muon`](crate::optim::Muon). Costs about 10·L·m·n·min(m,n) flops.
    pub fn orthogonal(&mut self, shape: &[u32], gain: f32) -> Result<Tensor> {
        let dims = match *shape {
            [m, n] => (1, m, n),
            [l, m, n] => (l, m, n),
            _ => return Err(Error::shape(format!("orthogonal needs matrices, not shape {shape:?}"))),
        };
        let tensor = self.normal(shape, 1.0)?;
        let mut t = Tape::inference();
        let slot = t.bind(&tensor);
        let straight = crate::optim::orthogonalize(&mut t, slot, dims, crate::optim::POLAR_EXPRESS.len())?;
        let k = crate::rowkernel::Kernel::new(dims.2);
        let e = k.input(crate::rowkernel::Layout::Element);
        let stores = [(gain * e, slot, crate::rowkernel::Layout::Element)];
        t.emit_kernel(&k, dims.0 * dims.1, &[straight], &stores)?;
        t.run()?;
        Ok(tensor)
    }
}

/// (outputs, inputs) of matrices […, outputs, inputs].
fn fans(shape: &[u32]) -> Result<(f32, f32)> {
    match *shape {
        [.., outputs, inputs] => Ok((outputs as f32, inputs as f32)),
        _ => Err(Error::shape(format!("an initialiser of matrices for shape {shape:?}"))),
    }
}
