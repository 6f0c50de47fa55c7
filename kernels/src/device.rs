//! The device: tensors, and graphs run on them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::error::fail;
use crate::graph::{Graph, OpTime};
use crate::remote::{Call, Line, Recorded, Remote};
use crate::storage::Memory;
use crate::table::{Span, Table, Tensor};
use crate::validate;
use crate::{DType, Error, Op, TensorId, bf16};

/// How to open the CPU device.
#[derive(Clone, Debug)]
pub struct CpuConfig {
    /// Threads that kernels run on. 0: `RAYON_NUM_THREADS`, or all cores. The
    /// number changes speed, never a bit of any result.
    pub threads: usize,
    /// Most bytes of tensor storage at a time. Scratch memory of kernels is
    /// not counted: at most 48 MiB per thread, or four times the size of an
    /// operation's largest operand where that is more (given back after it).
    pub max_bytes: u64,
    /// Most tensors (views included) at a time.
    pub max_tensors: u32,
}

impl Default for CpuConfig {
    /// All threads, 1 GiB, 65,536 tensors.
    fn default() -> Self {
        CpuConfig { threads: 0, max_bytes: 1 << 30, max_tensors: 1 << 16 }
    }
}

/// How to open a CUDA device.
#[derive(Clone, Debug)]
pub struct CudaConfig {
    /// Number of the card, from 0.
    pub ordinal: u32,
    /// Most bytes of tensor storage at a time. Scratch memory of kernels is
    /// not counted: 256 MiB for cross-entropy, less for everything else.
    pub max_bytes: u64,
    /// Most tensors (views included) at a time.
    pub max_tensors: u32,
}

impl Default for CudaConfig {
    /// Card 0, 8 GiB, 65,536 tensors.
    fn default() -> Self {
        CudaConfig { ordinal: 0, max_bytes: 8 << 30, max_tensors: 1 << 16 }
    }
}

/// What a device holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceUsage {
    /// Bytes of tensor storage.
    pub bytes: u64,
    /// The most that [`DeviceUsage::bytes`] has been since the last reset.
    pub peak_bytes: u64,
    /// Live tensors, views included.
    pub tensors: u32,
}

/// A compute device of one tenant: its tensors, quota and threads.
pub struct Device {
    /// Tells the graphs of this device from those of others.
    identity: u64,
    table: Table,
    backend: Backend,
}

enum Backend {
    Cpu(Cpu),
    Cuda(Box<Cuda>),
    Remote(Line),
}

static NEXT_IDENTITY: AtomicU64 = AtomicU64::new(1);

