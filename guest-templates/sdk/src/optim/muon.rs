//! Muon: momentum whose matrix is replaced by the nearest orthogonal one
//! (Jordan et al. 2024), by the Polar Express iteration (Amsel et al. 2025,
//! arXiv 2505.16932), with NorMuon's per-neuron scaling on request (Li et al.
//! 2025, arXiv 2510.05491).

use super::{Optimizer, required_gradient};
use crate::error::{Error, Result};
use crate::rowkernel::{Kernel, Layout};
use crate::tape::{Slot, Tape};
use crate::tensor::Tensor;

/// Coefficients (a, b, c) of X ← a·X + (b·A + c·A²)·X, A = X·Xᵀ: Polar Express
/// for five steps, safety factor 0.02, cushion 2.
pub const POLAR_EXPRESS: [(f32, f32, f32); 5] = [
    (8.156_554, -22.483_293, 15.878_77),
    (4.042_93, -2.808_917_5, 0.500_017_8),
    (3.891_667_8, -2.772_484, 0.506_064_8),
    (3.285_753_7, -2.368_129_5, 0.464_490_24),
    (2.346_541_3, -1.709_782_8, 0.423_235_5),
];

/// Settings of [`Muon`].
#[derive(Clone, Copy, Debug)]
pub struct MuonConfig {
    /// Learning rate; scaled by √max(1, m/n) for an m×n matrix.
    pub rate: f64,
    /// Decay of the momentum, 0 to 1.
    pub momentum: f64,
    /// Look ahead along the momentum (Nesterov).
    pub nesterov: bool,
    /// Weight decay, applied only where it does not fight the update
    /// (cautious: update·param ≥ 0).
    pub weight_decay: f64,
    /// Iterations, 1 to 5.
    pub steps: usize,
    /// Decay of the per-row second moment; `None`: no such scaling.
    pub second_moment: Option<f64>,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { rate: 0.02, momentum: 0.95, nesterov: true, weight_decay: 0.0, steps: 5, second_moment: None }
    }
}

/// Muon over parameter banks `[L,m,n]` or matrices `[m,n]`; all matrices of a bank
/// go through the iteration together.
/// An m×n matrix (m ≤ n) costs steps·(4·m²n + 2·m³) flops of fuel, whatever the
/// batch: of small models trained on small batches it is a good part of the
/// step, and of large ones little. In time, a CPU with AVX2 makes half of two of the
/// three products from 1 M multiply-adds a matrix on, as they are symmetric.
///
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, optim::*};
/// # fn f(t: &mut Tape, params: &[Tensor]) -> Result<()> {
/// let mut optimizer = Muon::new(params, MuonConfig { rate: 0.02, ..MuonConfig::default() })?;
/// optimizer.emit(t)?; // after t.backward(loss)
/// optimizer.prepare(1, 1.0)?; // before each replay: the step, the schedule's factor
/// # Ok(()) }
/// ```
pub struct Muon {
    config: MuonConfig,
    /// Rate, momentum, 1 - momentum, rate·weight decay, beta2, 1 - beta2.
    hyper: Tensor,
    members: Vec<Member>,
}

struct Member {
    param: Tensor,
    momentum: Tensor,
    /// [L·m], if scaling is on.
    second: Option<Tensor>,
    /// (L, m, n)
    dims: (u32, u32, u32),
}

impl Muon {
    /// An optimizer of `params`, with momentum zero.
    pub fn new(params: &[Tensor], config: MuonConfig) -> Result<Self> {
        let member = |param: &Tensor| {
            let dims = match *param.shape() {
                [m, n] => (1, m, n),
                [l, m, n] => (l, m, n),
                _ => {
                    return Err(Error::shape(format!("Muon needs matrices, not shape {:?}", param.shape())));
                }
            };
            let second = match config.second_moment {
                Some(_) => Some(Tensor::zeros(&[dims.0 * dims.1])?),
                None => None,
            };
            Ok(Member { param: param.clone(), momentum: Tensor::zeros(param.shape())?, second, dims })
        };
        Ok(Self {
            config,
            hyper: Tensor::zeros(&[6])?,
            members: params.iter().map(member).collect::<Result<_>>()?,
        })
    }
}

