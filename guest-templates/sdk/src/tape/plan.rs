//! From a tape to a graph: memory planning and recording.
//!
//! Each temporary is alive from the first operation that names it to the
//! last. Temporaries are placed, largest first, at the lowest address where
//! they meet no other that is alive at the same time (greedy by size; Pisarchyk
//! & Lee 2020, arXiv 2001.03288), in one arena for each element type.

use std::collections::BTreeMap;

use super::{Slot, Storage, Tape, operands};
use crate::bindings::trainer::terrarium::guest::compute::Op;
use crate::error::{Error, Result};
use crate::host;
use crate::tensor::{Dtype, Tensor, elements};

/// Elements to which temporaries are aligned (64 bytes, or 32 of bfloat16).
const ALIGNMENT: u64 = 16;
/// Elements of a row of a large arena.
const ARENA_ROW: u64 = 1 << 20;
/// The element types that have an arena.
const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Int32, Dtype::Bfloat16];

/// A recorded list of operations. Clones of its tensors stay alive with it.
pub struct Graph {
    handle: u64,
    cost: u64,
    arena_elements: u64,
    _tensors: Vec<Tensor>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A refusal here means that the host already dropped everything.
        let _ = host::free_graph(self.handle);
    }
}

impl Graph {
    /// Runs it once. Fails with `budget-exhausted`, and without having
    /// started, if the budget does not cover it.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: Tape) -> Result<()> {
    /// let step = t.record()?;
    /// for _ in 0..10 {
    ///     step.replay()?; // costs step.cost() of device fuel
    /// }
    /// # Ok(()) }
    /// ```
    pub fn replay(&self) -> Result<()> {
        host::replay(self.handle)
    }

    /// Device fuel of one replay.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Elements that its temporaries take together.
    pub fn arena_elements(&self) -> u64 {
        self.arena_elements
    }
}

/// A temporary's life and place.
struct Piece {
    slot: usize,
    len: u64,
    first: usize,
    last: usize,
    offset: u64,
    dtype: Dtype,
}

impl Tape {
    /// Plans memory, hands the operations to the host, and returns the graph.
    /// Recording costs no device fuel; its time and guest fuel grow with the
    /// number of operations.
    pub fn record(self) -> Result<Graph> {
        let (ops, tensors, arena_elements) = self.lower()?;
        let handle = host::record_graph(&ops).map_err(|e| e.during("record"))?;
        let mut graph = Graph { handle, cost: 0, arena_elements, _tensors: tensors };
        graph.cost = host::cost(handle)?;
        Ok(graph)
    }

    /// Runs the operations once, without recording them.
    pub fn run(self) -> Result<()> {
        let (ops, _tensors, _) = self.lower()?;
        host::submit(&ops)
    }

