//! Row kernels as PTX text, for the driver to compile.
//!
//! The text depends on the expression and the types of its operands alone, not
//! on sizes or addresses, and is known by them in the cache. A warp takes one
//! row at a time, or where nothing is reduced one piece of a row; its lanes take
//! the columns in turn. Numbers of bfloat16 are widened where they are loaded,
//! and rounded where they are stored.
//!
//! What a reduction needs is computed in a loop of its own, and computed again
//! in the loops after it instead of being kept: row kernels are short, and
//! reading a row again finds it in a cache. Results of the last loop are
//! stored where they were read in the same lane, so an update in place is safe.
//!
//! Every branch is taken by a whole warp: lanes without a column load and store
//! nothing. Sums go over a lane's columns in order and then over the lanes by a
//! butterfly, as in `row_map.cu`; nothing is contracted to a fused
//! multiply-add but the sum of products. exp, ln, tanh and the sigmoid are the
//! CPU device's (`cpu/math.rs`). Sine, cosine and power have no text here: a
//! kernel with one of them, and one over rows of fewer than [`LEAST_COLS`], is
//! left to the interpreter.

mod math;
#[cfg(test)]
mod tests;
mod values;

use std::fmt::Write;

use self::values::{From, Kind, Value};
use crate::op::{BinaryOp, DType, Layout, Reduction, UnaryOp};
use crate::row_kernel::{Code, Program, Register};

/// Narrowest rows for which a warp a row pays.
pub(super) const LEAST_COLS: usize = 32;
/// Columns of a piece of a row, where rows are cut.
pub(super) const PIECE: usize = 1024;
/// Values in a loop up to which four columns a lane are in flight.
const SHORT: usize = 24;
/// Most inputs and stores: the arguments have room for them.
pub(super) const INPUTS: usize = crate::row_kernel::MAX_INPUTS;
pub(super) const STORES: usize = crate::row_kernel::MAX_STORES;
/// What the kernel is called in its text.
pub(super) const NAME: &str = "row_kernel";

/// A kernel's text, and how its work is cut.
pub(super) struct Text {
    pub text: String,
    /// Whether a warp takes whole rows.
    pub whole_rows: bool,
}

/// Bytes of the arguments: inputs, stores, rows or pieces, pieces of a row,
/// columns.
const ARGUMENT_BYTES: usize = (INPUTS + STORES + 3) * 8;

/// The text of a program, or `None` where it is left to the interpreter.
pub(super) fn emit(program: &Program) -> Option<Text> {
    if program.cols < LEAST_COLS {
        return None;
    }
    let (values, stores) = values::number(program)?;
    let reduces = values.iter().any(|v| matches!(v.code, Code::Reduce(_) | Code::Dot));
    let whole_rows = reduces || program.cols <= PIECE;
    let mut emitter = Emitter {
        out: String::new(),
        values: &values,
        program,
        row: vec![None; values.len()],
        registers: [0; 4],
        labels: 0,
    };
    emitter.body(&stores, whole_rows);
    Some(Text { text: emitter.finish(), whole_rows })
}

/// The four kinds of registers.
#[derive(Clone, Copy)]
enum File {
    Predicate,
    Float,
    Word,
    Long,
}

/// What is done in each turn of a loop over columns: with the wanted values, the
/// column, and the predicate under which it is there.
type Each<'e, E> = dyn FnMut(&mut E, &[String], &str, &str) + 'e;

/// What was read for a column, and the registers that it is in.
type Loaded = Vec<(From, String)>;

struct Emitter<'a> {
    out: String,
    values: &'a [Value],
    program: &'a Program,
    /// Registers of the values per row that are there.
    row: Vec<Option<String>>,
    /// How many registers each file has so far.
    registers: [usize; 4],
    labels: usize,
}

/// One line of PTX.
macro_rules! line {
    ($emitter:expr, $($text:tt)*) => {{
        // Writing to a string cannot fail.
        let _ = writeln!($emitter.out, "    {}", format_args!($($text)*));
    }};
}

