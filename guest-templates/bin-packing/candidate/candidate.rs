//! Puts items into bins as they come: the next is seen only after the last was
//! put away.
//!
//! Each call brings capacity and item as u32, little-endian; the answer is the
//! number of the bin as u32, counted from 0 in the order of opening. The number
//! of bins so far opens another. An instance of this type packs one sequence.
//!
//! Bins with the same room are alike, so only their number counts. Of all rooms
//! that the item fits into, the one is taken where it costs least: the cost
//! says how welcome the room that would be left is, beside the room that is
//! used up. Rooms that items of the sizes seen so far would fill exactly are
//! welcome, rooms too small for most of them are not.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START packing
/// What makes a room welcome.
#[derive(Clone, Copy)]
struct Taste {
    /// How fast a small waste becomes as bad as can be, as a share of capacity.
    waste_scale: f64,
    /// How much a small waste costs.
    waste: f64,
    /// How much many bins of the same room cost.
    crowd: f64,
    /// Growth of that cost with their number.
    crowd_power: f64,
    /// How much a new bin costs.
    open: f64,
    /// How much a room costs by its size.
    large: f64,
    /// Growth of that cost with the size.
    large_power: f64,
    /// How welcome a room is that an item of a frequent size fills.
    fitting: f64,
    /// How welcome a room is that two items of frequent sizes fill.
    fitting_two: f64,
}

impl Taste {
    fn from_knobs() -> Self {
        Self {
            waste_scale: knobs::number("waste_scale", 0.1, 0.01, 0.6, Logarithmic),
            waste: knobs::number("waste", 1.0, 0.0, 10.0, Linear),
            crowd: knobs::number("crowd", 0.02, 0.0001, 3.0, Logarithmic),
            crowd_power: knobs::number("crowd_power", 1.0, 0.3, 2.0, Linear),
            open: knobs::number("open", 1.0, 0.0, 10.0, Linear),
            large: knobs::number("large", 0.0, -3.0, 3.0, Linear),
            large_power: knobs::number("large_power", 1.0, 0.3, 4.0, Linear),
            fitting: knobs::number("fitting", 0.0, 0.0, 100.0, Linear),
            fitting_two: knobs::number("fitting_two", 0.0, 0.0, 100.0, Linear),
        }
    }
}

/// The state of one sequence.
struct Bins {
    taste: Taste,
    capacity: usize,
    opened: u32,
    /// Numbers of the open bins, by their room.
    by_room: Vec<Vec<u32>>,
    /// Items seen, by size.
    seen: Vec<f64>,
    total: f64,
    /// Pairs of items seen, by the sum of their sizes.
    pairs: Vec<f64>,
}

impl Bins {
    fn new(capacity: usize) -> Self {
        Self {
            taste: Taste::from_knobs(),
            capacity,
            opened: 0,
            by_room: vec![Vec::new(); capacity + 1],
            seen: vec![0.0; capacity + 1],
            total: 0.0,
            pairs: vec![0.0; capacity + 1],
        }
    }

    fn place(&mut self, item: usize) -> u32 {
        for size in 0..=self.capacity - item {
            self.pairs[size + item] += self.seen[size];
        }
        self.seen[item] += 1.0;
        self.total += 1.0;
        let mut best = (self.cost(self.capacity, item) + self.taste.open, self.capacity);
        for room in item..self.capacity {
            if !self.by_room[room].is_empty() {
                let cost = self.cost(room, item);
                if cost < best.0 {
                    best = (cost, room);
                }
            }
        }
        let room = best.1;
        let bin = match self.by_room[room].pop() {
            Some(bin) => bin,
            None => {
                self.opened += 1;
                self.opened - 1
            }
        };
        self.by_room[room - item].push(bin);
        bin
    }

    /// What it costs to put an item into a bin with this room.
    fn cost(&self, room: usize, item: usize) -> f64 {
        self.burden(room - item, 0.0) - self.burden(room, 1.0)
    }

    /// What it costs to have one more bin of this room, of which `less` are
    /// about to go.
    fn burden(&self, room: usize, less: f64) -> f64 {
        if room == 0 || room == self.capacity {
            return 0.0;
        }
        let taste = self.taste;
        let share = room as f64 / self.capacity as f64;
        let waste = taste.waste * share.min(0.2) * (-share / taste.waste_scale).exp();
        let crowd = taste.crowd * (self.by_room[room].len() as f64 - less).max(0.0).powf(taste.crowd_power);
        let large = taste.large * share.powf(taste.large_power);
        let all = self.total + 20.0;
        let one = taste.fitting * self.seen[room] / all;
        let two = taste.fitting_two * 2.0 * self.pairs[room] / (all * all);
        10.0 * waste + crowd + large - one - two
    }
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Packer {
    bins: Option<Bins>,
}

impl Function for Packer {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(input) else {
            return Err(Error::invalid("the input is 8 bytes: capacity and item as u32"));
        };
        let capacity = u32::from_le_bytes([a, b, c, d]).clamp(1, 10_000) as usize;
        let item = u32::from_le_bytes([e, f, g, h]) as usize;
        if item > capacity {
            return Err(Error::invalid("the item is larger than a bin"));
        }
        let bins = self.bins.get_or_insert_with(|| Bins::new(capacity));
        Ok(bins.place(item).to_le_bytes().to_vec())
    }
}

export_function!(Packer);
