//! Maximises a linear function under quadratic inequalities: a feasible
//! primal-dual interior-point method with dense linear algebra, for some
//! hundred variables.
//!
//! It goes from a strictly feasible start to a local optimum and never leaves
//! the feasible set, so that it can be stopped at any time. Each step is
//! Newton's for the conditions zₖ·cₖ(x) = μ and ∇(aᵀx) + Σ zₖ∇cₖ = 0 (J.
//! Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., chapter 19), with
//! the matrix shifted until it is positive definite, and a step length that
//! lowers the barrier −aᵀx − μ·Σ log cₖ. Along a line a quadratic constraint is
//! a parabola, so the longest feasible step is known exactly.
//!
//! No call of the host is made here, and no randomness is used.

/// One inequality: constant + Σ linear + Σ products > 0.
#[derive(Clone, Debug, Default)]
struct Inequality {
    constant: f64,
    variables: Vec<usize>,
    /// Place in `variables`, factor.
    linear: Vec<(usize, f64)>,
    /// Two places in `variables`, factor.
    products: Vec<(usize, usize, f64)>,
}

impl Inequality {
    fn place(&mut self, variable: usize) -> usize {
        match self.variables.iter().position(|v| *v == variable) {
            Some(at) => at,
            None => {
                self.variables.push(variable);
                self.variables.len() - 1
            }
        }
    }

    fn value(&self, x: &[f64]) -> f64 {
        let at = |place: usize| x[self.variables[place]];
        let linear: f64 = self.linear.iter().map(|(i, factor)| factor * at(*i)).sum();
        let products: f64 = self.products.iter().map(|(i, j, factor)| factor * at(*i) * at(*j)).sum();
        self.constant + linear + products
    }

    fn gradient(&self, x: &[f64], into: &mut Vec<f64>) {
        into.clear();
        into.resize(self.variables.len(), 0.0);
        for (i, factor) in &self.linear {
            into[*i] += factor;
        }
        for (i, j, factor) in &self.products {
            into[*i] += factor * x[self.variables[*j]];
            into[*j] += factor * x[self.variables[*i]];
        }
    }
}

/// A problem: maximise objective·x where all inequalities are positive.
#[derive(Clone, Debug, Default)]
pub struct Program {
    objective: Vec<f64>,
    inequalities: Vec<Inequality>,
}

/// How far and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The barrier's weight at first: large ones start from the middle of the
    /// feasible set.
    pub first: f64,
    /// The weight at which to stop; the objective is then within about the
    /// number of active inequalities times this of a local optimum.
    pub last: f64,
    /// Factor from one weight to the next, below 1.
    pub factor: f64,
    /// Most Newton steps.
    pub steps: usize,
    /// Whether to go to the next weight after every step of full length. It
    /// saves most steps where the objective leads to the constraints anyway
    /// (radii that grow), and gets stuck where the way there is curved.
    pub hasty: bool,
}

impl Program {
    /// Without inequalities yet; the objective has one factor per variable.
    pub fn maximize(objective: Vec<f64>) -> Self {
        Self { objective, inequalities: Vec::new() }
    }

    /// Adds constant + Σ factor·x + Σ factor·x·x′ > 0. Variables are numbered
    /// from 0; one may occur more than once.
    pub fn positive(&mut self, constant: f64, linear: &[(usize, f64)], products: &[(usize, usize, f64)]) {
        let mut new = Inequality { constant, ..Inequality::default() };
        for (variable, factor) in linear {
            let place = new.place(*variable);
            new.linear.push((place, *factor));
        }
        for (a, b, factor) in products {
            let places = (new.place(*a), new.place(*b));
            new.products.push((places.0, places.1, *factor));
        }
        self.inequalities.push(new);
    }

    /// The smallest left side of an inequality: positive exactly when `x` is
    /// strictly feasible.
    pub fn slack(&self, x: &[f64]) -> f64 {
        self.inequalities.iter().map(|c| c.value(x)).fold(f64::INFINITY, f64::min)
    }

    /// objective·x.
    pub fn objective(&self, x: &[f64]) -> f64 {
        self.objective.iter().zip(x).map(|(a, x)| a * x).sum()
    }

