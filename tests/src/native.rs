//! A host without a sandbox: the guest interface answered in the process, on
//! a `terrarium_kernels::Device`. The same candidate source that is compiled
//! to WebAssembly for an evaluation can be compiled natively and run on it.
//! For tests and benches only: nothing holds the candidate here.

mod convert;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use terrarium_kernels as k;
use terrarium_sdk::bindings::trainer::terrarium::guest::{budget, compute, data, knobs};
use terrarium_sdk::native::{HostResult, NativeHost, install, uninstall};

/// What a run is given.
#[derive(Clone)]
pub struct NativeConfig {
    /// Threads of the device.
    pub threads: usize,
    /// The card to run on, instead of the CPU.
    pub cuda: Option<u32>,
    /// Most bytes of tensors.
    pub max_bytes: u64,
    /// Device fuel of the training budget.
    pub device_fuel: u64,
    /// Tokens are bytes of this text.
    pub text: Vec<u8>,
    /// Tokens are 0..vocabulary. Above 256, token t of the text and the one
    /// before it make one: (256·before + t) mod vocabulary.
    pub vocabulary: u32,
    /// Sequence length of `data::describe`.
    pub context: u32,
    /// Seed of the batches.
    pub seed: u64,
    /// Values of number and integer knobs, and option numbers of choices;
    /// others keep their defaults.
    pub knobs: BTreeMap<String, f64>,
    /// Whether replays are timed operation by operation.
    pub timed: bool,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            cuda: None,
            max_bytes: 4 << 30,
            device_fuel: u64::MAX,
            text: Vec::new(),
            vocabulary: 256,
            context: 128,
            seed: 0,
            knobs: BTreeMap::new(),
            timed: false,
        }
    }
}

/// What a run left behind.
#[derive(Clone, Debug, Default)]
pub struct NativeRecord {
    /// Lines of `report::log`.
    pub logs: Vec<String>,
    /// Points of `report::metric`: name, step, value.
    pub metrics: Vec<(String, u64, f64)>,
    /// Device fuel used.
    pub fuel_used: u64,
    /// Greatest device memory, in bytes.
    pub peak_bytes: u64,
    /// Names of the knobs that were declared.
    pub knobs: Vec<String>,
    /// First element of the watched tensor after each replay.
    pub watched: Vec<f32>,
    /// Progress that each question about the budget was answered with, while
    /// a tensor is watched.
    pub progress: Vec<f64>,
    /// Tokens, then targets, of each batch, while a tensor is watched.
    pub batches: Vec<i32>,
    /// Of timed replays: seconds of each kind of operation, and how many of
    /// it there were.
    pub times: BTreeMap<&'static str, (u64, f64)>,
    /// The account of the graph that was recorded last.
    pub account: Vec<k::AccountLine>,
}

/// The host installed on this thread for as long as this lives.
pub struct NativeSession {
    record: Rc<RefCell<NativeRecord>>,
    held_out: Rc<Cell<bool>>,
    watch: Rc<Cell<Option<u64>>>,
    gate: Rc<RefCell<Option<Gate>>>,
}

/// Asked before each replay, with what was recorded so far, whether there may
/// be one more.
pub type Gate = Box<dyn FnMut(&NativeRecord) -> bool>;

impl NativeSession {
    /// Installs a fresh host.
    pub fn start(config: NativeConfig) -> Result<Self, k::Error> {
        let (max_bytes, max_tensors) = (config.max_bytes, 1 << 16);
        let device = match config.cuda {
            Some(ordinal) => k::Device::cuda(k::CudaConfig { ordinal, max_bytes, max_tensors })?,
            None => k::Device::cpu(k::CpuConfig { threads: config.threads, max_bytes, max_tensors })?,
        };
        let record = Rc::new(RefCell::new(NativeRecord::default()));
        let held_out = Rc::new(Cell::new(false));
        let watch = Rc::new(Cell::new(None));
        let gate = Rc::new(RefCell::new(None));
        let state = config.seed;
        install(Box::new(Host {
            config,
            device,
            graphs: Vec::new(),
            random: state,
            record: Rc::clone(&record),
            held_out: Rc::clone(&held_out),
            watch: Rc::clone(&watch),
            gate: Rc::clone(&gate),
        }));
        Ok(Self { record, held_out, watch, gate })
    }

    /// Runs `predict` as the held-out phase: outside the training budget, and
    /// with downloads, logs, metrics and batches refused.
    pub fn held_out<T>(&self, predict: impl FnOnce() -> T) -> T {
        self.held_out.set(true);
        let result = predict();
        self.held_out.set(false);
        result
    }

    /// Records the first element of a tensor after each replay from now on,
    /// and with it progress and batches.
    pub fn watch(&self, tensor: u64) {
        self.watch.set(Some(tensor));
    }

    /// Has every replay outside the held-out phase wait for `gate`; once it
    /// says no, the budget is used up.
    pub fn gate(&self, gate: Gate) {
        *self.gate.borrow_mut() = Some(gate);
    }