impl Emitter<'_> {
    fn fresh(&mut self, file: File) -> String {
        let (at, mark) = match file {
            File::Predicate => (0, "p"),
            File::Float => (1, "f"),
            File::Word => (2, "r"),
            File::Long => (3, "d"),
        };
        self.registers[at] += 1;
        format!("%{mark}{}", self.registers[at])
    }

    /// A new float register with the result of an instruction.
    fn float(&mut self, instruction: &str, operands: &[&str]) -> String {
        let to = self.fresh(File::Float);
        line!(self, "{instruction} {to}, {};", operands.join(", "));
        to
    }

    fn word(&mut self, instruction: &str, operands: &[&str]) -> String {
        let to = self.fresh(File::Word);
        line!(self, "{instruction} {to}, {};", operands.join(", "));
        to
    }

    fn long(&mut self, instruction: &str, operands: &[&str]) -> String {
        let to = self.fresh(File::Long);
        line!(self, "{instruction} {to}, {};", operands.join(", "));
        to
    }

    fn test(&mut self, instruction: &str, a: &str, b: &str) -> String {
        let to = self.fresh(File::Predicate);
        line!(self, "{instruction} {to}, {a}, {b};");
        to
    }

    /// `yes` where the predicate holds, else `no`.
    fn choose(&mut self, yes: &str, no: &str, predicate: &str) -> String {
        self.float("selp.f32", &[yes, no, predicate])
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    fn body(&mut self, stores: &[(usize, Layout)], whole_rows: bool) {
        let lane_word = self.fresh(File::Word);
        line!(self, "mov.u32 {lane_word}, %tid.x;");
        let warp = self.word("shr.u32", &[&lane_word, "5"]);
        let lane_word = self.word("and.b32", &[&lane_word, "31"]);
        let lane = self.long("cvt.u64.u32", &[&lane_word]);
        let block = self.word("mov.u32", &["%ctaid.x"]);
        let first = self.word("shl.b32", &[&block, "3"]);
        let first = self.word("add.u32", &[&first, &warp]);
        let blocks = self.word("mov.u32", &["%nctaid.x"]);
        let stride = self.word("shl.b32", &[&blocks, "3"]);
        let (unit, stride) = (self.long("cvt.u64.u32", &[&first]), self.long("cvt.u64.u32", &[&stride]));
        let argument = |at: usize| format!("[a+{}]", at * 8);
        let units = self.long("ld.param.u64", &[&argument(INPUTS + STORES)]);
        let pieces = self.long("ld.param.u64", &[&argument(INPUTS + STORES + 1)]);
        let cols = self.long("ld.param.u64", &[&argument(INPUTS + STORES + 2)]);
        let mut inputs = Vec::new();
        for at in 0..INPUTS + STORES {
            let used = at >= INPUTS && at - INPUTS < stores.len()
                || self.values.iter().any(|v| v.sources().any(|s| s.input() == Some(at)));
            inputs.push(if used {
                let generic = self.long("ld.param.u64", &[&argument(at)]);
                self.long("cvta.to.global.u64", &[&generic])
            } else {
                String::new()
            });
        }

        let (next, done) = (self.label(), self.label());
        let _ = writeln!(self.out, "{next}:");
        let over = self.test("setp.ge.u64", &unit, &units);
        line!(self, "@{over} bra {done};");
        let (row, start, end) = if whole_rows {
            (unit.clone(), self.long("mov.u64", &["0"]), cols.clone())
        } else {
            let row = self.long("div.u64", &[&unit, &pieces]);
            let piece = self.long("rem.u64", &[&unit, &pieces]);
            let start = self.long("mul.lo.u64", &[&piece, &PIECE.to_string()]);
            let end = self.long("add.u64", &[&start, &PIECE.to_string()]);
            let end = self.long("min.u64", &[&end, &cols]);
            (row, start, end)
        };
        let base = self.long("mul.lo.u64", &[&row, &cols]);
        let place = Place { inputs, row, start, end, base, lane };
        self.row.fill(None);
        self.rows(&place);

        let elements: Vec<(usize, usize)> = stores
            .iter()
            .enumerate()
            .filter(|(_, (_, layout))| *layout == Layout::Element)
            .map(|(at, (value, _))| (at, *value))
            .collect();
        if !elements.is_empty() {
            self.columns(
                &place,
                &elements.iter().map(|e| e.1).collect::<Vec<_>>(),
                &mut |this, values, col, on| {
                    for (&(at, _), value) in elements.iter().zip(values) {
                        let dtype = this.program.store_types[at];
                        let to = this.address(dtype, &place.inputs[INPUTS + at], &place.base, Some(col));
                        if dtype == DType::Bf16 {
                            let zero = this.float("mov.f32", &[&math::constant(0.0)]);
                            // The second number becomes the lower half.
                            let pair = this.word("cvt.rn.bf16x2.f32", &[&zero, value]);
                            line!(this, "@{on} st.global.b16 [{to}], {pair};");
                        } else {
                            line!(this, "@{on} st.global.f32 [{to}], {value};");
                        }
                    }
                },
            );
        }
        let of_rows: Vec<(usize, usize)> = stores
            .iter()
            .enumerate()
            .filter(|(_, (_, layout))| *layout != Layout::Element)
            .map(|(at, (value, _))| (at, *value))
            .collect();
        if !of_rows.is_empty() {
            // The first lane of the first piece.
            let at = self.long("add.u64", &[&place.start, &place.lane]);
            let first = self.test("setp.eq.u64", &at, "0");
            for (at, value) in of_rows {
                let value = self.row[value].clone().unwrap_or_default();
                let to = self.address(DType::F32, &place.inputs[INPUTS + at], &place.row, None);
                line!(self, "@{first} st.global.f32 [{to}], {value};");
            }
        }
        line!(self, "add.u64 {unit}, {unit}, {stride};");
        line!(self, "bra {next};");
        let _ = writeln!(self.out, "{done}:");
        line!(self, "ret;");
    }

    /// The address of number `a + b` of a tensor.
    fn address(&mut self, dtype: DType, tensor: &str, a: &str, b: Option<&str>) -> String {
        let index = match b {
            Some(b) => self.long("add.u64", &[a, b]),
            None => a.to_owned(),
        };
        let bytes = self.long("shl.b64", &[&index, if dtype == DType::Bf16 { "1" } else { "2" }]);
        self.long("add.u64", &[tensor, &bytes])
    }

    /// Every value per row, reductions included.
    fn rows(&mut self, place: &Place) {
        for id in 0..self.values.len() {
            if self.values[id].kind == Kind::Element || self.row[id].is_some() {
                continue;
            }
            if !matches!(self.values[id].code, Code::Reduce(_) | Code::Dot) {
                let value = self.values[id];
                let register = self.compute(place, &value, &mut |this, from| match from {
                    From::Value(of) => this.row[of].clone().unwrap_or_default(),
                    other => this.uniform(place, other),
                });
                self.row[id] = Some(register);
                continue;
            }
            // All reductions that need no row value that is still to come
            // share a loop.
            let ready: Vec<usize> = (id..self.values.len())
                .filter(|&other| matches!(self.values[other].code, Code::Reduce(_) | Code::Dot))
                .filter(|&other| values::needs(self.values, other).iter().all(|&row| self.row[row].is_some()))
                .collect();
            self.reduce(place, &ready);
        }
    }

    fn reduce(&mut self, place: &Place, ids: &[usize]) {
        let mut sums = Vec::new();
        let mut operands = Vec::new();
        for &id in ids {
            let value = self.values[id];
            let most = value.code == Code::Reduce(Reduction::Maximum);
            let start = math::constant(if most { f32::NEG_INFINITY } else { 0.0 });
            sums.push(self.float("mov.f32", &[&start]));
            operands.push((value.code, value.from[0], value.from[1].or(value.from[0])));
        }
        let wanted: Vec<From> = operands.iter().flat_map(|&(_, a, b)| [a, b]).flatten().collect();
        self.columns_of(place, &wanted, &mut |this, values, _, on| {
            for ((pair, sum), (code, _, _)) in values.chunks(2).zip(&sums).zip(&operands) {
                let idle = if *code == Code::Reduce(Reduction::Maximum) { f32::NEG_INFINITY } else { 0.0 };
                let a = this.choose(&pair[0], &math::constant(idle), on);
                let next = match code {
                    Code::Dot => {
                        let b = this.choose(&pair[1], &math::constant(0.0), on);
                        this.float("fma.rn.f32", &[&a, &b, sum])
                    }
                    Code::Reduce(Reduction::Maximum) => this.extreme("setp.ge.f32", sum, &a),
                    _ => this.float("add.rn.f32", &[sum, &a]),
                };
                line!(this, "mov.f32 {sum}, {next};");
            }
        });
        for ((&id, sum), (code, _, _)) in ids.iter().zip(sums).zip(operands) {
            let mut all = sum;
            for mask in [16, 8, 4, 2, 1] {
                let bits = self.word("mov.b32", &[&all]);
                let other = self.word("shfl.sync.bfly.b32", &[&bits, &mask.to_string(), "31", "0xffffffff"]);
                let other = self.float("mov.b32", &[&other]);
                all = match code {
                    Code::Reduce(Reduction::Maximum) => self.extreme("setp.ge.f32", &all, &other),
                    _ => self.float("add.rn.f32", &[&all, &other]),
                };
            }
            self.row[id] = Some(all);
        }
    }

    /// A loop over the columns of a row or piece, in which these values are.
    fn columns(&mut self, place: &Place, ids: &[usize], each: &mut Each<'_, Self>) {
        let wanted: Vec<From> = ids.iter().map(|&id| From::Value(id)).collect();
        self.columns_of(place, &wanted, each);
    }

    fn columns_of(&mut self, place: &Place, wanted: &[From], each: &mut Each<'_, Self>) {
        let needed = values::elements_of(self.values, wanted);
        let count = if needed.len() <= SHORT { 4 } else { 1 };
        let at = self.long("mov.u64", &[&place.start]);
        let (again, out) = (self.label(), self.label());
        let _ = writeln!(self.out, "{again}:");
        let over = self.test("setp.ge.u64", &at, &place.end);
        line!(self, "@{over} bra {out};");
        // Loads of all columns first, so that they are on their way together.
        let mut columns = Vec::new();
        for n in 0..count {
            let col = self.long("add.u64", &[&at, &place.lane]);
            let col = if n == 0 { col } else { self.long("add.u64", &[&col, &(32 * n).to_string()]) };
            let on = self.test("setp.lt.u64", &col, &place.end);
            let (mut loaded, mut halves) = (Loaded::new(), Loaded::new());
            for from in values::loads(self.values, &needed, wanted) {
                let (tensor, first, dtype) = match from {
                    From::ElementInput(k) => {
                        (&place.inputs[k], Some(&place.base), self.program.input_types[k])
                    }
                    From::ColInput(k) => (&place.inputs[k], None, DType::F32),
                    _ => continue,
                };
                let address = match first {
                    Some(base) => self.address(dtype, tensor, base, Some(&col)),
                    None => self.address(dtype, tensor, &col, None),
                };
                if dtype == DType::Bf16 {
                    let bits = self.word("mov.b32", &["0"]);
                    line!(self, "@{on} ld.global.u16 {bits}, [{address}];");
                    halves.push((from, bits));
                } else {
                    let to = self.float("mov.f32", &[&math::constant(0.0)]);
                    line!(self, "@{on} ld.global.f32 {to}, [{address}];");
                    loaded.push((from, to));
                }
            }
            columns.push((col, on, loaded, halves));
        }
        for (col, on, mut loaded, halves) in columns {
            for (from, bits) in halves {
                let bits = self.word("shl.b32", &[&bits, "16"]);
                loaded.push((from, self.float("mov.b32", &[&bits])));
            }
            let mut made: Vec<Option<String>> = vec![None; self.values.len()];
            for &id in &needed {
                let value = self.values[id];
                let register = if value.code == Code::ColIndex {
                    self.float("cvt.rn.f32.u64", &[&col])
                } else {
                    self.compute(place, &value, &mut |this, from| this.element(place, from, &made, &loaded))
                };
                made[id] = Some(register);
            }
            let values: Vec<String> =
                wanted.iter().map(|&from| self.element(place, from, &made, &loaded)).collect();
            each(self, &values, &col, &on);
        }
        line!(self, "add.u64 {at}, {at}, {};", 32 * count);
        line!(self, "bra {again};");
        let _ = writeln!(self.out, "{out}:");
    }

    /// A source of an element instruction.
    fn element(
        &mut self,
        place: &Place,
        from: From,
        made: &[Option<String>],
        loaded: &[(From, String)],
    ) -> String {
        match from {
            From::Value(id) => made[id].clone().or_else(|| self.row[id].clone()).unwrap_or_default(),
            From::ElementInput(_) | From::ColInput(_) => {
                loaded.iter().find(|(known, _)| *known == from).map(|l| l.1.clone()).unwrap_or_default()
            }
            other => self.uniform(place, other),
        }
    }

    /// A source that is the same for the whole row.
    fn uniform(&mut self, place: &Place, from: From) -> String {
        match from {
            From::Constant(bits) => self.float("mov.f32", &[&math::constant(f32::from_bits(bits))]),
            From::ScalarInput(k) => self.float("ld.global.f32", &[&format!("[{}]", place.inputs[k])]),
            From::RowInput(k) => {
                let address = self.address(DType::F32, &place.inputs[k], &place.row, None);
                self.float("ld.global.f32", &[&format!("[{address}]")])
            }
            From::Value(_) | From::ElementInput(_) | From::ColInput(_) => String::new(),
        }
    }

    /// The larger (or smaller) of a and b; NaN wins, as in `cuda.cuh`.
    fn extreme(&mut self, test: &str, a: &str, b: &str) -> String {
        let (first, nan) = (self.test(test, a, b), self.test("setp.nan.f32", a, a));
        let either = self.fresh(File::Predicate);
        line!(self, "or.pred {either}, {first}, {nan};");
        self.choose(a, b, &either)
    }

    /// One instruction's result in a new register.
    fn compute(
        &mut self,
        place: &Place,
        value: &Value,
        source: &mut dyn FnMut(&mut Self, From) -> String,
    ) -> String {
        let mut s: Vec<String> = Vec::new();
        for from in value.sources() {
            s.push(source(self, from));
        }
        let zero = math::constant(0.0);
        let one = math::constant(1.0);
        match value.code {
            Code::Load | Code::Broadcast => self.float("mov.f32", &[&s[0]]),
            Code::Constant(number) => self.float("mov.f32", &[&math::constant(number)]),
            Code::Scalar(k) => self.uniform(place, From::ScalarInput(k)),
            Code::Unary(op) => self.unary(op, &s[0]),
            Code::Binary(op) | Code::ByRow(op) => self.binary(op, &s[0], &s[1]),
            Code::Select => {
                let positive = self.test("setp.gt.f32", &s[0], &zero);
                self.choose(&s[1], &s[2], &positive)
            }
            Code::Triple
            | Code::Gated(_)
            | Code::SignOfProducts { .. }
            | Code::LessProducts { .. }
            | Code::Twins { .. }
            | Code::ThenCube(_)
            | Code::Shaped(..) => {
                unreachable!("not in a plain listing")
            }
            Code::Sign => {
                let (above, below) =
                    (self.test("setp.gt.f32", &s[0], &zero), self.test("setp.lt.f32", &s[0], &zero));
                let (above, below) = (self.choose(&one, &zero, &above), self.choose(&one, &zero, &below));
                self.float("sub.rn.f32", &[&above, &below])
            }
            Code::Products { subtract } => {
                let (a, b) =
                    (self.float("mul.rn.f32", &[&s[0], &s[1]]), self.float("mul.rn.f32", &[&s[2], &s[3]]));
                self.float(if subtract { "sub.rn.f32" } else { "add.rn.f32" }, &[&a, &b])
            }
            Code::ProductThen { subtract } => {
                let product = self.float("mul.rn.f32", &[&s[0], &s[1]]);
                self.float(if subtract { "sub.rn.f32" } else { "add.rn.f32" }, &[&product, &s[2]])
            }
            Code::ThenProduct { subtract } => {
                let product = self.float("mul.rn.f32", &[&s[0], &s[1]]);
                self.float(if subtract { "sub.rn.f32" } else { "add.rn.f32" }, &[&s[2], &product])
            }
            // Inputs of bfloat16 and per-column ones are loads, reductions and
            // columns are made by their callers.
            Code::Widen(_) | Code::Spread(_) | Code::ColIndex | Code::Reduce(_) | Code::Dot => String::new(),
        }
    }

    fn unary(&mut self, op: UnaryOp, x: &str) -> String {
        let (zero, one) = (math::constant(0.0), math::constant(1.0));
        match op {
            UnaryOp::Negate => self.float("neg.f32", &[x]),
            UnaryOp::Absolute => self.float("abs.f32", &[x]),
            UnaryOp::Reciprocal => self.float("rcp.rn.f32", &[x]),
            UnaryOp::Square => self.float("mul.rn.f32", &[x, x]),
            UnaryOp::SquareRoot => self.float("sqrt.rn.f32", &[x]),
            UnaryOp::ReciprocalSquareRoot => {
                let root = self.float("sqrt.rn.f32", &[x]);
                self.float("rcp.rn.f32", &[&root])
            }
            UnaryOp::Relu => {
                let below = self.test("setp.le.f32", x, &zero);
                self.choose(&zero, x, &below)
            }
            UnaryOp::Step => {
                let above = self.test("setp.gt.f32", x, &zero);
                self.choose(&one, &zero, &above)
            }
            UnaryOp::Floor => self.float("cvt.rmi.f32.f32", &[x]),
            UnaryOp::Exponential => self.exp(x),
            UnaryOp::Logarithm => self.ln(x),
            UnaryOp::Tanh => self.tanh(x),
            UnaryOp::Sigmoid => self.sigmoid(x),
            // Refused by `values::number`.
            UnaryOp::Sine | UnaryOp::Cosine => String::new(),
        }
    }

    fn binary(&mut self, op: BinaryOp, a: &str, b: &str) -> String {
        match op {
            BinaryOp::Add => self.float("add.rn.f32", &[a, b]),
            BinaryOp::Subtract => self.float("sub.rn.f32", &[a, b]),
            BinaryOp::Multiply => self.float("mul.rn.f32", &[a, b]),
            BinaryOp::Divide => self.float("div.rn.f32", &[a, b]),
            BinaryOp::Minimum => self.extreme("setp.le.f32", a, b),
            BinaryOp::Maximum => self.extreme("setp.ge.f32", a, b),
            BinaryOp::LessThan => {
                let less = self.test("setp.lt.f32", a, b);
                self.choose(&math::constant(1.0), &math::constant(0.0), &less)
            }
            // Refused by `values::number`.
            BinaryOp::Power => String::new(),
        }
    }

    fn finish(self) -> String {
        let Emitter { out, registers: [p, f, r, d], .. } = self;
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n\n\
             .visible .entry {NAME}(.param .align 8 .b8 a[{ARGUMENT_BYTES}])\n.maxntid 256, 1, 1\n{{\n    \
             .reg .pred %p<{}>;\n    .reg .f32 %f<{}>;\n    .reg .b32 %r<{}>;\n    .reg .b64 %d<{}>;\n{out}}}\n",
            p + 1,
            f + 1,
            r + 1,
            d + 1,
        )
    }
}

/// Where a warp works: registers.
struct Place {
    /// Of inputs, then stores; empty where unused.
    inputs: Vec<String>,
    row: String,
    /// First column, and the one after the last.
    start: String,
    end: String,
    /// Elements before the row.
    base: String,
    lane: String,
}

/// A register of the interpreter's, for [`values`].
fn is_row(register: Register) -> bool {
    matches!(register, Register::Row(_))
}