    /// Improves a strictly feasible `x` in place; returns the Newton steps
    /// taken. An infeasible one is left as it is.
    pub fn ascend(&self, x: &mut [f64], schedule: Schedule) -> usize {
        let count = self.inequalities.len();
        let mut slacks: Vec<f64> = self.inequalities.iter().map(|c| c.value(x)).collect();
        if slacks.iter().any(|c| c.is_nan() || *c <= 0.0) {
            return 0;
        }
        let mut weight = schedule.first.max(schedule.last);
        let mut duals: Vec<f64> = slacks.iter().map(|c| weight / c).collect();
        let mut newton = Newton::new(x.len());
        let (mut slopes, mut bends) = (vec![0.0; count], vec![0.0; count]);
        for step in 0..schedule.steps {
            if !newton.direction(self, x, &slacks, &duals, weight) {
                return step;
            }
            let direction = &newton.direction;
            let mut longest = f64::INFINITY;
            for (k, c) in self.inequalities.iter().enumerate() {
                let (slope, bend) = along(c, x, direction);
                (slopes[k], bends[k]) = (slope, bend);
                longest = longest.min(first_root(0.995 * slacks[k], slope, bend));
            }
            let gain = newton.decrement;
            let mut length = longest.min(1.0);
            let rise = self.objective(direction);
            let mut accepted = false;
            for _ in 0..12 {
                let barrier: f64 = (0..count)
                    .map(|k| (1.0 + length * (slopes[k] + length * bends[k]) / slacks[k]).ln())
                    .sum();
                if length * rise + weight * barrier >= 1e-4 * length * gain - 1e-15 {
                    accepted = true;
                    break;
                }
                length *= 0.5;
            }
            if accepted {
                for (x, d) in x.iter_mut().zip(direction) {
                    *x += length * d;
                }
                let all = self.inequalities.iter().zip(&slopes).zip(&mut slacks).zip(&mut duals);
                for (((c, slope), slack), dual) in all {
                    let change = weight / *slack - *dual - *dual / *slack * slope;
                    *slack = c.value(x).max(f64::MIN_POSITIVE);
                    let centre = weight / *slack;
                    *dual = (*dual + length * change).clamp(1e-3 * centre, 1e3 * centre);
                }
            }
            // Near enough to the optimum for this weight. From the length alone
            // little follows: a shifted matrix makes short steps.
            let settled = gain < weight * (0.1 * count as f64).max(1.0);
            if weight <= schedule.last && (gain < 0.1 * weight || !accepted) {
                return step + 1;
            }
            if settled
                || !accepted
                || (length > 0.9 && (schedule.hasty || newton.shift < 1e-6 * newton.scale))
            {
                weight = (weight * schedule.factor).max(schedule.last);
            }
        }
        schedule.steps
    }
}

/// Slope and bend of an inequality along a direction: c(x + t·d) = c + slope·t
/// + bend·t².
fn along(c: &Inequality, x: &[f64], d: &[f64]) -> (f64, f64) {
    let (mut slope, mut bend) = (0.0, 0.0);
    for (i, factor) in &c.linear {
        slope += factor * d[c.variables[*i]];
    }
    for (i, j, factor) in &c.products {
        let (a, b) = (c.variables[*i], c.variables[*j]);
        slope += factor * (x[a] * d[b] + d[a] * x[b]);
        bend += factor * d[a] * d[b];
    }
    (slope, bend)
}

/// The first t > 0 where c + slope·t + bend·t² is zero, for c > 0.
fn first_root(c: f64, slope: f64, bend: f64) -> f64 {
    if slope >= 0.0 && bend >= 0.0 {
        return f64::INFINITY;
    }
    let discriminant = slope * slope - 4.0 * bend * c;
    if discriminant < 0.0 {
        return f64::INFINITY;
    }
    // Of the two roots −2c / (slope ∓ √…), the smallest that is positive.
    let denominator = slope - discriminant.sqrt();
    if denominator < 0.0 { -2.0 * c / denominator } else { f64::INFINITY }
}

/// The linear algebra of one step.
struct Newton {
    n: usize,
    /// Lower triangle, row by row, each of n numbers.
    matrix: Vec<f64>,
    factor: Vec<f64>,
    right: Vec<f64>,
    direction: Vec<f64>,
    /// right·direction: twice the gain that the quadratic model promises.
    decrement: f64,
    /// What is added to the diagonal, and its largest entry.
    shift: f64,
    scale: f64,
    gradient: Vec<f64>,
}

impl Newton {
    fn new(n: usize) -> Self {
        let zeros = || vec![0.0; n];
        Self {
            n,
            matrix: vec![0.0; n * n],
            factor: vec![0.0; n * n],
            right: zeros(),
            direction: zeros(),
            decrement: 0.0,
            shift: 0.0,
            scale: 1.0,
            gradient: Vec::new(),
        }
    }

    fn direction(
        &mut self,
        program: &Program,
        x: &[f64],
        slacks: &[f64],
        duals: &[f64],
        weight: f64,
    ) -> bool {
        let n = self.n;
        self.matrix.fill(0.0);
        self.right.copy_from_slice(&program.objective);
        for ((c, slack), dual) in program.inequalities.iter().zip(slacks).zip(duals) {
            c.gradient(x, &mut self.gradient);
            let (stiffness, push) = (dual / slack, weight / slack);
            for (i, a) in c.variables.iter().enumerate() {
                let g = self.gradient[i];
                self.right[*a] += push * g;
                let scaled = stiffness * g;
                for (j, b) in c.variables.iter().enumerate() {
                    if b <= a {
                        self.matrix[a * n + b] += scaled * self.gradient[j];
                    }
                }
            }
            for (i, j, factor) in &c.products {
                let (a, b) = (c.variables[*i], c.variables[*j]);
                let bent = if a == b { 2.0 * factor } else { *factor };
                self.matrix[a.max(b) * n + a.min(b)] -= dual * bent;
            }
        }
        let scale = (0..n).map(|i| self.matrix[i * n + i].abs()).fold(1e-12, f64::max);
        self.scale = scale;
        self.shift *= 0.3;
        if self.shift < 1e-11 * scale {
            self.shift = 0.0;
        }
        for _ in 0..40 {
            if self.decompose() {
                self.solve();
                return self.direction.iter().all(|d| d.is_finite());
            }
            self.shift = (8.0 * self.shift).max(1e-9 * scale);
        }
        false
    }

