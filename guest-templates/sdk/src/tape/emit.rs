//! The plain layer: slots, and single operations on them.

use super::{Slot, SlotEntry, Storage, Tape};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::rowkernel::{Expr, Kernel, Layout};
use crate::tensor::{Dtype, Tensor, elements};

impl Tape {
    /// A slot for a tensor of the caller's. The tape, and the graph made from
    /// it, keep the tensor alive.
    pub fn bind(&mut self, tensor: &Tensor) -> Slot {
        let same = |e: &SlotEntry| matches!(&e.storage, Storage::Tensor(t) if t.raw() == tensor.raw());
        match self.slots.iter().position(same) {
            Some(at) => Slot(at as u32),
            None => self.add_slot(Storage::Tensor(tensor.clone()), tensor.shape(), tensor.dtype()),
        }
    }

    /// A float32 buffer of the tape's. Its first content is undefined: write
    /// all of it before reading.
    pub fn temporary(&mut self, shape: &[u32]) -> Slot {
        self.temporary_of(Dtype::Float32, shape)
    }

    /// As [`Tape::temporary`], of any element type.
    pub fn temporary_of(&mut self, dtype: Dtype, shape: &[u32]) -> Slot {
        self.add_slot(Storage::Temporary, shape, dtype)
    }

    /// Element type of a slot.
    pub fn slot_dtype(&self, slot: Slot) -> Dtype {
        self.slots[slot.0 as usize].dtype
    }

    /// A window onto a slot, from `offset` elements on.
    pub fn view(&mut self, of: Slot, offset: u64, shape: &[u32]) -> Result<Slot> {
        let entry = &self.slots[of.0 as usize];
        if offset.checked_add(elements(shape)).is_none_or(|end| end > elements(&entry.shape)) {
            return Err(Error::shape(format!(
                "view {shape:?} at {offset} of a slot of shape {:?}",
                entry.shape
            )));
        }
        let dtype = entry.dtype;
        let (root, base) = match entry.storage {
            Storage::View { of, offset } => (of, offset),
            _ => (of, 0),
        };
        Ok(self.add_slot(Storage::View { of: root, offset: base + offset }, shape, dtype))
    }

    fn add_slot(&mut self, storage: Storage, shape: &[u32], dtype: Dtype) -> Slot {
        self.slots.push(SlotEntry { storage, shape: shape.to_vec(), dtype });
        Slot(self.slots.len() as u32 - 1)
    }

    /// The slot whose memory this one lies in: itself, unless it is a view.
    pub(super) fn root(&self, slot: Slot) -> Slot {
        match self.slots[slot.0 as usize].storage {
            Storage::View { of, .. } => of,
            Storage::Tensor(_) | Storage::Temporary => slot,
        }
    }

    /// Shape of a slot.
    pub fn slot_shape(&self, slot: Slot) -> &[u32] {
        &self.slots[slot.0 as usize].shape
    }

    /// Number of elements of a slot.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        elements(self.slot_shape(slot))
    }

    /// Appends any operation of the host interface; its tensors are slots,
    /// by [`Slot::raw`].
    pub fn emit(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// dst = value
    pub fn emit_fill(&mut self, dst: Slot, value: f32) {
        self.emit(Op::Fill(compute::Fill { dst: dst.raw(), value }));
    }

    /// dst = src, cast to the element type of dst; equal element counts.
    pub fn emit_copy(&mut self, src: Slot, dst: Slot) -> Result<()> {
        self.same_len("copy", src, dst)?;
        self.emit(Op::Copy(compute::CopyCast { src: src.raw(), dst: dst.raw() }));
        Ok(())
    }

    /// dst += src; equal element counts.
    pub fn emit_add(&mut self, src: Slot, dst: Slot) -> Result<()> {
        self.same_len("add", src, dst)?;
        let shape = self.slot_shape(dst).to_vec();
        let src = match self.slot_shape(src) == shape {
            true => src,
            false => self.view(src, 0, &shape)?,
        };
        self.emit_columns((src, 0), (dst, 0), shape.last().copied().unwrap_or(1), true);
        Ok(())
    }

    fn same_len(&self, what: &str, a: Slot, b: Slot) -> Result<()> {
        match self.slot_len(a) == self.slot_len(b) {
            true => Ok(()),
            false => Err(Error::shape(format!(
                "{what}: {:?} and {:?} differ in their number of elements",
                self.slot_shape(a),
                self.slot_shape(b)
            ))),
        }
    }

    /// out (=|+=) alpha · op(a) · op(b), over the last two dimensions.
    #[allow(clippy::too_many_arguments)]
    pub fn emit_matmul(
        &mut self,
        (a, trans_a): (Slot, bool),
        (b, trans_b): (Slot, bool),
        out: Slot,
        alpha: f32,
        accumulate: bool,
    ) {
        self.emit(Op::Matmul(compute::Matmul {
            a: a.raw(),
            b: b.raw(),
            out: out.raw(),
            trans_a,
            trans_b,
            alpha,
            accumulate,
        }));
    }

    /// dst (=|+=) scale · Σ src over an axis.
    pub fn emit_reduce(
        &mut self,
        src: Slot,
        dst: Slot,
        axis: compute::ReduceAxis,
        scale: f32,
        accumulate: bool,
    ) {
        self.emit(Op::Reduce(compute::Reduce { src: src.raw(), dst: dst.raw(), axis, scale, accumulate }));
    }

    /// Runs a row kernel over [rows, cols]: `inputs` in the order in which
    /// the kernel declared them, and where each result goes. An output may be
    /// an input (exactly, both `Element`), and must not overlap one otherwise.
    /// `Element` ones are float32 or bfloat16, each on its own; the others are
    /// float32. Results of bfloat16 are rounded to nearest, ties to even.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # use terrarium_sdk::{Slot, rowkernel::{Kernel, Layout}};
    /// # fn f(t: &mut Tape, rows: u32, x: Slot) -> Result<()> {
    /// let k = Kernel::new(64);
    /// let e = k.input(Layout::Element);
    /// let out = t.temporary(&[rows]);
    /// // The norm of each of `rows` rows of 64.
    /// t.emit_kernel(&k, rows, &[x], &[(e.square().row_sum().sqrt(), out, Layout::PerRow)])?;
    /// # Ok(()) }
    /// ```
    pub fn emit_kernel(
        &mut self,
        kernel: &Kernel,
        rows: u32,
        inputs: &[Slot],
        outputs: &[(Expr<'_>, Slot, Layout)],
    ) -> Result<()> {
        if inputs.len() != kernel.layouts().len() {
            return Err(Error::invalid(format!(
                "the kernel has {} inputs, {} slots were given",
                kernel.layouts().len(),
                inputs.len()
            )));
        }
        let ids: Vec<u32> = outputs.iter().map(|(e, _, _)| e.id()).collect();
        let (nodes, numbers) = kernel.lower(&ids);
        let stores = outputs.iter().zip(&numbers);
        self.emit(Op::RowMap(compute::RowMap {
            rows,
            cols: kernel.cols(),
            inputs: operands(inputs, &kernel.layouts()),
            nodes,
            stores: stores
                .map(|(&(_, slot, layout), &node)| compute::Store { node, tensor: slot.raw(), layout })
                .collect(),
        }));
        Ok(())
    }
}

pub(super) fn operands(slots: &[Slot], layouts: &[Layout]) -> Vec<compute::Operand> {
    let pairs = slots.iter().zip(layouts);
    pairs.map(|(slot, &layout)| compute::Operand { tensor: slot.raw(), layout }).collect()
}
