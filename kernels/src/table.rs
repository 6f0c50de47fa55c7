//! The tensor table: handles, shapes, shared storage and the memory quota.

use crate::error::fail;
use crate::storage::{Memory, Storage};
use crate::{DType, Error, TensorId};

/// Highest rank of a tensor.
pub const MAX_RANK: usize = 4;

/// Where a tensor's elements lie: a range of one storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub storage: u32,
    pub offset: usize,
    pub len: usize,
}

impl Span {
    /// Whether two ranges share an element.
    pub fn overlaps(&self, other: &Span) -> bool {
        // A span lies inside an allocation, so its end fits in a usize.
        self.storage == other.storage
            && self.offset < other.offset.saturating_add(other.len)
            && other.offset < self.offset.saturating_add(self.len)
    }
}

/// A live tensor: what a handle stands for. It never changes while the handle
/// is live, which is why a validated graph stays valid.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub dtype: DType,
    pub shape: Vec<u32>,
    pub span: Span,
}

impl Tensor {
    /// Last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().map_or(1, |&d| d as usize)
    }
    /// Product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.span.len / self.cols().max(1)
    }
}

struct Slot {
    /// Of the tensor that is here, or of the next one. Odd and even mean
    /// nothing; a slot whose generations are used up is never used again.
    generation: u32,
    tensor: Option<Tensor>,
}

struct Shared {
    storage: Storage,
    references: u32,
    /// Holds, or may hold, something computed from a secret tensor.
    secret: bool,
}

/// All tensors of a device.
pub(crate) struct Table {
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    storages: Vec<Option<Shared>>,
    free_storages: Vec<u32>,
    bytes: u64,
    peak_bytes: u64,
    live: u32,
    max_bytes: u64,
    max_tensors: u32,
    memory: Memory,
}

