//! The baseline of autoresearch (karpathy/autoresearch, train.py) at its full
//! size: 8 layers of width 512, 524,288 tokens a step, 300 seconds.
//!
//! The family: RMSNorm without weights (on the embedding, each branch, the
//! queries and the keys), rotary positions, sliding windows, squared ReLU,
//! value embeddings behind gates, learned residual scalars, an untied head
//! with capped logits; Muon on the matrices and AdamW on the rest. Products,
//! attention and the head take bfloat16 operands, and the residual stream is
//! bfloat16 (parameters, their gradients and all sums stay float32); a step is
//! made in parts whose activations never live at the same time.
//!
//! What lies inside the evolve blocks may be changed; the rest is the frame
//! that the evaluation relies on.

use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::optim::{AdamW, AdamWConfig, Muon, MuonConfig, Optimizer};
use terrarium_sdk::rowkernel::Layout::{Element, PerRow, Scalar};
use terrarium_sdk::schedule::{Decay, Schedule};
use terrarium_sdk::tape::{Activation, Ends, Heads};
use terrarium_sdk::train::{self, Predictors};
use terrarium_sdk::{Distribution, Dtype, Result, Tape, Tensor, Trainer, Var, data, export_trainer};

// EVOLVE-BLOCK-START sizes
/// The model's dimensions.
struct Config {
    vocabulary: u32,
    depth: u32,
    head_dim: u32,
    heads: u32,
    kv_heads: u32,
    hidden: u32,
    windows: Vec<bool>,
    /// Which layers have value embeddings.
    value_layers: Vec<bool>,
    softcap: f32,
    rope_base: f32,
    /// Element type of what products multiply.
    operands: Dtype,
    /// Element type of the residual stream.
    stream: Dtype,
}

impl Config {
    fn from_knobs() -> Config {
        let depth = knobs::size("depth", 8, 1, 32, Linear);
        let head_dim = 8 * knobs::size("head_dim_by_8", 16, 2, 32, Linear);
        let heads = knobs::size("heads", 4, 1, 16, Linear);
        let groups = knobs::size("queries_per_key", 1, 1, 4, Linear);
        let kv_heads = if heads.is_multiple_of(groups) { heads / groups } else { heads };
        let expansion = knobs::size("mlp_expansion", 4, 1, 8, Linear);
        let pattern =
            ["L", "SL", "SSL", "SSSL"][knobs::choice("windows", 3, &["L", "SL", "SSL", "SSSL"])].as_bytes();
        let value = knobs::choice("value_embeddings", 1, &["none", "alternating", "all"]);
        let last = depth - 1;
        Config {
            vocabulary: data::describe().vocabulary,
            depth,
            head_dim,
            heads,
            kv_heads,
            hidden: expansion * head_dim * heads,
            // The last layer always sees everything.
            windows: (0..depth).map(|i| i != last && pattern[i as usize % pattern.len()] == b'S').collect(),
            value_layers: (0..depth)
                .map(|i| value == 2 || (value == 1 && (last - i).is_multiple_of(2)))
                .collect(),
            softcap: knobs::float("softcap", 15.0, 5.0, 60.0, Logarithmic),
            rope_base: knobs::float("rope_base", 10_000.0, 100.0, 100_000.0, Logarithmic),
            operands: [Dtype::Float32, Dtype::Bfloat16]
                [knobs::choice("operands", 1, &["float32", "bfloat16"])],
            stream: [Dtype::Float32, Dtype::Bfloat16]
                [knobs::choice("residual_stream", 1, &["float32", "bfloat16"])],
        }
    }

    fn width(&self) -> u32 {
        self.head_dim * self.heads
    }

    fn kv_width(&self) -> u32 {
        self.head_dim * self.kv_heads
    }
}

/// What a training step works on.
struct Batch {
    /// Sequences.
    rows: u32,
    /// Tokens in each.
    time: u32,
    /// Parts that are worked on one after the other.
    parts: u32,
}

impl Batch {
    fn from_knobs() -> Batch {
        let rows = knobs::size("batch_rows", 256, 1, 1024, Logarithmic);
        let parts = knobs::size("batch_parts", 8, 1, 64, Logarithmic);
        let time = knobs::choice("train_context", 1, &["half", "full"]);
        let context = data::describe().context;
        Batch {
            rows,
            time: if time == 0 { (context / 2).max(1) } else { context },
            // Equal parts.
            parts: (1..=parts.min(rows)).rev().find(|parts| rows.is_multiple_of(*parts)).unwrap_or(1),
        }
    }
}
// EVOLVE-BLOCK-END