    /// Cholesky's decomposition of the shifted matrix, if it is positive
    /// definite.
    fn decompose(&mut self) -> bool {
        let n = self.n;
        for i in 0..n {
            let (above, rest) = self.factor.split_at_mut(i * n);
            let row = &mut rest[..n];
            for j in 0..=i {
                let mut sum = self.matrix[i * n + j];
                if i == j {
                    sum += self.shift;
                    sum -= dot(&row[..j], &row[..j]);
                    if sum.is_nan() || sum <= 1e-14 * self.matrix[i * n + i].abs() {
                        return false;
                    }
                    row[i] = sum.sqrt();
                } else {
                    let other = &above[j * n..j * n + j + 1];
                    sum -= dot(&row[..j], &other[..j]);
                    row[j] = sum / other[j];
                }
            }
        }
        true
    }

    fn solve(&mut self) {
        let n = self.n;
        self.direction.copy_from_slice(&self.right);
        for i in 0..n {
            let row = &self.factor[i * n..i * n + i + 1];
            self.direction[i] = (self.direction[i] - dot(&row[..i], &self.direction[..i])) / row[i];
        }
        for i in (0..n).rev() {
            let value = self.direction[i] / self.factor[i * n + i];
            self.direction[i] = value;
            for j in 0..i {
                self.direction[j] -= value * self.factor[i * n + j];
            }
        }
        self.decrement = dot(&self.right, &self.direction);
    }
}

/// Four sums at a time: shorter chains of dependent additions.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a_fours, a_rest) = a.as_chunks::<4>();
    let (b_fours, b_rest) = b.as_chunks::<4>();
    for (a, b) in a_fours.iter().zip(b_fours) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { first: 0.1, last: 1e-13, factor: 0.2, steps: 200, hasty: false };

    #[test]
    fn the_highest_point_of_a_disc_is_found() {
        let mut program = Program::maximize(vec![3.0, 4.0]);
        program.positive(1.0, &[], &[(0, 0, -1.0), (1, 1, -1.0)]);
        let mut x = [0.0, 0.1];
        let steps = program.ascend(&mut x, SCHEDULE);
        assert!((program.objective(&x) - 5.0).abs() < 1e-11 && program.slack(&x) > 0.0, "{x:?}");
        assert!(steps < 100, "{steps}");
        let mut outside = [2.0, 0.0];
        assert_eq!(program.ascend(&mut outside, SCHEDULE), 0);
        assert_eq!(outside, [2.0, 0.0]);
    }

    #[test]
    fn a_linear_program_ends_in_its_corner() {
        // x + 2y ≤ 4, 3x + y ≤ 6, both not negative: (1.6, 1.2).
        let mut program = Program::maximize(vec![1.0, 1.0]);
        program.positive(4.0, &[(0, -1.0), (1, -2.0)], &[]);
        program.positive(6.0, &[(0, -3.0), (1, -1.0)], &[]);
        program.positive(0.0, &[(0, 1.0)], &[]);
        program.positive(0.0, &[(1, 1.0)], &[]);
        let mut x = [0.5, 0.5];
        program.ascend(&mut x, SCHEDULE);
        assert!((x[0] - 1.6).abs() < 1e-9 && (x[1] - 1.2).abs() < 1e-9, "{x:?}");
    }

    #[test]
    fn two_circles_that_must_keep_apart_touch() {
        // Not convex: two circles in the unit square, Σ r = 2 − √2 at best.
        let mut program = Program::maximize(vec![0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        for i in [0, 3] {
            for v in [i, i + 1] {
                program.positive(0.0, &[(v, 1.0), (i + 2, -1.0)], &[]);
                program.positive(1.0, &[(v, -1.0), (i + 2, -1.0)], &[]);
            }
            program.positive(0.0, &[(i + 2, 1.0)], &[]);
        }
        let square = |a: usize, b: usize, f: f64| [(a, a, f), (b, b, f), (a, b, -2.0 * f)];
        let radii = [(2, 2, -1.0), (5, 5, -1.0), (2, 5, -2.0)];
        program.positive(0.0, &[], &[square(0, 3, 1.0), square(1, 4, 1.0), radii].concat());
        let mut x = [0.3, 0.35, 0.05, 0.7, 0.6, 0.05];
        program.ascend(&mut x, SCHEDULE);
        assert!((program.objective(&x) - (2.0 - 2f64.sqrt())).abs() < 1e-9, "{x:?}");
    }
}