impl Device {
    /// Opens the CPU device. Its threads exist when this returns, so that a
    /// process can lock itself down afterwards.
    ///
    /// # Errors
    /// `InvalidArgument` when the threads cannot be started.
    pub fn cpu(config: CpuConfig) -> Result<Device, Error> {
        Ok(Device {
            identity: NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed),
            table: Table::new(config.max_bytes, config.max_tensors, Memory::Host),
            backend: Backend::Cpu(Cpu::new(config.threads)?),
        })
    }

    /// Opens a CUDA device. The driver is looked for now, so that a build
    /// without one runs everywhere.
    ///
    /// # Errors
    /// `DeviceLost` where there is no driver, no such card, or one that is
    /// older than compute capability 8.0.
    pub fn cuda(config: CudaConfig) -> Result<Device, Error> {
        let cuda = Cuda::new(config.ordinal)?;
        let memory = Memory::Card(cuda.driver().clone());
        Ok(Device {
            identity: NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed),
            table: Table::new(config.max_bytes, config.max_tensors, memory),
            backend: Backend::Cuda(Box::new(cuda)),
        })
    }

    /// A device that another process owns. `max_bytes` and `max_tensors` are
    /// counted here as there.
    pub fn remote(way: Box<dyn Remote>, max_bytes: u64, max_tensors: u32) -> Device {
        Device {
            identity: NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed),
            table: Table::new(max_bytes, max_tensors, Memory::Elsewhere),
            backend: Backend::Remote(Line::new(way)),
        }
    }

    /// Why the device cannot be used any more, where another process owns it
    /// and it is lost.
    pub fn lost(&self) -> Option<String> {
        self.line().and_then(Line::lost)
    }

    fn line(&self) -> Option<&Line> {
        match &self.backend {
            Backend::Remote(line) => Some(line),
            Backend::Cpu(_) | Backend::Cuda(_) => None,
        }
    }

    /// What has to be equal for results to be equal to the bit, besides the
    /// build.
    pub fn kind(&self) -> String {
        match &self.backend {
            Backend::Cpu(_) => format!("cpu {}", crate::cpu_kind()),
            Backend::Cuda(cuda) => format!("cuda {}", cuda.kind()),
            Backend::Remote(line) => line.kind(),
        }
    }

    /// A zeroed tensor of rank 1 to 4.
    ///
    /// # Errors
    /// `InvalidArgument` (rank, a zero dimension, overflow), `OutOfMemory`,
    /// `Quota`.
    pub fn alloc(&mut self, dtype: DType, shape: &[u32]) -> Result<TensorId, Error> {
        let id = self.table.alloc(dtype, shape)?;
        self.told(id, || Call::Alloc { dtype, shape: shape.to_vec() })
    }

    /// A window onto the same storage, from element `offset` of `of` on.
    ///
    /// # Errors
    /// `BadHandle`, `InvalidArgument` (leaves the tensor), `Quota`.
    pub fn view(&mut self, of: TensorId, offset: u64, shape: &[u32]) -> Result<TensorId, Error> {
        let id = self.table.view(of, offset, shape)?;
        self.told(id, || Call::View { of, offset, shape: shape.to_vec() })
    }

    /// Has the owner make the same handle, or takes it back here.
    fn told(&mut self, id: TensorId, call: impl FnOnce() -> Call) -> Result<TensorId, Error> {
        if let Some(line) = self.line()
            && let Err(error) = line.expect(&call(), id)
        {
            // Both sides have to count alike, and the owner gave no handle.
            self.table.take_back(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Gives a handle back; the storage goes with its last handle.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn free(&mut self, id: TensorId) -> Result<(), Error> {
        self.table.free(id)?;
        match self.line() {
            Some(line) => line.call(&Call::Free { id }).map(drop),
            None => Ok(()),
        }
    }

    /// Dimensions, outermost first.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn shape(&self, id: TensorId) -> Result<&[u32], Error> {
        Ok(&self.table.get(id)?.shape)
    }

    /// Element type.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn dtype(&self, id: TensorId) -> Result<DType, Error> {
        Ok(self.table.get(id)?.dtype)
    }

    /// Writes elements `offset..offset + values.len()` of an `F32` tensor, or
    /// of a `Bf16` one, rounded to the nearest, ties to even.
    ///
    /// # Errors
    /// `BadHandle`, `ShapeMismatch` (element type), `InvalidArgument` (range).
    pub fn upload_f32(&mut self, id: TensorId, offset: u64, values: &[f32]) -> Result<(), Error> {
        if self.table.get(id)?.dtype == DType::Bf16 {
            let span = self.window(id, DType::Bf16, offset, values.len())?;
            if let Some(line) = self.line() {
                return line.upload(id, false, offset, &floats(values));
            }
            if let Backend::Cuda(cuda) = &self.backend {
                let mut bits = vec![0; values.len()];
                bf16::narrow(values, &mut bits);
                return cuda.driver().upload(self.table.address(span) as u64, &bits);
            }
            // SAFETY: `&mut self`, so nothing else refers to tensor memory.
            bf16::narrow(values, unsafe { self.table.bf16_mut(span) });
            return Ok(());
        }
        let span = self.window(id, DType::F32, offset, values.len())?;
        if let Some(line) = self.line() {
            return line.upload(id, false, offset, &floats(values));
        }
        if let Backend::Cuda(cuda) = &self.backend {
            return cuda.driver().upload(self.table.address(span) as u64, values);
        }
        // SAFETY: `&mut self`, so nothing else refers to tensor memory.
        unsafe { self.table.f32_mut(span) }.copy_from_slice(values);
        Ok(())
    }

    /// As [`Device::upload_f32`], for `I32` tensors.
    ///
    /// # Errors
    /// As [`Device::upload_f32`].
    pub fn upload_i32(&mut self, id: TensorId, offset: u64, values: &[i32]) -> Result<(), Error> {
        let span = self.window(id, DType::I32, offset, values.len())?;
        if let Some(line) = self.line() {
            let words: Vec<u32> = values.iter().map(|&value| value as u32).collect();
            return line.upload(id, true, offset, &words);
        }
        if let Backend::Cuda(cuda) = &self.backend {
            return cuda.driver().upload(self.table.address(span) as u64, values);
        }
        // SAFETY: `&mut self`, so nothing else refers to tensor memory.
        let bits = unsafe { self.table.bits_mut(span) };
        for (bit, value) in bits.iter_mut().zip(values) {
            *bit = *value as u32;
        }
        Ok(())
    }

    /// Reads elements `offset..offset + out.len()` of an `F32` or `Bf16`
    /// tensor.
    ///
    /// # Errors
    /// As [`Device::upload_f32`].
    pub fn download_f32(&self, id: TensorId, offset: u64, out: &mut [f32]) -> Result<(), Error> {
        if self.table.get(id)?.dtype == DType::Bf16 {
            let span = self.window(id, DType::Bf16, offset, out.len())?;
            if let Some(line) = self.line() {
                return read(line, id, false, offset, out, f32::from_bits);
            }
            if let Backend::Cuda(cuda) = &self.backend {
                let mut bits = vec![0; out.len()];
                cuda.driver().download(&mut bits, self.table.address(span) as u64)?;
                bf16::widen(&bits, out);
                return Ok(());
            }
            // SAFETY: `&self`, and tensor memory is only written under `&mut`.
            bf16::widen(unsafe { self.table.bf16(span) }, out);
            return Ok(());
        }
        let span = self.window(id, DType::F32, offset, out.len())?;
        if let Some(line) = self.line() {
            return read(line, id, false, offset, out, f32::from_bits);
        }
        if let Backend::Cuda(cuda) = &self.backend {
            return cuda.driver().download(out, self.table.address(span) as u64);
        }
        // SAFETY: `&self`, and tensor memory is only written under `&mut`.
        out.copy_from_slice(unsafe { self.table.f32(span) });
        Ok(())
    }

    /// As [`Device::download_f32`], for `I32` tensors.
    ///
    /// # Errors
    /// As [`Device::upload_f32`].
    pub fn download_i32(&self, id: TensorId, offset: u64, out: &mut [i32]) -> Result<(), Error> {
        let span = self.window(id, DType::I32, offset, out.len())?;
        if let Some(line) = self.line() {
            return read(line, id, true, offset, out, |word| word as i32);
        }
        if let Backend::Cuda(cuda) = &self.backend {
            return cuda.driver().download(out, self.table.address(span) as u64);
        }
        // SAFETY: `&self`, and tensor memory is only written under `&mut`.
        out.copy_from_slice(unsafe { self.table.i32(span) });
        Ok(())
    }

    fn window(&self, id: TensorId, dtype: DType, offset: u64, count: usize) -> Result<Span, Error> {
        let Tensor { dtype: actual, span, .. } = self.table.get(id)?;
        if *actual != dtype {
            return fail!(ShapeMismatch, "the tensor holds {actual:?}, not {dtype:?}");
        }
        let end = offset.checked_add(count as u64);
        if end.is_none_or(|end| end > span.len as u64) {
            return fail!(
                InvalidArgument,
                "{count} elements at {offset} leave the tensor of {} elements",
                span.len
            );
        }
        // `offset` is at most `span.len` here, so it fits.
        Ok(Span { offset: span.offset + offset as usize, len: count, ..*span })
    }

    /// Validates and costs a list of operations: the only way to a [`Graph`].
    ///
    /// # Errors
    /// Whatever is wrong with the first bad operation, with its position.
    pub fn prepare(&self, ops: Vec<Op>) -> Result<Graph, Error> {
        let mut graph = validate::graph(&self.table, self.identity, &ops)?;
        if let Some(line) = self.line() {
            let number = line.call(&Call::Record { ops })?;
            graph.recorded = Some(Recorded { line: line.clone(), graph: number });
        }
        Ok(graph)
    }

    /// Runs a graph, in order.
    ///
    /// # Errors
    /// `BadHandle` when the graph belongs to another device or one of its
    /// tensors was freed: nothing ran. `IndexRange` when an index tensor held
    /// a value out of range: everything ran, with the index clamped.
    pub fn run(&mut self, graph: &Graph) -> Result<(), Error> {
        self.execute(graph, 0..graph.steps.len(), None)
    }

    /// As [`Device::run`], with the time that each kind of operation took,
    /// the longest first. Reading the clock costs some 50 ns an operation. On
    /// a card, whose operations run behind the host's back, and in another
    /// process, the list is empty.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn run_timed(&mut self, graph: &Graph) -> Result<Vec<OpTime>, Error> {
        let mut times = Vec::with_capacity(graph.ops());
        self.execute(graph, 0..graph.steps.len(), Some(&mut times))?;
        Ok(graph.times(&times))
    }

    /// Runs some of a graph's operations, so that others can have the device
    /// in between. A device of another process runs all of it.
    ///
    /// # Errors
    /// As [`Device::run`], and `InvalidArgument` for operations that the graph
    /// does not have.
    pub fn run_part(&mut self, graph: &Graph, part: Range<usize>) -> Result<(), Error> {
        self.execute(graph, part, None)
    }

    fn execute(
        &mut self,
        graph: &Graph,
        part: Range<usize>,
        times: Option<&mut Vec<Duration>>,
    ) -> Result<(), Error> {
        if part.start > part.end || part.end > graph.steps.len() {
            return fail!(InvalidArgument, "{part:?} are not operations of a graph of {}", graph.steps.len());
        }
        if graph.device != self.identity {
            return fail!(BadHandle, "the graph was prepared on another device");
        }
        for &id in &graph.handles {
            self.table.get(id)?;
        }
        if let (Some(line), Some(recorded)) = (self.line(), &graph.recorded) {
            return line.call(&Call::Run { graph: recorded.graph }).map(drop);
        }
        if self.table.has_secrets() {
            for flow in &graph.flows[part.clone()] {
                if flow.reads.iter().any(|&storage| self.table.is_secret(storage)) {
                    flow.writes.iter().for_each(|&storage| self.table.mark_secret(storage));
                }
            }
        }
        match &mut self.backend {
            Backend::Cpu(cpu) => cpu.run(&self.table, graph, part, times),
            Backend::Cuda(cuda) => cuda.run(&self.table, graph, part),
            // A graph of it is recorded there, which was seen above.
            Backend::Remote(_) => fail!(BadHandle, "the graph was not recorded with the device's owner"),
        }
    }

    /// Declares that a tensor's storage holds a secret. It spreads: whatever
    /// an operation writes that reads something secret is secret too (whole
    /// storages, views included), until [`Device::forget_secrets`].
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn mark_secret(&mut self, id: TensorId) -> Result<(), Error> {
        let storage = self.table.get(id)?.span.storage;
        self.table.mark_secret(storage);
        match self.line() {
            Some(line) => line.call(&Call::MarkSecret { id }).map(drop),
            None => Ok(()),
        }
    }

    /// Zeroes every secret storage, so that nothing remains on the device that
    /// was computed from a secret. Handles and graphs stay valid.
    pub fn forget_secrets(&mut self) {
        self.table.forget_secrets();
        if let Some(line) = self.line() {
            // A failure loses the device, and every later call says so.
            let _ = line.call(&Call::ForgetSecrets);
        }
    }

    /// What the device holds now.
    pub fn usage(&self) -> DeviceUsage {
        DeviceUsage {
            bytes: self.table.bytes(),
            peak_bytes: self.table.peak_bytes(),
            tensors: self.table.live(),
        }
    }

    /// Frees every tensor, for a fresh evaluation. Handles are numbered from
    /// the beginning again: whoever sees one must not learn from it how many
    /// there were before, nor do anything else because of it. Graphs that were
    /// prepared before this are refused.
    pub fn reset(&mut self) {
        self.identity = NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed);
        self.table.clear();
        if let Some(line) = self.line() {
            // As in `forget_secrets`.
            let _ = line.call(&Call::Reset);
        }
    }
}

fn floats(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn read<T>(
    line: &Line,
    id: TensorId,
    ints: bool,
    offset: u64,
    out: &mut [T],
    of: impl Fn(u32) -> T,
) -> Result<(), Error> {
    let mut words = vec![0; out.len()];
    line.download(id, ints, offset, &mut words)?;
    out.iter_mut().zip(words).for_each(|(value, word)| *value = of(word));
    Ok(())
}