// EVOLVE-BLOCK-START model
/// Channels that a value gate looks at.
const GATE_CHANNELS: u32 = 32;
const EPS: f32 = 1e-6;

/// The parameters. Matrices of all layers lie in one bank [depth, out, in].
struct Model {
    config: Config,
    embedding: Tensor,
    head: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Tensor,
    expand: Tensor,
    contract: Tensor,
    value_tables: Vec<Tensor>,
    gates: Tensor,
    residual: Tensor,
    first: Tensor,
}

impl Model {
    fn init(seed: u64) -> Result<Model> {
        let config = Config::from_knobs();
        let (c, kv, layers) = (config.width(), config.kv_width(), config.depth);
        let mut stream = 0;
        let mut random = |shape: &[u32], distribution, scale: f32| {
            let tensor = Tensor::zeros(shape)?;
            stream += 1;
            tensor.randomize(distribution, scale, seed, stream)?;
            Ok(tensor)
        };
        // Uniform with the variance of a normal of deviation 1/√C.
        let spread = knobs::float("init_scale", 1.0, 0.3, 3.0, Logarithmic) * (3.0 / c as f32).sqrt();
        let tables = config.value_layers.iter().filter(|&&has| has).count() as u32;
        let embedding_scale = knobs::float("embedding_init", 1.0, 0.01, 2.0, Logarithmic);
        let head_scale = knobs::float("head_init", 0.001, 0.0001, 0.1, Logarithmic);
        Ok(Model {
            embedding: random(&[config.vocabulary, c], Distribution::Normal, embedding_scale)?,
            head: random(&[config.vocabulary, c], Distribution::Normal, head_scale)?,
            query: random(&[layers, c, c], Distribution::Uniform, spread)?,
            key: random(&[layers, kv, c], Distribution::Uniform, spread)?,
            value: random(&[layers, kv, c], Distribution::Uniform, spread)?,
            project: Tensor::zeros(&[layers, c, c])?,
            expand: random(&[layers, config.hidden, c], Distribution::Uniform, spread)?,
            contract: Tensor::zeros(&[layers, c, config.hidden])?,
            value_tables: (0..tables)
                .map(|_| random(&[config.vocabulary, kv], Distribution::Uniform, spread))
                .collect::<Result<_>>()?,
            gates: Tensor::zeros(&[tables.max(1), config.kv_heads, GATE_CHANNELS.min(c)])?,
            residual: Tensor::full(&[layers, 1], 1.0)?,
            first: Tensor::full(&[layers, 1], 0.1)?,
            config,
        })
    }

    /// x as an operand of products.
    fn operand(&self, t: &mut Tape, x: Var) -> Result<Var> {
        t.cast(x, self.config.operands)
    }

    /// A matrix of a layer, as an operand of products.
    fn matrix(&self, t: &mut Tape, bank: &Tensor, layer: u32) -> Result<Var> {
        let matrix = t.param_row(bank, layer)?;
        self.operand(t, matrix)
    }

    /// x normalised, as an operand of products.
    fn normal(&self, t: &mut Tape, x: Var) -> Result<Var> {
        t.rms_norm_as(x, EPS, self.config.operands)
    }

    /// Tokens [B,T] to the last hidden state [B,T,C], an operand.
    fn hidden(&self, t: &mut Tape, tokens: Var) -> Result<Var> {
        let table = t.param(&self.embedding);
        let x = t.gather(table, tokens)?;
        let x0 = t.rms_norm_as(x, EPS, self.config.stream)?;
        let mut x = x0;
        let mut tables = 0;
        for layer in 0..self.config.depth {
            let (keep, first) = (t.param_row(&self.residual, layer)?, t.param_row(&self.first, layer)?);
            let mixed = [(x, Element), (x0, Element), (keep, Scalar), (first, Scalar)];
            x = t.map_as(&mixed, self.config.stream, &|e| e[2] * e[0] + e[3] * e[1])?;
            x = self.attention(t, x, tokens, layer, &mut tables)?;
            x = self.mlp(t, x, layer)?;
        }
        self.normal(t, x)
    }