/// The scalars of a step, as slots.
struct Hyper {
    rate: Slot,
    momentum: Slot,
    rest: Slot,
    decay: Slot,
    beta2: Slot,
    rest2: Slot,
}

impl Optimizer for Muon {
    fn emit(&mut self, tape: &mut Tape) -> Result<()> {
        let all = tape.bind(&self.hyper);
        let mut scalar = |i: u64| tape.view(all, i, &[1]);
        let hyper = Hyper {
            rate: scalar(0)?,
            momentum: scalar(1)?,
            rest: scalar(2)?,
            decay: scalar(3)?,
            beta2: scalar(4)?,
            rest2: scalar(5)?,
        };
        for member in &self.members {
            let update = direction(tape, member, &hyper, self.config.nesterov)?;
            let update = orthogonalize(tape, update, member.dims, self.config.steps)?;
            let update = match &member.second {
                Some(second) => rescale(tape, update, second, &hyper, member.dims)?,
                None => update,
            };
            apply(tape, member, update, &hyper)?;
        }
        Ok(())
    }

    fn prepare(&mut self, _step: u64, rate: f64) -> Result<()> {
        let c = &self.config;
        let beta2 = c.second_moment.unwrap_or(0.0);
        let lr = c.rate * rate;
        let values = [lr, c.momentum, 1.0 - c.momentum, lr * c.weight_decay, beta2, 1.0 - beta2];
        self.hyper.upload(&values.map(|v| v as f32))
    }
}

/// Moves the momentum towards the gradient; returns the direction to follow.
fn direction(tape: &mut Tape, member: &Member, hyper: &Hyper, nesterov: bool) -> Result<Slot> {
    let (l, m, n) = member.dims;
    let grad = required_gradient(tape, &member.param)?;
    let buffer = tape.bind(&member.momentum);
    let ahead = tape.temporary(&[l, m, n]);
    let k = Kernel::new(n);
    let [g, b] = [(); 2].map(|()| k.input(Layout::Element));
    let [mu, rest] = [(); 2].map(|()| k.input(Layout::Scalar));
    let moved = mu * b + rest * g;
    let look = if nesterov { mu * moved + rest * g } else { moved };
    tape.emit_kernel(
        &k,
        l * m,
        &[grad, buffer, hyper.momentum, hyper.rest],
        &[(moved, buffer, Layout::Element), (look, ahead, Layout::Element)],
    )?;
    Ok(ahead)
}

/// The nearest semi-orthogonal matrix to each of L m×n matrices: singular
/// values near 1. `x` is `[L,m,n]`; so is the result.
pub(crate) fn orthogonalize(
    tape: &mut Tape,
    x: Slot,
    (l, m, n): (u32, u32, u32),
    steps: usize,
) -> Result<Slot> {
    let mut current = tape.temporary(&[l, m, n]);
    let factor = tape.temporary(&[l, m]);
    let squares = tape.temporary(&[l, m]);
    let k = Kernel::new(n);
    let e = k.input(Layout::Element);
    tape.emit_kernel(&k, l * m, &[x], &[(e.square().row_sum(), squares, Layout::PerRow)])?;
    let k = Kernel::new(m);
    let e = k.input(Layout::Element);
    let inverse = (e.row_sum().sqrt() * 1.02 + 1e-6).recip();
    tape.emit_kernel(&k, l, &[squares], &[(inverse, factor, Layout::Element)])?;
    scale_rows(tape, x, factor, current, (l, m, n))?;

    // The small Gram matrix: XᵀX for tall matrices, XXᵀ for wide ones.
    let tall = m > n;
    let side = m.min(n);
    for &(a, b, c) in POLAR_EXPRESS.iter().take(steps) {
        let gram = tape.temporary(&[l, side, side]);
        tape.emit_matmul((current, tall), (current, !tall), gram, 1.0, false);
        // It is symmetric: as products with their own transposes both are made in half
        // the time where the device knows how.
        let square = tape.temporary(&[l, side, side]);
        tape.emit_matmul((gram, false), (gram, true), square, 1.0, false);
        let poly = combined(tape, [gram, square], &[l, side, side], [b, c])?;
        let next = times(tape, current, &[l, m, n], a)?;
        match tall {
            true => tape.emit_matmul((current, false), (poly, false), next, 1.0, true),
            false => tape.emit_matmul((poly, false), (current, false), next, 1.0, true),
        }
        current = next;
    }
    Ok(current)
}