    /// Operations so far.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True before the first operation.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn lower(mut self) -> Result<(Vec<Op>, Vec<Tensor>, u64)> {
        let mut ops = std::mem::take(&mut self.ops);
        let (offsets, totals) = self.place(&mut ops)?;
        let mut resolver =
            Resolver { tape: &self, offsets, arenas: Vec::new(), made: BTreeMap::new(), tensors: Vec::new() };
        for (dtype, &total) in DTYPES.into_iter().zip(&totals).filter(|(_, total)| **total > 0) {
            // No dimension may be longer than 2³².
            let rows = u32::try_from(total.div_ceil(ARENA_ROW))
                .map_err(|_| Error::invalid("the tape needs more than 2⁵² elements"))?;
            let shape = if rows == 1 { vec![total as u32] } else { vec![rows, ARENA_ROW as u32] };
            let arena = Tensor::alloc(dtype, &shape).map_err(|e| e.during("memory for the tape"))?;
            resolver.arenas.push(arena);
        }
        for op in &mut ops {
            let mut failed = None;
            operands::for_each(op, &mut |name| match resolver.resolve(*name as usize) {
                Ok(raw) => *name = raw,
                Err(error) => failed = Some(error),
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
        let mut tensors = resolver.tensors;
        tensors.extend(resolver.arenas);
        tensors.extend(self.slots.into_iter().filter_map(|entry| match entry.storage {
            Storage::Tensor(tensor) => Some(tensor),
            _ => None,
        }));
        Ok((ops, tensors, totals.iter().sum()))
    }

    /// The place of every temporary, by slot number, and the arenas' sizes.
    fn place(&self, ops: &mut [Op]) -> Result<(Vec<u64>, [u64; 3])> {
        let mut lives: Vec<Option<(usize, usize)>> = vec![None; self.slots.len()];
        let mut unknown = false;
        for (at, op) in ops.iter_mut().enumerate() {
            operands::for_each(op, &mut |name| {
                let Some(entry) = self.slots.get(*name as usize) else {
                    unknown = true;
                    return;
                };
                let root = match entry.storage {
                    Storage::View { of, .. } => of.0 as usize,
                    _ => *name as usize,
                };
                let life = lives[root].get_or_insert((at, at));
                life.1 = at;
            });
        }
        if unknown {
            return Err(Error::invalid("an operation names a slot that this tape did not make"));
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (slot, (entry, life)) in self.slots.iter().zip(&lives).enumerate() {
            if let (Storage::Temporary, Some((first, last))) = (&entry.storage, *life) {
                let len = elements(&entry.shape).div_ceil(ALIGNMENT) * ALIGNMENT;
                pieces.push(Piece { slot, len, first, last, offset: 0, dtype: entry.dtype });
            }
        }
        pieces.sort_by_key(|p| (std::cmp::Reverse(p.len), p.slot));
        let mut totals = [0; 3];
        let mut busy: Vec<(u64, u64)> = Vec::new();
        for i in 0..pieces.len() {
            let (placed, rest) = pieces.split_at_mut(i);
            let piece = &mut rest[0];
            busy.clear();
            busy.extend(
                placed
                    .iter()
                    .filter(|p| p.dtype == piece.dtype && p.first <= piece.last && piece.first <= p.last)
                    .map(|p| (p.offset, p.offset + p.len)),
            );
            busy.sort_unstable();
            for &(start, end) in &busy {
                if start >= piece.offset + piece.len {
                    break;
                }
                piece.offset = piece.offset.max(end);
            }
            let place = DTYPES.iter().position(|dtype| *dtype == piece.dtype).unwrap_or(0);
            totals[place] = totals[place].max(piece.offset + piece.len);
        }
        let mut offsets = vec![0; self.slots.len()];
        for piece in &pieces {
            offsets[piece.slot] = piece.offset;
        }
        Ok((offsets, totals))
    }
}

/// Turns slot numbers into tensor handles, making each needed view once.
struct Resolver<'t> {
    tape: &'t Tape,
    offsets: Vec<u64>,
    /// One for each element type that needs it.
    arenas: Vec<Tensor>,
    /// By (storage's handle, offset, shape).
    made: BTreeMap<(u64, u64, Vec<u32>), u64>,
    tensors: Vec<Tensor>,
}

impl Resolver<'_> {
    fn resolve(&mut self, slot: usize) -> Result<u64> {
        let entry = &self.tape.slots[slot];
        let (root, offset) = match entry.storage {
            Storage::View { of, offset } => (of, offset),
            _ => (Slot(slot as u32), 0),
        };
        let arena = self.arenas.iter().find(|arena| arena.dtype() == entry.dtype);
        let (base, offset) = match (&self.tape.slots[root.0 as usize].storage, arena) {
            (Storage::Tensor(tensor), _) => (tensor.clone(), offset),
            (_, Some(arena)) => (arena.clone(), self.offsets[root.0 as usize] + offset),
            (_, None) => return Err(Error::invalid("a temporary without an arena")),
        };
        if offset == 0 && base.shape() == entry.shape {
            return Ok(base.raw());
        }
        let key = (base.raw(), offset, entry.shape.clone());
        if let Some(&raw) = self.made.get(&key) {
            return Ok(raw);
        }
        let view = base.view(offset, &entry.shape)?;
        let raw = view.raw();
        self.made.insert(key, raw);
        self.tensors.push(view);
        Ok(raw)
    }
}
