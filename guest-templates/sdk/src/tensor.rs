//! Tensors on the device, by handle.

use std::rc::Rc;

use crate::bindings::trainer::terrarium::guest::compute;
use crate::error::{Error, Result};
use crate::host;

pub use compute::{Distribution, Dtype};

/// A dense row-major tensor of rank 1 to 4 on the device. Clones share the
/// handle; the last one frees it.
/// ```no_run
/// # use terrarium_sdk::{Result, Tensor};
/// # fn f() -> Result<()> {
/// let bank = Tensor::full(&[3, 64, 64], 0.5)?;
/// let second = bank.row(1)?; // [64, 64], the same storage
/// second.fill(0.0)?;
/// let values = bank.to_vec()?; // 12,288 numbers, row by row
/// # let _ = values; Ok(()) }
/// ```
///
/// Uploads, downloads and copies cost the bytes that they move; views, clones
/// and shapes cost nothing. Memory counts against `device_bytes`.
#[derive(Clone)]
pub struct Tensor {
    inner: Rc<Handle>,
}

struct Handle {
    raw: u64,
    shape: Vec<u32>,
    dtype: Dtype,
    /// False for tensors that the host lent for one call.
    owned: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.owned {
            // A refusal here means that the host already dropped everything.
            let _ = host::free(self.raw);
        }
    }
}

/// Number of elements of a shape.
pub fn elements(shape: &[u32]) -> u64 {
    shape.iter().map(|&d| u64::from(d)).product()
}

impl Tensor {
    /// A new tensor of zeros, float32.
    pub fn zeros(shape: &[u32]) -> Result<Self> {
        Self::alloc(Dtype::Float32, shape)
    }

    /// A new tensor of zeros, int32 (tokens, indices).
    pub fn zeros_int(shape: &[u32]) -> Result<Self> {
        Self::alloc(Dtype::Int32, shape)
    }

    /// A new tensor of zeros, bfloat16: half the memory, 8 bits of precision.
    /// Products with it are summed in float32.
    pub fn zeros_half(shape: &[u32]) -> Result<Self> {
        Self::alloc(Dtype::Bfloat16, shape)
    }

    /// A new tensor of zeros of an element type.
    pub fn alloc(dtype: Dtype, shape: &[u32]) -> Result<Self> {
        let raw = host::alloc(dtype, shape)?;
        Ok(Self::from_raw(raw, shape, dtype, true))
    }

    fn from_raw(raw: u64, shape: &[u32], dtype: Dtype, owned: bool) -> Self {
        Self { inner: Rc::new(Handle { raw, shape: shape.to_vec(), dtype, owned }) }
    }

    /// A tensor that the host lent (the arguments of `forward`); it is not
    /// freed when it is dropped.
    pub fn lent(raw: u64, dtype: Dtype) -> Result<Self> {
        let shape = host::shape(raw)?;
        Ok(Self::from_raw(raw, &shape, dtype, false))
    }

    /// A new tensor with these values, row-major.
    pub fn from_floats(shape: &[u32], values: &[f32]) -> Result<Self> {
        let tensor = Self::zeros(shape)?;
        tensor.upload(values)?;
        Ok(tensor)
    }

    /// A new tensor of one repeated value.
    pub fn full(shape: &[u32], value: f32) -> Result<Self> {
        let tensor = Self::zeros(shape)?;
        tensor.fill(value)?;
        Ok(tensor)
    }

    /// Sets every element.
    pub fn fill(&self, value: f32) -> Result<()> {
        host::submit(&[compute::Op::Fill(compute::Fill { dst: self.raw(), value })])
    }

    /// Draws every element: N(0, scale²) or U(-scale, scale), from Philox
    /// keyed by `seed`; give each tensor a `stream` of its own.
    pub fn randomize(&self, distribution: Distribution, scale: f32, seed: u64, stream: u64) -> Result<()> {
        host::submit(&[compute::Op::Random(compute::Random {
            dst: self.raw(),
            seed,
            stream,
            distribution,
            scale,
        })])
    }

    /// A window onto the same storage, from `offset` elements on.
    pub fn view(&self, offset: u64, shape: &[u32]) -> Result<Self> {
        let raw = host::view(self.raw(), offset, shape)?;
        Ok(Self::from_raw(raw, shape, self.dtype(), true))
    }

    /// Element `index` of the first dimension, as a view: `[L,m,n]` → `[m,n]`.
    pub fn row(&self, index: u32) -> Result<Self> {
        let shape = self.shape();
        if shape.len() < 2 || index >= shape[0] {
            return Err(Error::shape(format!("row {index} of a tensor of shape {shape:?}")));
        }
        let rest = &shape[1..];
        self.view(u64::from(index) * elements(rest), rest)
    }

    /// Writes all elements.
    pub fn upload(&self, values: &[f32]) -> Result<()> {
        host::upload_floats(self.raw(), 0, values)
    }

    /// Writes all elements of an int32 tensor.
    pub fn upload_ints(&self, values: &[i32]) -> Result<()> {
        host::upload_ints(self.raw(), 0, values)
    }

    /// Reads `count` elements from the start. Refused during `forward`.
    pub fn download(&self, count: u32) -> Result<Vec<f32>> {
        host::download_floats(self.raw(), 0, count)
    }

    /// Reads the first element, such as a loss. Refused during `forward`.
    pub fn scalar(&self) -> Result<f32> {
        let values = self.download(1)?;
        values.first().copied().ok_or_else(|| Error::invalid("the host sent no value"))
    }

    /// Reads a whole float tensor. Refused during `forward`.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        self.download(u32::try_from(self.len()).map_err(|_| Error::invalid("tensor too large to download"))?)
    }

    /// Reads `count` elements of an int32 tensor from the start. Refused
    /// during `forward`.
    pub fn download_ints(&self, count: u32) -> Result<Vec<i32>> {
        host::download_ints(self.raw(), 0, count)
    }

    /// Copies every element of `src`, which has as many, cast to this element
    /// type.
    pub fn copy_from(&self, src: &Tensor) -> Result<()> {
        host::submit(&[compute::Op::Copy(compute::CopyCast { src: src.raw(), dst: self.raw() })])
    }

    /// Its shape.
    pub fn shape(&self) -> &[u32] {
        &self.inner.shape
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.inner.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> u64 {
        elements(self.shape())
    }

    /// Never: no dimension is 0. Here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handle, as the host interface names it.
    pub fn raw(&self) -> u64 {
        self.inner.raw
    }
}
