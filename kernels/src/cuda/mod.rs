//! The CUDA backend: a validated graph becomes launches of the kernels in
//! `kernels/cuda/*.cu`.
//!
//! Everything runs on one stream, in the order of the graph. The shape of a
//! launch follows from the shapes of the operands alone, no kernel sums floats
//! with atomics, and so the same graph gives the same bits on the same card.
//! Index errors are counted on the card and reported after the run.

mod arguments;
mod attention;
mod capture;
mod cross_entropy;
mod cross_entropy_bf16;
mod driver;
mod experts;
mod launch;
mod product;
mod ptx;
mod row_map;
mod tensor_core;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use self::arguments::Faults;
pub(crate) use self::capture::Captured;
pub(crate) use self::driver::{Address, Driver};
use self::driver::{Kernel, Module, Shape};
use crate::Error;
use crate::error::fail;
use crate::graph::Graph;
use crate::table::{Span, Table};

/// Threads of a block; the kernels are compiled for it.
const THREADS: u64 = 256;
/// Warps of a block.
const WARPS: u64 = THREADS / 32;

/// One card, with memory that kernels need besides tensors.
pub(crate) struct Cuda {
    driver: Arc<Driver>,
    kernels: HashMap<&'static str, Kernel>,
    faults: Buffer,
    scratch: Option<Buffer>,
    /// Cosines and sines by (time, dim, bits of the base), the last few.
    angles: Vec<((usize, usize, u32), Buffer)>,
    /// Compiled row kernels, and whether they take whole rows, by what their
    /// text depends on; `None` for those that are interpreted.
    row_kernels: HashMap<Vec<u32>, Option<(Module, bool)>>,
    /// Goes up when memory of the backend's own is given back: captured graphs
    /// know its addresses.
    generation: u64,
}

/// Memory of the backend's own, freed when dropped.
struct Buffer {
    driver: Arc<Driver>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    fn new(driver: &Arc<Driver>, bytes: usize) -> Result<Buffer, Error> {
        match driver.allocate(bytes.max(4)) {
            Some(address) => Ok(Buffer { driver: driver.clone(), address, bytes }),
            None => fail!(OutOfMemory, "the card has no {bytes} bytes of scratch memory; use smaller shapes"),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

impl Cuda {
    /// Opens card number `ordinal`.
    pub fn new(ordinal: u32) -> Result<Cuda, Error> {
        let driver = Arc::new(Driver::open(ordinal)?);
        let faults = Buffer::new(&driver, size_of::<Faults>())?;
        Ok(Cuda {
            driver,
            kernels: HashMap::new(),
            faults,
            scratch: None,
            angles: Vec::new(),
            row_kernels: HashMap::new(),
            generation: 0,
        })
    }

    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Name and architecture of the card: part of the kind of device.
    pub fn kind(&self) -> String {
        let card = &self.driver.card;
        format!("{} sm_{}{}", card.name, card.capability.0, card.capability.1)
    }

    /// Runs these operations of a graph to their end.
    pub fn run(&mut self, table: &Table, graph: &Graph, part: Range<usize>) -> Result<(), Error> {
        self.driver.upload(self.faults.address, &[Faults { first: u32::MAX, count: 0 }])?;
        if part == (0..graph.steps.len()) && self.driver.card.captures {
            capture::run(self, table, graph)?;
        } else {
            for (index, step) in graph.steps.iter().enumerate().take(part.end).skip(part.start) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                launch::step(self, table, step, index).map_err(|error| error.at(index, step.name()))?;
            }
        }
        let mut faults = [Faults { first: 0, count: 0 }];
        self.driver.download(&mut faults, self.faults.address)?;
        let [Faults { first, count }] = faults;
        match graph.steps.get(first as usize) {
            None => Ok(()),
            Some(step) => {
                let error = fail!(IndexRange, "{count} indices were out of range and were clamped");
                error.map_err(|error: Error| error.at(first, step.name()))
            }
        }
    }

    /// Launches `name` over `blocks` blocks of [`THREADS`].
    ///
    /// # Safety
    /// `arguments` is the twin of the kernel's argument struct, its addresses
    /// are live and large enough for what the kernel does with them.
    unsafe fn launch<T: Copy>(
        &mut self,
        name: &'static str,
        blocks: usize,
        shared_bytes: usize,
        arguments: T,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_wide(name, blocks, THREADS, shared_bytes, arguments) }
    }

    /// Launches `name` over `blocks` blocks of `threads`.
    ///
    /// # Safety
    /// As for [`Cuda::launch`]; the kernel was compiled for `threads`.
    unsafe fn launch_wide<T: Copy>(
        &mut self,
        name: &'static str,
        blocks: usize,
        threads: u64,
        shared_bytes: usize,
        arguments: T,
    ) -> Result<(), Error> {
        let most = self.driver.card.shared_bytes;
        if shared_bytes > most {
            return fail!(
                InvalidArgument,
                "{name} needs {shared_bytes} bytes of shared memory, {} has {most}; use smaller dimensions",
                self.driver.card.name
            );
        }
        let kernel = match self.kernels.get(name) {
            Some(kernel) => *kernel,
            None => {
                // The most that the card has, once: what a launch asks for is
                // checked above.
                let kernel = self.driver.kernel(name, most)?;
                self.kernels.insert(name, kernel);
                kernel
            }
        };
        let shape = Shape { blocks: blocks as u64, threads: threads as u32, shared_bytes };
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(kernel, shape, arguments) }
    }

    /// Scratch memory of at least `bytes`, whose content is anything. What an
    /// earlier step left in it is used up: steps run in order.
    fn scratch(&mut self, bytes: usize) -> Result<Address, Error> {
        if let Some(buffer) = &self.scratch
            && buffer.bytes >= bytes
        {
            return Ok(buffer.address);
        }
        if self.driver.is_capturing() {
            // What is captured must not be given back; the run that follows
            // without capturing takes more.
            return self.driver.spoil();
        }
        self.generation += u64::from(self.scratch.is_some());
        self.scratch = None;
        let buffer = Buffer::new(&self.driver, bytes)?;
        let address = buffer.address;
        self.scratch = Some(buffer);
        Ok(address)
    }
}

/// Where a span's elements lie on the card.
fn address(table: &Table, span: Span) -> Address {
    table.address(span) as Address
}