    /// x + attention of x, normalised.
    fn attention(
        &self,
        t: &mut Tape,
        residual: Var,
        tokens: Var,
        layer: u32,
        tables: &mut u32,
    ) -> Result<Var> {
        let c = &self.config;
        let (b, time) = (t.shape(residual)[0], t.shape(residual)[1]);
        let x = self.normal(t, residual)?;
        // Before the projection: its gradient is added to that of x.
        let gate = match c.value_layers[layer as usize] {
            true => {
                let gate = t.param_row(&self.gates, *tables)?;
                let seen = t.columns(x, 0, GATE_CHANNELS.min(c.width()))?;
                Some(t.linear(seen, gate)?)
            }
            false => None,
        };
        // Queries, keys and values by one product.
        let [wq, wk, wv] = [&self.query, &self.key, &self.value].map(|bank| t.param_row(bank, layer));
        let w = t.concat_rows(&[wq?, wk?, wv?], c.operands)?;
        let qkv = t.linear_fused(x, w, Ends { result: c.operands, ..Ends::default() })?;
        let queries = [b, time, c.heads, c.head_dim];
        let keys = [b, time, c.kv_heads, c.head_dim];
        let value_col = c.width() + c.kv_width();
        let q = t.heads_as(qkv, 0, queries, c.rope_base, EPS, c.operands)?;
        let k = t.heads_as(qkv, c.width(), keys, c.rope_base, EPS, c.operands)?;
        let mut v = Heads { of: qkv, col: value_col };
        if let Some(gate) = gate {
            let own = t.columns(qkv, value_col, c.kv_width())?;
            let own = t.reshape(own, &keys)?;
            let table = t.param(&self.value_tables[*tables as usize]);
            let extra = t.gather(table, tokens)?;
            let extra = t.reshape(extra, &keys)?;
            let parts = [(own, Element), (extra, Element), (gate, PerRow)];
            v = t.map_as(&parts, c.operands, &|e| e[0] + 2.0 * e[2].sigmoid() * e[1])?.into();
            *tables += 1;
        }
        let window = if c.windows[layer as usize] { (data::describe().context / 2).max(1) } else { 0 };
        let y = t.attention_in(queries, c.kv_heads, [q.into(), k.into(), v], window)?;
        let y = t.reshape(y, &[b, time, c.width()])?;
        let (y, wo) = (self.operand(t, y)?, self.matrix(t, &self.project, layer)?);
        t.linear_fused(y, wo, Ends { residual: Some(residual), result: c.stream, ..Ends::default() })
    }

    /// The losses of next-token prediction, one per position.
    fn losses(&self, t: &mut Tape, x: Var, targets: Var) -> Result<Var> {
        let head = t.param(&self.head);
        let head = self.operand(t, head)?;
        t.linear_cross_entropy(x, head, targets, self.config.softcap)
    }

    /// Capped logits [..., V].
    fn logits(&self, t: &mut Tape, x: Var) -> Result<Var> {
        let head = t.param(&self.head);
        let head = self.operand(t, head)?;
        let z = t.linear(x, head)?;
        let cap = self.config.softcap;
        t.map_elements(&[z], &|e| cap * (e[0] * (1.0 / cap)).tanh())
    }

    /// x + MLP of x, normalised.
    fn mlp(&self, t: &mut Tape, residual: Var, layer: u32) -> Result<Var> {
        let (up, down) = (self.matrix(t, &self.expand, layer)?, self.matrix(t, &self.contract, layer)?);
        let x = self.normal(t, residual)?;
        t.mlp(x, up, down, Activation::ReluSquared, Some(residual))
    }
}
// EVOLVE-BLOCK-END

