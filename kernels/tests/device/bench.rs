//! A workbench: the same operations on devices with 1, 2 and 3 threads, whose
//! results must agree bit for bit; or on two CUDA devices, in the process that
//! `cuda.rs` starts.

use terrarium_kernels::{CpuConfig, CudaConfig, DType, Device, Op, TensorId};

/// Set where the tests are to run on CUDA devices.
pub const ON_CUDA: &str = "TERRARIUM_TEST_ON_CUDA";

pub struct Bench {
    devices: Vec<Device>,
    seed: u64,
}

impl Bench {
    pub fn new(seed: u64) -> Bench {
        let open = |threads| Device::cpu(CpuConfig { threads, ..CpuConfig::default() }).unwrap();
        let card = |_| Device::cuda(CudaConfig::default()).unwrap();
        let devices = if Self::on_cuda() { [0, 1].map(card).into() } else { [1, 2, 3].map(open).into() };
        Bench { devices, seed }
    }

    /// A number in [−1, 1).
    pub fn draw(&mut self) -> f32 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// An index in 0..bound.
    pub fn index(&mut self, bound: usize) -> i32 {
        ((self.draw() + 1.0) / 2.0 * bound as f32) as i32 % bound as i32
    }

    /// Whether this process runs the tests on CUDA devices.
    pub fn on_cuda() -> bool {
        std::env::var_os(ON_CUDA).is_some()
    }

    /// A device of the kind that the bench has.
    pub fn device() -> Device {
        Bench::new(0).devices.swap_remove(0)
    }

    /// All devices hand out the same handles, having done the same.
    fn agreed<T: PartialEq + std::fmt::Debug>(&mut self, mut f: impl FnMut(&mut Device) -> T) -> T {
        let mut all: Vec<T> = self.devices.iter_mut().map(&mut f).collect();
        let first = all.remove(0);
        for (i, other) in all.iter().enumerate() {
            assert!(first == *other, "device 0 (1 thread) and device {} differ", i + 1);
        }
        first
    }

    pub fn zeros(&mut self, shape: &[usize]) -> TensorId {
        let shape: Vec<u32> = shape.iter().map(|&d| d as u32).collect();
        self.agreed(|d| d.alloc(DType::F32, &shape).unwrap())
    }

    pub fn put(&mut self, shape: &[usize], values: &[f32]) -> TensorId {
        let id = self.zeros(shape);
        self.agreed(|d| d.upload_f32(id, 0, values).unwrap());
        id
    }

    pub fn put_ints(&mut self, shape: &[usize], values: &[i32]) -> TensorId {
        let shape: Vec<u32> = shape.iter().map(|&d| d as u32).collect();
        self.agreed(|d| {
            let id = d.alloc(DType::I32, &shape).unwrap();
            d.upload_i32(id, 0, values).unwrap();
            id
        })
    }

    /// A tensor of draws from [−1, 1), and the same numbers in f64.
    pub fn random(&mut self, shape: &[usize]) -> (TensorId, Vec<f64>) {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.draw()).collect();
        (self.put(shape, &values), widen(&values))
    }

    /// A tensor of zeros, in bfloat16 if `half`.
    pub fn zeros_of(&mut self, half: bool, shape: &[usize]) -> TensorId {
        if half { self.halves(shape) } else { self.zeros(shape) }
    }

    /// A tensor of zeros, bfloat16.
    pub fn halves(&mut self, shape: &[usize]) -> TensorId {
        let shape: Vec<u32> = shape.iter().map(|&d| d as u32).collect();
        self.agreed(|d| d.alloc(DType::Bf16, &shape).unwrap())
    }

    /// As [`Bench::random`], in bfloat16 if `half`: the numbers are what is
    /// stored.
    pub fn random_of(&mut self, half: bool, shape: &[usize]) -> (TensorId, Vec<f64>) {
        if !half {
            return self.random(shape);
        }
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.draw()).collect();
        let id = self.put_halves(shape, &values);
        let stored = self.get(id);
        (id, widen(&stored))
    }

    /// As [`Bench::put`], rounded to bfloat16.
    pub fn put_halves(&mut self, shape: &[usize], values: &[f32]) -> TensorId {
        let id = self.halves(shape);
        self.agreed(|d| d.upload_f32(id, 0, values).unwrap());
        id
    }

    pub fn is_half(&mut self, id: TensorId) -> bool {
        self.agreed(|d| d.dtype(id).unwrap()) == DType::Bf16
    }

    /// Values rounded to bfloat16, by the device.
    pub fn rounded(&mut self, values: &[f32]) -> Vec<f32> {
        let id = self.put_halves(&[values.len()], values);
        let stored = self.get(id);
        self.agreed(|d| d.free(id).unwrap());
        stored
    }

    pub fn get_ints(&mut self, id: TensorId) -> Vec<i32> {
        self.agreed(|d| {
            let count = d.shape(id).unwrap().iter().product::<u32>() as usize;
            let mut out = vec![0; count];
            d.download_i32(id, 0, &mut out).unwrap();
            out
        })
    }

    pub fn run(&mut self, ops: Vec<Op>) {
        self.agreed(|d| {
            let graph = d.prepare(ops.clone()).unwrap_or_else(|e| panic!("{e}: {ops:?}"));
            d.run(&graph).unwrap_or_else(|e| panic!("{e}: {ops:?}"));
            graph.cost()
        });
    }

    /// The values, which all thread counts must agree on to the bit.
    pub fn get(&mut self, id: TensorId) -> Vec<f32> {
        let bits = self.agreed(|d| {
            let count = d.shape(id).unwrap().iter().product::<u32>() as usize;
            let mut out = vec![0f32; count];
            d.download_f32(id, 0, &mut out).unwrap();
            out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        });
        bits.into_iter().map(f32::from_bits).collect()
    }
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// |got − want| ≤ tolerance · (1 + |want|), everywhere.
#[track_caller]
pub fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "element {i}: {got} instead of {want}");
    }
}

/// Cases of a property: fewer in the simulator, which is slow.
pub fn cases(usually: u32) -> u32 {
    if Bench::on_cuda() { usually.div_ceil(8) } else { usually }
}