impl Table {
    pub fn new(max_bytes: u64, max_tensors: u32, memory: Memory) -> Table {
        Table {
            slots: Vec::new(),
            free_slots: Vec::new(),
            storages: Vec::new(),
            free_storages: Vec::new(),
            bytes: 0,
            peak_bytes: 0,
            live: 0,
            max_bytes,
            max_tensors,
            memory,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
    pub fn live(&self) -> u32 {
        self.live
    }

    fn elements(shape: &[u32]) -> Result<u64, Error> {
        if shape.is_empty() || shape.len() > MAX_RANK {
            return fail!(InvalidArgument, "rank {} is not in 1..=4", shape.len());
        }
        let mut elements = 1u64;
        for &dim in shape {
            if dim == 0 {
                return fail!(InvalidArgument, "shape {shape:?} has a dimension of 0");
            }
            elements = match elements.checked_mul(u64::from(dim)) {
                Some(n) => n,
                None => return fail!(InvalidArgument, "shape {shape:?} overflows 64 bits"),
            };
        }
        Ok(elements)
    }

    pub fn alloc(&mut self, dtype: DType, shape: &[u32]) -> Result<TensorId, Error> {
        let elements = Self::elements(shape)?;
        self.check_count()?;
        let bytes = elements.saturating_mul(dtype.bytes());
        let free = self.max_bytes.saturating_sub(self.bytes);
        let (true, Ok(len)) = (bytes <= free, usize::try_from(elements)) else {
            return fail!(
                OutOfMemory,
                "{bytes} bytes asked for shape {shape:?}, {free} of {} left; free tensors or use smaller ones",
                self.max_bytes
            );
        };
        let Some(storage) = Storage::zeroed(len, dtype.bytes() as usize, &self.memory) else {
            return fail!(OutOfMemory, "the device has no {bytes} bytes for shape {shape:?}");
        };
        self.bytes += bytes;
        self.peak_bytes = self.peak_bytes.max(self.bytes);
        let shared = Shared { storage, references: 0, secret: false };
        let index = match self.free_storages.pop() {
            Some(index) => {
                self.storages[index as usize] = Some(shared);
                index
            }
            None => {
                self.storages.push(Some(shared));
                (self.storages.len() - 1) as u32
            }
        };
        let span = Span { storage: index, offset: 0, len };
        Ok(self.insert(Tensor { dtype, shape: shape.to_vec(), span }))
    }

    pub fn view(&mut self, of: TensorId, offset: u64, shape: &[u32]) -> Result<TensorId, Error> {
        let elements = Self::elements(shape)?;
        let parent = self.get(of)?;
        let (dtype, base) = (parent.dtype, parent.span);
        let end = offset.checked_add(elements);
        if end.is_none_or(|end| end > base.len as u64) {
            return fail!(
                InvalidArgument,
                "a view of {elements} elements at {offset} leaves its tensor of {} elements",
                base.len
            );
        }
        self.check_count()?;
        // Both are below `base.len`, so they fit.
        let span =
            Span { storage: base.storage, offset: base.offset + offset as usize, len: elements as usize };
        Ok(self.insert(Tensor { dtype, shape: shape.to_vec(), span }))
    }

    fn check_count(&self) -> Result<(), Error> {
        if self.live >= self.max_tensors {
            return fail!(Quota, "{} tensors are live, the most allowed; free some", self.live);
        }
        Ok(())
    }

    fn insert(&mut self, tensor: Tensor) -> TensorId {
        if let Some(shared) = &mut self.storages[tensor.span.storage as usize] {
            shared.references += 1;
        }
        self.live += 1;
        let slot = match self.free_slots.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { generation: 1, tensor: None });
                (self.slots.len() - 1) as u32
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.tensor = Some(tensor);
        TensorId::from_bits((u64::from(entry.generation) << 32) | u64::from(slot))
    }

    pub fn get(&self, id: TensorId) -> Result<&Tensor, Error> {
        let (slot, generation) = (id.to_bits() as u32, (id.to_bits() >> 32) as u32);
        match self.slots.get(slot as usize) {
            Some(Slot { generation: g, tensor: Some(tensor) }) if *g == generation => Ok(tensor),
            _ => fail!(BadHandle, "{:#x} is no live tensor; it was freed or never allocated", id.to_bits()),
        }
    }

    pub fn free(&mut self, id: TensorId) -> Result<(), Error> {
        self.get(id)?;
        self.release(id.to_bits() as u32);
        Ok(())
    }

    /// Undoes the making of a handle that was just given out: the next one
    /// gets the same number.
    pub fn take_back(&mut self, id: TensorId) {
        if self.get(id).is_err() {
            return;
        }
        let slot = id.to_bits() as u32;
        self.release(slot);
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            entry.generation = (id.to_bits() >> 32) as u32;
        }
    }