    /// What was recorded so far.
    pub fn record(&self) -> NativeRecord {
        self.record.borrow().clone()
    }
}

impl Drop for NativeSession {
    fn drop(&mut self) {
        drop(uninstall());
    }
}

struct Host {
    config: NativeConfig,
    device: k::Device,
    graphs: Vec<Option<k::Graph>>,
    random: u64,
    record: Rc<RefCell<NativeRecord>>,
    held_out: Rc<Cell<bool>>,
    watch: Rc<Cell<Option<u64>>>,
    gate: Rc<RefCell<Option<Gate>>>,
}

impl Host {
    fn refuse_while_held_out(&self, what: &str) -> HostResult<()> {
        match self.held_out.get() {
            false => Ok(()),
            true => Err(compute::Error {
                code: compute::ErrorCode::Denied,
                op: None,
                detail: format!("{what} while held-out data is in play"),
            }),
        }
    }

    fn charge(&mut self, cost: u64) -> HostResult<()> {
        if self.held_out.get() {
            return Ok(());
        }
        let mut record = self.record.borrow_mut();
        if record.fuel_used.saturating_add(cost) > self.config.device_fuel {
            return Err(compute::Error {
                code: compute::ErrorCode::BudgetExhausted,
                op: None,
                detail: format!("{cost} fuel needed"),
            });
        }
        record.fuel_used = record.fuel_used.saturating_add(cost);
        Ok(())
    }

    fn graph(&self, graph: u64) -> HostResult<&k::Graph> {
        let slot = usize::try_from(graph).ok().and_then(|at| self.graphs.get(at));
        slot.and_then(Option::as_ref).ok_or_else(|| compute::Error {
            code: compute::ErrorCode::BadHandle,
            op: None,
            detail: format!("graph {graph}"),
        })
    }

    fn run(&mut self, graph: &k::Graph) -> HostResult<()> {
        let result = if self.config.timed {
            self.device.run_timed(graph).map(|lines| {
                let mut record = self.record.borrow_mut();
                for line in lines {
                    let sum = record.times.entry(line.name).or_default();
                    sum.0 += line.count;
                    sum.1 += line.time.as_secs_f64();
                }
            })
        } else {
            self.device.run(graph)
        }
        .map_err(convert::error);
        self.record.borrow_mut().peak_bytes = self.device.usage().peak_bytes;
        result
    }

    fn knob(&mut self, name: &str) -> Option<f64> {
        let mut record = self.record.borrow_mut();
        if !record.knobs.iter().any(|k| k == name) {
            record.knobs.push(name.to_owned());
        }
        self.config.knobs.get(name).copied()
    }
}