// EVOLVE-BLOCK-START optimizer
/// Which rule updates which parameters.
fn optimizers(model: &Model) -> Result<Vec<Box<dyn Optimizer>>> {
    let decay = knobs::number("weight_decay", 0.0, 0.0, 0.4, Linear);
    let muon = MuonConfig {
        rate: knobs::number("matrix_rate", 0.02, 0.001, 0.2, Logarithmic),
        momentum: knobs::number("momentum", 0.95, 0.5, 0.99, Linear),
        nesterov: true,
        weight_decay: decay,
        steps: 5,
        second_moment: knobs::flag("second_moment", true).then_some(0.95),
    };
    let adam = AdamWConfig {
        rate: 0.0,
        beta1: knobs::number("beta1", 0.9, 0.5, 0.99, Linear),
        beta2: knobs::number("beta2", 0.95, 0.8, 0.999, Linear),
        eps: 1e-10,
        weight_decay: 0.0,
    };
    let embedding_rate = knobs::number("embedding_rate", 0.03, 0.003, 1.0, Logarithmic);
    let head_rate = knobs::number("head_rate", 0.002, 0.0002, 0.05, Logarithmic);
    let scalar_rate = knobs::number("scalar_rate", 0.01, 0.001, 0.5, Logarithmic);

    let m = model;
    let matrices = [&m.query, &m.key, &m.value, &m.project, &m.expand, &m.contract];
    let mut embeddings = vec![m.embedding.clone()];
    embeddings.extend(m.value_tables.iter().cloned());
    let mut scalars = vec![m.residual.clone(), m.first.clone()];
    if !m.value_tables.is_empty() {
        scalars.push(m.gates.clone());
    }
    Ok(vec![
        Box::new(Muon::new(&matrices.map(Tensor::clone), muon)?),
        Box::new(AdamW::new(&embeddings, AdamWConfig { rate: embedding_rate, ..adam })?),
        Box::new(AdamW::new(std::slice::from_ref(&m.head), AdamWConfig { rate: head_rate, ..adam })?),
        Box::new(AdamW::new(&scalars, AdamWConfig { rate: scalar_rate, ..adam })?),
    ])
}

/// The learning rate over the budget.
fn schedule() -> Schedule {
    Schedule {
        warmup: knobs::number("warmup", 0.0, 0.0, 0.3, Linear),
        warmdown: knobs::number("warmdown", 0.1, 0.0, 1.0, Linear),
        floor: knobs::number("final_rate", 0.1, 0.0, 1.0, Linear),
        decay: [Decay::Linear, Decay::Cosine][knobs::choice("decay", 0, &["linear", "cosine"])],
    }
}
// EVOLVE-BLOCK-END

/// Steps between reports of the training loss.
const REPORT_EVERY: u64 = 20;

/// The frame: builds the graph, draws the batches, answers the host.
struct Gpt {
    model: Model,
    predictors: Predictors,
}

impl Trainer for Gpt {
    fn init(seed: u64) -> Result<Self> {
        Ok(Gpt { model: Model::init(seed)?, predictors: Predictors::new() })
    }

    fn train(&mut self) -> Result<()> {
        let Batch { rows, time, parts } = Batch::from_knobs();
        let tokens = Tensor::zeros_int(&[rows, time])?;
        let targets = Tensor::zeros_int(&[rows, time])?;
        let loss_values = Tensor::zeros(&[parts])?;
        let share = 1.0 / (rows as f32 * time as f32);
        let part_rows = rows / parts;

        let mut t = Tape::training();
        for part in 0..parts {
            let at = u64::from(part) * u64::from(part_rows) * u64::from(time);
            let input = t.input(&tokens.view(at, &[part_rows, time])?);
            let target = t.input(&targets.view(at, &[part_rows, time])?);
            let x = self.model.hidden(&mut t, input)?;
            let losses = self.model.losses(&mut t, x, target)?;
            let loss = t.scaled_sum(losses, share)?;
            t.store(loss, &loss_values.view(part.into(), &[1])?)?;
            t.backward(loss)?;
        }
        let mut optimizers = optimizers(&self.model)?;
        for optimizer in &mut optimizers {
            optimizer.emit(&mut t)?;
        }
        let graph = t.record()?;

        let schedule = schedule();
        train::reported(&graph, &loss_values, REPORT_EVERY, &mut |step| {
            let rate = schedule.at(step.progress);
            for optimizer in &mut optimizers {
                optimizer.prepare(step.number, rate)?;
            }
            data::next_batch(&tokens, &targets)
        })?;
        Ok(())
    }

    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let model = &self.model;
        self.predictors.answer(tokens, logits, &|t, input| {
            let x = model.hidden(t, input)?;
            model.logits(t, x)
        })
    }
}

export_trainer!(Gpt);
