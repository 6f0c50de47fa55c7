//! Elementary functions as PTX: the polynomials of `cpu/math.rs`, operation
//! by operation.

use super::{Emitter, File};

/// A float as PTX writes its bits.
pub(super) fn constant(value: f32) -> String {
    format!("0f{:08X}", value.to_bits())
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;
const ROUND: f32 = 12_582_912.0;
const EXP_MAX: f32 = 88.722_83;
const EXP_MIN: f32 = -87.336_54;

impl Emitter<'_> {
    /// a·b + c with numbers for b and c.
    fn horner(&mut self, start: f32, by: &str, rest: &[f32]) -> String {
        let mut p = self.float("mov.f32", &[&constant(start)]);
        for &term in rest {
            p = self.float("fma.rn.f32", &[&p, by, &constant(term)]);
        }
        p
    }

    pub(super) fn exp(&mut self, x: &str) -> String {
        let (least, most) = (constant(EXP_MIN), constant(EXP_MAX));
        let below = self.test("setp.lt.f32", x, &least);
        let low = self.choose(&least, x, &below);
        let above = self.test("setp.gt.f32", &low, &most);
        let clamped = self.choose(&most, &low, &above);
        let shifted = self.float("fma.rn.f32", &[&clamped, &constant(LOG2_E), &constant(ROUND)]);
        let n = self.float("sub.rn.f32", &[&shifted, &constant(ROUND)]);
        let r = self.float("fma.rn.f32", &[&n, &constant(-LN_2_HIGH), &clamped]);
        let r = self.float("fma.rn.f32", &[&n, &constant(-LN_2_LOW), &r]);
        let terms = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let p = self.horner(1.0 / 5040.0, &r, &terms);
        let bits = self.word("mov.b32", &[&shifted]);
        let n = self.word("and.b32", &[&bits, "0x00ffffff"]);
        let n = self.word("sub.s32", &[&n, "0x00400000"]);
        let half = self.word("shr.s32", &[&n, "1"]);
        let rest = self.word("sub.s32", &[&n, &half]);
        let mut value = p;
        for exponent in [half, rest] {
            let biased = self.word("add.s32", &[&exponent, "127"]);
            let bits = self.word("shl.b32", &[&biased, "23"]);
            let scale = self.float("mov.b32", &[&bits]);
            value = self.float("mul.rn.f32", &[&value, &scale]);
        }
        let value = self.choose(&constant(0.0), &value, &below);
        let above = self.test("setp.gt.f32", x, &most);
        self.choose(&constant(f32::INFINITY), &value, &above)
    }

    pub(super) fn sigmoid(&mut self, x: &str) -> String {
        let size = self.float("abs.f32", &[x]);
        let negative = self.float("neg.f32", &[&size]);
        let e = self.exp(&negative);
        let sum = self.float("add.rn.f32", &[&e, &constant(1.0)]);
        let positive = self.float("rcp.rn.f32", &[&sum]);
        let other = self.float("mul.rn.f32", &[&e, &positive]);
        let at_least_zero = self.test("setp.ge.f32", x, &constant(0.0));
        self.choose(&positive, &other, &at_least_zero)
    }

    pub(super) fn tanh(&mut self, x: &str) -> String {
        let a = self.float("abs.f32", &[x]);
        let twice = self.float("mul.rn.f32", &[&a, &constant(-2.0)]);
        let e = self.exp(&twice);
        let above = self.float("sub.rn.f32", &[&constant(1.0), &e]);
        let below = self.float("add.rn.f32", &[&constant(1.0), &e]);
        let large = self.float("div.rn.f32", &[&above, &below]);
        let s = self.float("mul.rn.f32", &[&a, &a]);
        let terms = [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0];
        let p = self.horner(-1382.0 / 155_925.0, &s, &terms);
        let cube = self.float("mul.rn.f32", &[&a, &s]);
        let small = self.float("fma.rn.f32", &[&cube, &p, &a]);
        let is_small = self.test("setp.lt.f32", &a, &constant(0.3));
        let magnitude = self.choose(&small, &large, &is_small);
        // The magnitude with the sign of x.
        let bits = self.word("mov.b32", &[&magnitude]);
        let size = self.word("and.b32", &[&bits, "0x7fffffff"]);
        let bits = self.word("mov.b32", &[x]);
        let sign = self.word("and.b32", &[&bits, "0x80000000"]);
        let both = self.word("or.b32", &[&size, &sign]);
        self.float("mov.b32", &[&both])
    }

    pub(super) fn ln(&mut self, x: &str) -> String {
        let tiny = self.test("setp.lt.f32", x, &constant(f32::MIN_POSITIVE));
        let grown = self.float("mul.rn.f32", &[x, &constant(8_388_608.0)]);
        let y = self.choose(&grown, x, &tiny);
        let bias = self.choose(&constant(23.0), &constant(0.0), &tiny);
        let bits = self.word("mov.b32", &[&y]);
        let bits = self.word("sub.s32", &[&bits, "0x3f3504f3"]);
        let n = self.word("shr.s32", &[&bits, "23"]);
        let m = self.word("and.b32", &[&bits, "0x007fffff"]);
        let m = self.word("add.s32", &[&m, "0x3f3504f3"]);
        let m = self.float("mov.b32", &[&m]);
        let n = self.float("cvt.rn.f32.s32", &[&n]);
        let n = self.float("sub.rn.f32", &[&n, &bias]);
        let (one, minus) = (constant(1.0), constant(-1.0));
        let (less, more) = (self.float("add.rn.f32", &[&m, &minus]), self.float("add.rn.f32", &[&m, &one]));
        let s = self.float("div.rn.f32", &[&less, &more]);
        let q = self.float("mul.rn.f32", &[&s, &s]);
        let p = self.horner(1.0 / 9.0, &q, &[1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0]);
        let twice = self.float("add.rn.f32", &[&s, &s]);
        let cube = self.float("mul.rn.f32", &[&twice, &q]);
        let ln_m = self.float("fma.rn.f32", &[&cube, &p, &twice]);
        let value = self.float("fma.rn.f32", &[&n, &constant(LN_2_LOW), &ln_m]);
        let value = self.float("fma.rn.f32", &[&n, &constant(LN_2_HIGH), &value]);
        let endless = self.test("setp.eq.f32", x, &constant(f32::INFINITY));
        let value = self.choose(x, &value, &endless);
        let nothing = self.test("setp.eq.f32", x, &constant(0.0));
        let value = self.choose(&constant(f32::NEG_INFINITY), &value, &nothing);
        let (below, nan) = (self.test("setp.lt.f32", x, &constant(0.0)), self.test("setp.nan.f32", x, x));
        let undefined = self.fresh(File::Predicate);
        self.out.push_str(&format!("    or.pred {undefined}, {below}, {nan};\n"));
        self.choose(&constant(f32::NAN), &value, &undefined)
    }
}
