//! What the fused operations are made of.

use super::{rms_norm, rms_norm_backward, rope};
use crate::op::Activation;

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The inner function of GELU's tanh form, and its derivative.
fn gelu_inner(z: f64) -> (f64, f64) {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    (c * (z + 0.044715 * z * z * z), c * (1.0 + 3.0 * 0.044715 * z * z))
}

/// act(z).
pub fn activation(act: Activation, z: f64) -> f64 {
    match act {
        Activation::Identity => z,
        Activation::Relu => z.max(0.0),
        Activation::ReluSquared => z.max(0.0) * z.max(0.0),
        Activation::Gelu => 0.5 * z * (1.0 + gelu_inner(z).0.tanh()),
        Activation::Silu => z * sigmoid(z),
    }
}

/// act'(z); 0 at the kink of a ReLU.
pub fn activation_derivative(act: Activation, z: f64) -> f64 {
    match act {
        Activation::Identity => 1.0,
        Activation::Relu => f64::from(z > 0.0),
        Activation::ReluSquared => 2.0 * z.max(0.0),
        Activation::Gelu => {
            let (inner, slope) = gelu_inner(z);
            let t = inner.tanh();
            0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * slope
        }
        Activation::Silu => sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z))),
    }
}

/// rms_norm(rope(x)) of each head: (out, inv_rms \[B,T,H\]).
pub fn rope_norm(x: &[f64], shape: [usize; 4], base: f64, eps: f64) -> (Vec<f64>, Vec<f64>) {
    rms_norm(&rope(x, shape, base, false), shape[3], eps)
}

/// The chain rule through [`rope_norm`].
pub fn rope_norm_backward(x: &[f64], dout: &[f64], shape: [usize; 4], base: f64, eps: f64) -> Vec<f64> {
    let rotated = rope(x, shape, base, false);
    rope(&rms_norm_backward(&rotated, dout, shape[3], eps), shape, base, true)
}