impl NativeHost for Host {
    fn alloc(&mut self, dtype: compute::Dtype, shape: &[u32]) -> HostResult<u64> {
        let id = self.device.alloc(convert::dtype(dtype), shape).map_err(convert::error)?;
        Ok(id.to_bits())
    }
    fn view(&mut self, of: u64, offset: u64, shape: &[u32]) -> HostResult<u64> {
        let id = self.device.view(convert::id(of), offset, shape).map_err(convert::error)?;
        Ok(id.to_bits())
    }
    fn free(&mut self, tensor: u64) -> HostResult<()> {
        self.device.free(convert::id(tensor)).map_err(convert::error)
    }
    fn shape(&mut self, tensor: u64) -> HostResult<Vec<u32>> {
        Ok(self.device.shape(convert::id(tensor)).map_err(convert::error)?.to_vec())
    }
    fn upload_floats(&mut self, tensor: u64, offset: u64, values: &[f32]) -> HostResult<()> {
        self.device.upload_f32(convert::id(tensor), offset, values).map_err(convert::error)
    }
    fn upload_ints(&mut self, tensor: u64, offset: u64, values: &[i32]) -> HostResult<()> {
        self.device.upload_i32(convert::id(tensor), offset, values).map_err(convert::error)
    }
    fn download_floats(&mut self, tensor: u64, offset: u64, count: u32) -> HostResult<Vec<f32>> {
        self.refuse_while_held_out("a download")?;
        let mut out = vec![0.0; count as usize];
        self.device.download_f32(convert::id(tensor), offset, &mut out).map_err(convert::error)?;
        Ok(out)
    }
    fn download_ints(&mut self, tensor: u64, offset: u64, count: u32) -> HostResult<Vec<i32>> {
        self.refuse_while_held_out("a download")?;
        let mut out = vec![0; count as usize];
        self.device.download_i32(convert::id(tensor), offset, &mut out).map_err(convert::error)?;
        Ok(out)
    }
    fn submit(&mut self, ops: &[compute::Op]) -> HostResult<()> {
        let ops = ops.iter().map(convert::op).collect();
        let graph = self.device.prepare(ops).map_err(convert::error)?;
        self.charge(graph.cost())?;
        self.run(&graph)
    }
    fn record_graph(&mut self, ops: &[compute::Op]) -> HostResult<u64> {
        let ops = ops.iter().map(convert::op).collect();
        let graph = self.device.prepare(ops).map_err(convert::error)?;
        self.record.borrow_mut().account = graph.account();
        self.graphs.push(Some(graph));
        Ok(self.graphs.len() as u64 - 1)
    }
    fn cost(&mut self, graph: u64) -> HostResult<u64> {
        Ok(self.graph(graph)?.cost())
    }
    fn replay(&mut self, graph: u64) -> HostResult<()> {
        let cost = self.graph(graph)?.cost();
        if let Some(gate) = self.gate.borrow_mut().as_mut()
            && !self.held_out.get()
            && !gate(&self.record.borrow())
        {
            return Err(compute::Error {
                code: compute::ErrorCode::BudgetExhausted,
                op: None,
                detail: "no further step is wanted".into(),
            });
        }
        self.charge(cost)?;
        // Taken out for the run, since the run borrows the whole host.
        let at = graph as usize;
        let Some(taken) = self.graphs[at].take() else {
            return Ok(());
        };
        let result = self.run(&taken);
        self.graphs[at] = Some(taken);
        if let Some(tensor) = self.watch.get() {
            let mut value = [0.0];
            self.device.download_f32(convert::id(tensor), 0, &mut value).map_err(convert::error)?;
            self.record.borrow_mut().watched.push(value[0]);
        }
        result
    }
    fn free_graph(&mut self, graph: u64) -> HostResult<()> {
        self.graph(graph)?;
        self.graphs[graph as usize] = None;
        Ok(())
    }
    fn describe(&mut self) -> data::Info {
        data::Info {
            vocabulary: self.config.vocabulary,
            context: self.config.context,
            train_tokens: self.config.text.len() as u64,
        }
    }
    fn next_batch(&mut self, tokens: u64, targets: u64) -> HostResult<()> {
        self.refuse_while_held_out("a batch")?;
        let shape = self.shape(tokens)?;
        let time = shape.last().copied().unwrap_or(1) as usize;
        let rows = shape.iter().product::<u32>() as usize / time.max(1);
        self.charge(8 * (rows * time) as u64)?;
        let text = &self.config.text;
        let Some(starts) = text.len().checked_sub(time).filter(|&s| s > 0) else {
            return Err(compute::Error {
                code: compute::ErrorCode::InvalidArgument,
                op: None,
                detail: format!("{} bytes of text for windows of {time}", text.len()),
            });
        };
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            // SplitMix64 (Steele, Lea & Flood 2014).
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            // As the sandbox draws them, so that a run can be compared with one inside it.
            let bits = z ^ (z >> 31);
            let at = ((u128::from(bits) * starts as u128) >> 64) as usize;
            let vocabulary = self.config.vocabulary;
            let token = |place: usize| {
                let pair = match place.checked_sub(1) {
                    Some(before) if vocabulary > 256 => 256 * u32::from(text[before]),
                    _ => 0,
                };
                ((pair + u32::from(text[place])) % vocabulary) as i32
            };
            xs.extend((at..at + time).map(token));
            ys.extend((at + 1..at + time + 1).map(token));
        }
        if self.watch.get().is_some() {
            let batches = &mut self.record.borrow_mut().batches;
            batches.extend(&xs);
            batches.extend(&ys);
        }
        self.upload_ints(tokens, 0, &xs)?;
        self.upload_ints(targets, 0, &ys)
    }
    fn knob_number(&mut self, name: &str, default: f64, low: f64, high: f64, _: knobs::Scale) -> f64 {
        assert!(low <= default && default <= high, "knob {name}: default out of range");
        self.knob(name).unwrap_or(default).clamp(low, high)
    }
    fn knob_integer(&mut self, name: &str, default: i64, low: i64, high: i64, _: knobs::Scale) -> i64 {
        assert!(low <= default && default <= high, "knob {name}: default out of range");
        self.knob(name).map_or(default, |v| v as i64).clamp(low, high)
    }
    fn knob_choice(&mut self, name: &str, default: u32, options: &[String]) -> u32 {
        assert!((default as usize) < options.len(), "knob {name}: default out of range");
        self.knob(name).map_or(default, |v| v as u32).min(options.len() as u32 - 1)
    }
    fn log(&mut self, message: &str) {
        assert!(!self.held_out.get(), "a log line while held-out data is in play");
        self.record.borrow_mut().logs.push(message.to_owned());
    }
    fn metric(&mut self, name: &str, step: u64, value: f64) {
        assert!(!self.held_out.get(), "a metric while held-out data is in play");
        self.record.borrow_mut().metrics.push((name.to_owned(), step, value));
    }
    fn budget(&mut self) -> budget::State {
        let (total, used) = (self.config.device_fuel, self.record.borrow().fuel_used);
        if self.watch.get().is_some() {
            self.record.borrow_mut().progress.push(used as f64 / total as f64);
        }
        budget::State {
            device_fuel_total: total,
            device_fuel_left: total - used,
            progress: used as f64 / total as f64,
        }
    }
}