    fn release(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(tensor) = entry.tensor.take() else {
            return;
        };
        // A slot whose generation would repeat is retired, so that an old
        // handle can never name a new tensor.
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            self.free_slots.push(slot);
        }
        self.live -= 1;
        let index = tensor.span.storage;
        let home = &mut self.storages[index as usize];
        if let Some(shared) = home {
            shared.references -= 1;
            if shared.references == 0 {
                self.bytes -= (shared.storage.len() * shared.storage.width()) as u64;
                *home = None;
                self.free_storages.push(index);
            }
        }
    }

    /// Frees every tensor and starts over, as if nothing had ever been here.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_bytes, self.max_tensors, self.memory.clone());
    }

    /// Whether any storage is secret.
    pub fn has_secrets(&self) -> bool {
        self.storages.iter().flatten().any(|shared| shared.secret)
    }

    pub fn is_secret(&self, storage: u32) -> bool {
        matches!(self.storages.get(storage as usize), Some(Some(shared)) if shared.secret)
    }

    pub fn mark_secret(&mut self, storage: u32) {
        if let Some(Some(shared)) = self.storages.get_mut(storage as usize) {
            shared.secret = true;
        }
    }

    /// Zeroes every secret storage; it is not secret any more.
    pub fn forget_secrets(&mut self) {
        for shared in self.storages.iter_mut().flatten().filter(|shared| shared.secret) {
            shared.storage.clear();
            shared.secret = false;
        }
    }

    /// Address of a span of elements of `width` bytes.
    fn base(&self, span: Span, width: usize) -> *mut u8 {
        match self.storages.get(span.storage as usize) {
            Some(Some(shared))
                if span.offset + span.len <= shared.storage.len() && shared.storage.width() == width =>
            {
                // Wrapping, since an address on a card has no provenance; the
                // range lies inside the allocation (checked).
                shared.storage.base().wrapping_add(span.offset * width)
            }
            // Spans are only made by this table and are dropped with their
            // handles, and the validator checks element types, so this is a
            // bug of this crate.
            _ => panic!("span {span:?} has no storage of {width}-byte elements"),
        }
    }

    /// Address of a span's first element, whatever its width: that of a card's
    /// memory means nothing here.
    pub fn address(&self, span: Span) -> usize {
        let width = match self.storages.get(span.storage as usize) {
            Some(Some(shared)) => shared.storage.width(),
            _ => 0,
        };
        self.base(span, width).addr()
    }

    /// Address of a span's first element, for kernels that split one output
    /// between tasks.
    pub fn f32_ptr(&self, span: Span) -> *mut f32 {
        self.base(span, 4).cast()
    }

    /// As [`Table::f32_ptr`], of bfloat16 numbers.
    pub fn bf16_ptr(&self, span: Span) -> *mut u16 {
        self.base(span, 2).cast()
    }

    /// The elements of a span.
    ///
    /// # Safety
    /// No `&mut` to an overlapping range may be alive. Inside a graph that is
    /// the validator's alias proof; outside, `&self` of the device.
    pub unsafe fn f32(&self, span: Span) -> &[f32] {
        // SAFETY: in bounds by `base`, any bits are a valid f32; aliasing is
        // the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base(span, 4).cast(), span.len) }
    }

    /// As [`Table::f32`], for indices.
    ///
    /// # Safety
    /// As [`Table::f32`].
    pub unsafe fn i32(&self, span: Span) -> &[i32] {
        // SAFETY: as `f32`.
        unsafe { std::slice::from_raw_parts(self.base(span, 4).cast(), span.len) }
    }

    /// As [`Table::f32`], as bits.
    ///
    /// # Safety
    /// As [`Table::f32`].
    pub unsafe fn bits(&self, span: Span) -> &[u32] {
        // SAFETY: as `f32`.
        unsafe { std::slice::from_raw_parts(self.base(span, 4).cast(), span.len) }
    }

    /// The elements of a span, to write.
    ///
    /// # Safety
    /// No other reference to an overlapping range may be alive. Inside a
    /// graph that is the validator's alias proof (the table itself is held by
    /// the one run); outside, `&mut self` of the device.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn f32_mut(&self, span: Span) -> &mut [f32] {
        // SAFETY: as `f32`, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base(span, 4).cast(), span.len) }
    }

    /// As [`Table::f32_mut`], as bits.
    ///
    /// # Safety
    /// As [`Table::f32_mut`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bits_mut(&self, span: Span) -> &mut [u32] {
        // SAFETY: as `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.base(span, 4).cast(), span.len) }
    }

    /// As [`Table::f32`], as the bits of bfloat16 numbers.
    ///
    /// # Safety
    /// As [`Table::f32`].
    pub unsafe fn bf16(&self, span: Span) -> &[u16] {
        // SAFETY: as `f32`.
        unsafe { std::slice::from_raw_parts(self.base(span, 2).cast(), span.len) }
    }

    /// As [`Table::f32_mut`], as the bits of bfloat16 numbers.
    ///
    /// # Safety
    /// As [`Table::f32_mut`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bf16_mut(&self, span: Span) -> &mut [u16] {
        // SAFETY: as `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.base(span, 2).cast(), span.len) }
    }

    /// As [`Table::f32_mut`], for indices.
    ///
    /// # Safety
    /// As [`Table::f32_mut`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn i32_mut(&self, span: Span) -> &mut [i32] {
        // SAFETY: as `f32_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.base(span, 4).cast(), span.len) }
    }
}