/// `factors[0]·x[0] + factors[1]·x[1]`
fn combined(tape: &mut Tape, x: [Slot; 2], shape: &[u32; 3], factors: [f32; 2]) -> Result<Slot> {
    let out = tape.temporary(shape);
    let k = Kernel::new(shape[2]);
    let [first, second] = [(); 2].map(|()| k.input(Layout::Element));
    let sum = factors[0] * first + factors[1] * second;
    tape.emit_kernel(&k, shape[0] * shape[1], &x, &[(sum, out, Layout::Element)])?;
    Ok(out)
}

fn times(tape: &mut Tape, x: Slot, shape: &[u32; 3], factor: f32) -> Result<Slot> {
    let out = tape.temporary(shape);
    let k = Kernel::new(shape[2]);
    let e = k.input(Layout::Element);
    tape.emit_kernel(&k, shape[0] * shape[1], &[x], &[(factor * e, out, Layout::Element)])?;
    Ok(out)
}

/// Divides each row by the root of its running mean square, then restores the
/// matrix's norm.
fn rescale(
    tape: &mut Tape,
    x: Slot,
    second: &Tensor,
    hyper: &Hyper,
    (l, m, n): (u32, u32, u32),
) -> Result<Slot> {
    let second = tape.bind(second);
    let mean = tape.temporary(&[l, m]);
    let k = Kernel::new(n);
    let e = k.input(Layout::Element);
    tape.emit_kernel(&k, l * m, &[x], &[(e.square().row_mean(), mean, Layout::PerRow)])?;

    let factor = tape.temporary(&[l, m]);
    let k = Kernel::new(m);
    let [v, old] = [(); 2].map(|()| k.input(Layout::Element));
    let [beta2, rest2] = [(); 2].map(|()| k.input(Layout::Scalar));
    let moved = beta2 * old + rest2 * v;
    let step = moved.max(1e-10).rsqrt();
    let before = v.row_sum();
    let after = (v * step.square()).row_sum().max(1e-10);
    let keep = step * (before / after).sqrt();
    tape.emit_kernel(
        &k,
        l,
        &[mean, second, hyper.beta2, hyper.rest2],
        &[(moved, second, Layout::Element), (keep, factor, Layout::Element)],
    )?;

    let out = tape.temporary(&[l, m, n]);
    scale_rows(tape, x, factor, out, (l, m, n))?;
    Ok(out)
}

/// `out[r,:] = factor[r]·x[r,:]`
fn scale_rows(tape: &mut Tape, x: Slot, factor: Slot, out: Slot, (l, m, n): (u32, u32, u32)) -> Result<()> {
    let k = Kernel::new(n);
    let e = k.input(Layout::Element);
    let f = k.input(Layout::PerRow);
    tape.emit_kernel(&k, l * m, &[x, factor], &[(e * f, out, Layout::Element)])
}

fn apply(tape: &mut Tape, member: &Member, update: Slot, hyper: &Hyper) -> Result<()> {
    let (l, m, n) = member.dims;
    let param = tape.bind(&member.param);
    let k = Kernel::new(n);
    let [p, u] = [(); 2].map(|()| k.input(Layout::Element));
    let [rate, decay] = [(); 2].map(|()| k.input(Layout::Scalar));
    let shape_factor = (m as f32 / n as f32).max(1.0).sqrt();
    let fights = (u * p).less_than(0.0);
    let next = p - (rate * shape_factor * u + decay * shape_factor * p * (1.0 - fights));
    let inputs = [param, update, hyper.rate, hyper.decay];
    tape.emit_kernel(&k, l * m, &inputs, &[(next, param, Layout::Element)])
}
