//! Small functions that their callers pay for.

use std::collections::BTreeSet;

use wasmparser::{BinaryReaderError, FunctionBody, Operator};

use super::LEAF_FUEL;
use super::function::{entry_cost, operator_cost};

/// What a call of each function costs, where that is the same for all calls.
pub(super) struct Leaves {
    imported: u32,
    /// By defined function.
    costs: Vec<Option<i64>>,
}

/// A function that may be a leaf, if those that it calls are.
struct Candidate {
    cost: i64,
    calls: Vec<u32>,
}

impl Leaves {
    /// Finds the leaves. `named` are the functions that something else than a
    /// direct call can reach. The bodies need not be valid.
    pub(super) fn find<'a>(
        imported: u32,
        bodies: impl Iterator<Item = &'a FunctionBody<'a>>,
        named: &BTreeSet<u32>,
    ) -> Result<Self, BinaryReaderError> {
        let mut candidates = Vec::new();
        for (index, body) in (imported..).zip(bodies) {
            candidates.push(if named.contains(&index) { None } else { candidate(body)? });
        }
        let mut leaves = Self { imported, costs: vec![None; candidates.len()] };
        // From the bottom up. A leaf that calls others in a chain costs at
        // least one for each, so no chain is longer than this.
        for _ in 0..LEAF_FUEL {
            let mut found = false;
            for (at, candidate) in candidates.iter().enumerate() {
                if let Some(candidate) = candidate
                    && leaves.costs[at].is_none()
                    && let Some(cost) = leaves.total(candidate)
                {
                    leaves.costs[at] = Some(cost);
                    found = true;
                }
            }
            if !found {
                break;
            }
        }
        Ok(leaves)
    }

    /// What a call of this function costs beyond the instruction itself, if
    /// it is a leaf.
    pub(super) fn cost(&self, function: u32) -> Option<i64> {
        let defined = usize::try_from(function.checked_sub(self.imported)?).ok()?;
        self.costs.get(defined).copied().flatten()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.costs.iter().flatten().count() as u32
    }

    fn total(&self, candidate: &Candidate) -> Option<i64> {
        let mut cost = candidate.cost;
        for callee in &candidate.calls {
            cost += self.cost(*callee)?;
        }
        (cost <= LEAF_FUEL).then_some(cost)
    }
}

fn candidate(body: &FunctionBody<'_>) -> Result<Option<Candidate>, BinaryReaderError> {
    let mut locals = 0u32;
    for group in body.get_locals_reader()? {
        locals = locals.saturating_add(group?.0);
    }
    let mut candidate = Candidate { cost: entry_cost(locals), calls: Vec::new() };
    for operator in body.get_operators_reader()? {
        let operator = operator?;
        candidate.cost += operator_cost(&operator);
        match operator {
            Operator::Call { function_index } => candidate.calls.push(function_index),
            Operator::Loop { .. }
            | Operator::CallIndirect { .. }
            | Operator::MemoryGrow { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryInit { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. } => return Ok(None),
            _ => {}
        }
        if candidate.cost > LEAF_FUEL {
            return Ok(None);
        }
    }
    Ok(Some(candidate))
}
