//! The driver: one context, one stream, one module of kernels, and memory.
//!
//! The only file that calls the CUDA driver. The driver library is opened when
//! a device is asked for, so neither building nor running anything else needs
//! it. Every call's result is looked at; one that says that the context is
//! lost makes every later call fail with [`ErrorCode::DeviceLost`].
//!
//! [`ErrorCode::DeviceLost`]: crate::ErrorCode::DeviceLost

use std::ffi::{CStr, CString, OsStr, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys;

use crate::Error;
use crate::error::fail;

/// Every kernel, compiled for each architecture: made by `make cubins`.
static IMAGE: &[u8] = include_bytes!("../../cuda/kernels.fatbin");

/// An address on the device.
pub(crate) type Address = u64;

/// A kernel of the module.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(sys::CUfunction);

// SAFETY: a function handle is a name within its module, which outlives it
// here; the driver takes it from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// A module of one kernel that was compiled from text; unloaded when dropped.
pub(crate) struct Module {
    driver: Arc<Driver>,
    module: sys::CUmodule,
    kernel: Kernel,
}

// SAFETY: as for `Kernel`; the driver is told which context is meant before
// each use.
unsafe impl Send for Module {}

impl Module {
    /// Compiles PTX. `None` where the driver cannot: its compiler is not
    /// installed, or is older than the text.
    ///
    /// # Errors
    /// `DeviceLost` where the context is.
    pub fn compile(driver: &Arc<Driver>, text: &str, name: &str) -> Result<Option<Module>, Error> {
        use sys::CUresult as R;
        let (Ok(text), Ok(name)) = (CString::new(text), CString::new(name)) else {
            return Ok(None);
        };
        let (mut module, mut function) = (null_mut(), null_mut());
        driver.enter()?;
        // SAFETY: the text is a live string that ends with a zero, the out
        // pointer a live local.
        let result = unsafe { sys::cuModuleLoadData(&mut module, text.as_ptr().cast()) };
        match result {
            R::CUDA_ERROR_INVALID_PTX
            | R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | R::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | R::CUDA_ERROR_JIT_COMPILATION_DISABLED
            | R::CUDA_ERROR_NO_BINARY_FOR_GPU
            | R::CUDA_ERROR_INVALID_IMAGE
            | R::CUDA_ERROR_OUT_OF_MEMORY => return Ok(None),
            other => driver.checked(other, "compiling a row kernel")?,
        }
        // SAFETY: the module is loaded, the name ends with a zero.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
        let made = Module { driver: driver.clone(), module, kernel: Kernel(function) };
        driver.checked(result, "finding a row kernel")?;
        Ok(Some(made))
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A failure here means a lost context, whose modules are gone anyway.
        let _ = self.driver.wait();
        // SAFETY: the module was loaded once and is unloaded once, after all
        // launches of its kernel.
        let _ = unsafe { sys::cuModuleUnload(self.module) };
    }
}

/// Launches that were captured, to be done again by one call.
pub(crate) struct Executable {
    driver: Arc<Driver>,
    executable: sys::CUgraphExec,
}

// SAFETY: as for `Module`.
unsafe impl Send for Executable {}

impl Executable {
    /// Notes what `launches` launches. `None`, with nothing done, where
    /// something in it has to be waited for.
    ///
    /// # Errors
    /// `DeviceLost`, or what `launches` fails with for a reason of its own.
    pub fn capture(
        driver: &Arc<Driver>,
        launches: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Option<Executable>, Error> {
        driver.enter()?;
        // Relaxed: only what we do on this stream counts, and that is looked
        // at by ourselves.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive and nothing captures it.
        let result = unsafe { sys::cuStreamBeginCapture_v2(driver.stream, mode) };
        driver.checked(result, "capturing a graph")?;
        driver.spoiled.store(false, Ordering::Relaxed);
        driver.capturing.store(true, Ordering::Relaxed);
        let noted = launches();
        driver.capturing.store(false, Ordering::Relaxed);
        let (mut graph, mut executable) = (null_mut(), null_mut());
        driver.enter()?;
        // SAFETY: the stream is being captured; the out pointer is a live local.
        let ended = unsafe { sys::cuStreamEndCapture(driver.stream, &mut graph) };
        let spoiled = driver.spoiled.load(Ordering::Relaxed);
        if !spoiled && noted.is_ok() {
            driver.checked(ended, "capturing a graph")?;
            // SAFETY: the graph was just captured; the out pointer is a live
            // local.
            let result = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
            // A graph that is too large is run by launches.
            let made = driver.checked(result, "making a captured graph ready");
            destroy(graph);
            return match made {
                Ok(()) => Ok(Some(Executable { driver: driver.clone(), executable })),
                Err(Error::OutOfMemory { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        }
        destroy(graph);
        match noted {
            // What was noted after the spoiling does not count either.
            _ if spoiled => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(None),
        }
    }

    /// Does all of it, in its order, after what was launched before.
    pub fn launch(&self) -> Result<(), Error> {
        self.driver.enter()?;
        // SAFETY: the graph is ready; that its addresses are live is the
        // promise of whoever captured the launches.
        let result = unsafe { sys::cuGraphLaunch(self.executable, self.driver.stream) };
        self.driver.checked(result, "replaying a captured graph")
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // A failure here means a lost context, and its graphs with it.
        let _ = self.driver.wait();
        // SAFETY: it was made once and is destroyed once, after its launches.
        let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}

fn destroy(graph: sys::CUgraph) {
    if !graph.is_null() {
        // SAFETY: it came from the end of a capture, and nothing else has it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
    }
}

/// How TMA reads a tensor, as the driver encoded it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TensorMap([u64; 16]);

/// What is launched: blocks, threads of a block, bytes of shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub blocks: u64,
    pub threads: u32,
    pub shared_bytes: usize,
}

/// What is known of a card.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub name: String,
    /// What kernels are chosen by.
    pub capability: (i32, i32),
    /// Whether row kernels are compiled.
    pub compiles: bool,
    /// Whether graphs are captured.
    pub captures: bool,
    /// Whether blocks work in clusters.
    pub clusters: bool,
    pub multiprocessors: u32,
    pub shared_bytes: usize,
}

pub(crate) struct Driver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    lost: AtomicBool,
    /// Whether launches are noted instead of done, and whether something in
    /// between could not be.
    capturing: AtomicBool,
    spoiled: AtomicBool,
    pub card: Card,
}

// SAFETY: driver handles may be used from any thread; each method makes the
// context current first, and the driver itself is thread-safe.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

/// Shared memory that a kernel may use without asking.
const SHARED_BY_DEFAULT: usize = 48 << 10;

impl Driver {
    /// Opens card number `ordinal`.
    pub fn open(ordinal: u32) -> Result<Driver, Error> {
        // SAFETY: looks for the library by name; nothing else is promised.
        if !unsafe { sys::is_culib_present() } {
            return fail!(
                DeviceLost,
                "no CUDA driver (libcuda.so.1) on this machine; install NVIDIA's driver, or use --device cpu"
            );
        }
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let mut device = 0;
        let mut context = null_mut();
        let mut stream = null_mut();
        let mut module = null_mut();
        // SAFETY: the out pointer is a live local.
        unsafe {
            check(sys::cuInit(0), "starting CUDA")?;
            check(sys::cuDeviceGet(&mut device, ordinal), &format!("opening card {ordinal}"))?;
        }
        let card = card(device)?;
        if card.capability < (8, 0) {
            return fail!(
                DeviceLost,
                "{} has compute capability {}.{}; kernels need 8.0 or newer",
                card.name,
                card.capability.0,
                card.capability.1
            );
        }
        // SAFETY: the out pointers are live locals; the image is a static that
        // ends as the driver expects (it carries its own length).
        unsafe {
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "making a context")?;
            check(sys::cuCtxSetCurrent(context), "entering the context")?;
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(sys::cuStreamCreate(&mut stream, flags), "making a stream")?;
            check(sys::cuModuleLoadData(&mut module, IMAGE.as_ptr().cast()), "loading the kernels")?;
        }
        Ok(Driver {
            device,
            context,
            stream,
            module,
            lost: false.into(),
            capturing: false.into(),
            spoiled: false.into(),
            card,
        })
    }

    /// Makes the context this thread's: each thread has a current one.
    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained until this is dropped.
        self.checked(unsafe { sys::cuCtxSetCurrent(self.context) }, "entering the context")
    }

    /// Looks at a result; a lost context stays lost.
    fn checked(&self, result: sys::CUresult, what: &str) -> Result<(), Error> {
        if self.lost.load(Ordering::Relaxed) {
            return fail!(DeviceLost, "{what}: the card's context was lost before; start a new one");
        }
        let outcome = check(result, what);
        if let Err(Error::DeviceLost { .. }) = outcome {
            self.lost.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// The kernel of that name, allowed `shared_bytes` of shared memory.
    pub fn kernel(&self, name: &str, shared_bytes: usize) -> Result<Kernel, Error> {
        let Ok(symbol) = CString::new(name) else {
            return fail!(InvalidArgument, "{name:?} is no kernel's name");
        };
        let mut function = null_mut();
        self.enter()?;
        // SAFETY: the module is loaded, the name ends with a zero.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, self.module, symbol.as_ptr()) };
        self.checked(result, name)?;
        if shared_bytes > SHARED_BY_DEFAULT {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function was just found.
            self.checked(unsafe { sys::cuFuncSetAttribute(function, attribute, bytes) }, name)?;
        }
        Ok(Kernel(function))
    }

    /// Launches a kernel whose only argument is `arguments`, by value.
    ///
    /// # Safety
    /// `T` is the `#[repr(C)]` twin of the kernel's argument struct, and every
    /// address in it is live, as long as the kernel believes, and not written
    /// by anything else in the meantime.
    pub unsafe fn launch<T: Copy>(
        &self,
        kernel: Kernel,
        shape: Shape,
        mut arguments: T,
    ) -> Result<(), Error> {
        let Ok(blocks @ 1..=0x7fff_ffff) = u32::try_from(shape.blocks) else {
            return fail!(InvalidArgument, "{} blocks are more than a launch can have", shape.blocks);
        };
        self.enter()?;
        let mut parameters = [(&raw mut arguments).cast::<c_void>()];
        let shared = u32::try_from(shape.shared_bytes).unwrap_or(u32::MAX);
        // SAFETY: the function belongs to our module; the parameter array has
        // its one parameter, which the driver copies before it returns.
        let result = unsafe {
            sys::cuLaunchKernel(
                kernel.0,
                blocks,
                1,
                1,
                shape.threads,
                1,
                1,
                shared,
                self.stream,
                parameters.as_mut_ptr(),
                null_mut(),
            )
        };
        self.checked(result, "launching a kernel")
    }

    /// A map of a bfloat16 tensor of `sizes` (the fastest first), whose rows are
    /// `row` elements apart and otherwise dense, read in boxes of `extents` with
    /// the swizzle of 128 bytes; zeros outside of it.
    pub fn tensor_map(
        &self,
        address: Address,
        sizes: [u64; 3],
        row: u64,
        extents: [u32; 3],
    ) -> Result<TensorMap, Error> {
        self.enter()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let strides = [row * 2, row * sizes[1] * 2];
        let steps = [1u32; 3];
        // SAFETY: the arrays have as many entries as the rank says (one stride
        // less) and live through the call; `map` is a live local. The driver
        // refuses what TMA cannot read.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                3,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                extents.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        self.checked(result, "describing a matrix to the card")?;
        Ok(TensorMap(map.opaque))
    }

    /// Whether launches are being captured.
    pub fn is_capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    /// What is being captured cannot be: the error ends its launches, and the
    /// graph is run without.
    pub fn spoil<T>(&self) -> Result<T, Error> {
        self.spoiled.store(true, Ordering::Relaxed);
        fail!(InvalidArgument, "a graph that waits for the card cannot be captured")
    }

    /// `bytes` of memory, zeroed; `None` where the card has no more.
    pub fn allocate(&self, bytes: usize) -> Option<Address> {
        if self.is_capturing() {
            self.spoiled.store(true, Ordering::Relaxed);
            return None;
        }
        self.enter().ok()?;
        let mut address = 0;
        // SAFETY: the out pointer is a live local.
        let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        self.checked(result, "allocating").ok()?;
        if self.zero(address, bytes).is_err() {
            self.free(address);
            return None;
        }
        Some(address)
    }

    /// Gives memory back. The stream is drained first, so nothing uses it.
    pub fn free(&self, address: Address) {
        // A failure here means a lost context, whose memory is gone anyway.
        let _ = self.wait();
        // SAFETY: the address came from `allocate` and is freed once, by its
        // owner.
        let _ = unsafe { sys::cuMemFree_v2(address) };
    }

    /// Zeroes `bytes` from `address` on.
    pub fn zero(&self, address: Address, bytes: usize) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the driver refuses ranges that it did not hand out; within
        // those that it did, the caller owns this one.
        self.checked(unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.stream) }, "zeroing memory")
    }

    /// Copies to the device; when this returns `values` may be reused.
    pub fn upload<T: Copy>(&self, address: Address, values: &[T]) -> Result<(), Error> {
        if self.is_capturing() {
            return self.spoil();
        }
        let bytes = std::mem::size_of_val(values);
        self.enter()?;
        // SAFETY: `values` is readable memory of `bytes`; the stream is waited
        // for before the borrow ends.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(address, values.as_ptr().cast(), bytes, self.stream) };
        self.checked(result, "copying to the card")?;
        self.wait()
    }

    /// Copies from the device, after everything that was launched.
    pub fn download<T: Copy>(&self, values: &mut [T], address: Address) -> Result<(), Error> {
        if self.is_capturing() {
            return self.spoil();
        }
        let bytes = std::mem::size_of_val(values);
        self.enter()?;
        // SAFETY: `values` is writable memory of `bytes`, borrowed until the
        // stream was waited for; only types of plain bits are asked for.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), address, bytes, self.stream) };
        self.checked(result, "copying from the card")?;
        self.wait()
    }

    /// Waits for everything that was launched.
    pub fn wait(&self) -> Result<(), Error> {
        if self.is_capturing() {
            return self.spoil();
        }
        self.enter()?;
        // SAFETY: the stream is alive.
        self.checked(unsafe { sys::cuStreamSynchronize(self.stream) }, "waiting for the card")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: nothing else uses the handles any more; a failure means that
        // the context is lost, and they with it.
        unsafe {
            let _ = sys::cuStreamSynchronize(self.stream);
            let _ = sys::cuModuleUnload(self.module);
            let _ = sys::cuStreamDestroy_v2(self.stream);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

fn card(device: sys::CUdevice) -> Result<Card, Error> {
    let attribute = |which: sys::CUdevice_attribute| -> Result<i32, Error> {
        let mut value = 0;
        // SAFETY: the out pointer is a live local.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "asking about the card")?;
        Ok(value)
    };
    use sys::CUdevice_attribute as A;
    let mut name = [0u8; 128];
    check(
        // SAFETY: at most 128 bytes are written, with a zero at their end.
        unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 128, device) },
        "asking for the card's name",
    )?;
    let name =
        CStr::from_bytes_until_nul(&name).map_or("an unnamed card".into(), |n| n.to_string_lossy().into());
    let setting = std::env::var_os(SWITCH);
    let setting = setting.as_deref();
    let capability = portable(
        setting,
        (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
    );
    Ok(Card {
        name,
        capability,
        compiles: !says(setting, "interpret"),
        captures: !says(setting, "launches"),
        clusters: !says(setting, "alone"),
        multiprocessors: u32::try_from(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?).unwrap_or(1),
        shared_bytes: usize::try_from(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?)
            .unwrap_or(SHARED_BY_DEFAULT),
    })
}

/// Words by commas that switch paths off, for cards on which one fails, and to
/// tell whether it does. `portable`: kernels for one architecture only are not
/// used, and a newer card runs what one of capability 8.0 would. `interpret`:
/// row kernels are not compiled. `launches`: graphs are not captured. `alone`:
/// blocks do not work in clusters.
const SWITCH: &str = "TERRARIUM_CUDA";

/// Whether a setting has a word.
fn says(setting: Option<&OsStr>, word: &str) -> bool {
    let text = setting.map(OsStr::to_string_lossy).unwrap_or_default();
    text.split(',').any(|part| part.trim() == word)
}

/// The capability that kernels are chosen by.
fn portable(setting: Option<&OsStr>, capability: (i32, i32)) -> (i32, i32) {
    if says(setting, "portable") { capability.min((8, 0)) } else { capability }
}

/// Success, "no memory", or a device that cannot be used any more.
fn check(result: sys::CUresult, what: &str) -> Result<(), Error> {
    use sys::CUresult as R;
    if result == R::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the out pointer is a live local; the driver gives a static text.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) } == R::CUDA_SUCCESS && !text.is_null();
    // SAFETY: a static text of the driver, ended by a zero.
    let reason = if known { unsafe { CStr::from_ptr(text) }.to_string_lossy() } else { "unknown".into() };
    match result {
        R::CUDA_ERROR_OUT_OF_MEMORY => {
            fail!(OutOfMemory, "{what}: {reason}; free tensors or use smaller ones")
        }
        _ => fail!(DeviceLost, "{what}: {reason} ({result:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_makes_a_card_an_older_one_and_never_a_newer() {
        let set = Some(OsStr::new("portable"));
        assert_eq!(portable(set, (9, 0)), (8, 0));
        assert_eq!(portable(set, (7, 5)), (7, 5));
        assert_eq!(portable(Some(OsStr::new("")), (9, 0)), (9, 0));
        assert_eq!(portable(None, (10, 0)), (10, 0));
        let both = Some(OsStr::new("interpret, portable"));
        assert_eq!(portable(both, (9, 0)), (8, 0));
        assert!(says(both, "interpret") && !says(both, "launches") && !says(None, "portable"));
    }
}
