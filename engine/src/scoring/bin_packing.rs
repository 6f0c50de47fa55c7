//! Online bin packing: items come one by one, and each must be put into a bin
//! before the next is seen. The score is the excess over the L1 bound: with
//! ⌈Σ items / capacity⌉ the least number of bins by volume, used / least − 1,
//! as a share of one, for all instances of an evaluation together.
//!
//! The candidate is called once for each item, and gets nothing but that
//! item: the next call is made only after it answered. So nothing of the
//! future is in its memory, whatever it does. Each instance is packed by a
//! fresh copy of the candidate, which remembers nothing of the others.
//!
//! A call's input is capacity and item, as u32; its output is the number of
//! the bin, as u32, counted from 0 in the order of opening. The number of bins
//! so far opens another.
//!
//! Instances are drawn from the seed as in the literature: OR3 is of the
//! OR-Library's class u (E. Falkenauer, 1996: uniform in 20..=100, capacity
//! 150), and Weibull is FunSearch's generator (shape 3, scale 45, rounded, at
//! most the capacity of 100). Candidates are selected on instances of the
//! nominal size; held-out instances have other sizes and other seeds. The
//! published instances (google-deepmind/funsearch, bin_packing notebook,
//! Apache-2.0 / CC-BY-4.0; OR3 is OR-Library u500) are never drawn by a
//! search: they are a problem of their own.

use super::{Fault, Scoring, invalid};
use crate::evaluate::Split;
use crate::seeds::{self, SplitMix64};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;
use terrarium_sandbox::{Job, Outcome, Product};

/// Where items come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Items {
    /// Uniform in 20..=100, capacity 150.
    Or3,
    /// Weibull of shape 3 and scale 45, capacity 100.
    #[serde(rename = "weibull-5k")]
    Weibull5k,
}

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinPacking {
    /// Where items come from.
    pub items: Items,
    /// Items of an instance: 1 to 100 000.
    pub size: u32,
    /// Instances of one evaluation: 1 to 64.
    pub instances: u32,
    /// Sizes of the held-out instances; as many of each as `instances`.
    #[serde(default)]
    pub held_out_sizes: Vec<u32>,
    /// The published instances instead of drawn ones, whatever the seed.
    #[serde(default)]
    pub published: bool,
}

/// The items of an instance.
type Instance = Vec<u32>;

#[derive(Deserialize)]
struct PublishedSet {
    instances: Vec<Instance>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Published {
    or3: Option<PublishedSet>,
    #[serde(rename = "weibull-5k")]
    weibull_5k: Option<PublishedSet>,
}

static PUBLISHED: LazyLock<Published> =
    LazyLock::new(|| serde_json::from_str(include_str!("published/bin_packing.json")).unwrap_or_default());

impl Items {
    fn capacity(self) -> u32 {
        match self {
            Self::Or3 => 150,
            Self::Weibull5k => 100,
        }
    }

    fn draw(self, random: &mut SplitMix64) -> u32 {
        match self {
            Self::Or3 => 20 + random.below(81) as u32,
            Self::Weibull5k => {
                // The inverse of 1 − exp(−(x/45)³); 1 − unit() is above 0.
                let x = 45.0 * (-(1.0 - random.unit()).ln()).cbrt();
                (x.round() as u32).clamp(1, 100)
            }
        }
    }

    fn published(self) -> Vec<Instance> {
        let set = match self {
            Self::Or3 => &PUBLISHED.or3,
            Self::Weibull5k => &PUBLISHED.weibull_5k,
        };
        set.as_ref().map(|set| set.instances.clone()).unwrap_or_default()
    }
}

impl BinPacking {
    fn instances(&self, seed: u64, split: Split) -> Vec<Instance> {
        if self.published {
            return self.items.published();
        }
        let sizes = match split {
            Split::Final if !self.held_out_sizes.is_empty() => self.held_out_sizes.as_slice(),
            _ => &[self.size],
        };
        let mut all = Vec::new();
        for size in sizes {
            for index in 0..u64::from(self.instances) {
                let seed = seeds::derive(seed, "bin packing", &[split.number(), (*size).into(), index]);
                let mut random = SplitMix64::new(seed);
                all.push((0..*size).map(|_| self.items.draw(&mut random)).collect());
            }
        }
        all
    }
}

impl Scoring for BinPacking {
    fn fault(&self) -> Option<Fault> {
        for (name, value) in [("size", self.size)]
            .into_iter()
            .chain(self.held_out_sizes.iter().map(|v| ("held_out_sizes", *v)))
        {
            if !(1..=100_000).contains(&value) {
                let what = format!("{name} = {value} is out of range: 1..=100000");
                return Some((name, what, "500 and 5000 have published figures"));
            }
        }
        if !(1..=64).contains(&self.instances) || self.held_out_sizes.len() > 8 {
            let what =
                format!("{} instances of {} held-out sizes", self.instances, self.held_out_sizes.len());
            return Some(("instances", what, "1 to 64 instances, at most 8 sizes"));
        }
        None
    }

    fn jobs(&self, seed: u64, split: Split) -> Vec<Job> {
        let capacity = self.items.capacity();
        let call = |item: u32| [capacity.to_le_bytes(), item.to_le_bytes()].concat();
        let instances = self.instances(seed, split).into_iter();
        instances.map(|items| Job::Calls { inputs: items.into_iter().map(call).collect() }).collect()
    }

    fn published_instances(&self) -> Option<super::EvaluatorConfig> {
        Some(super::EvaluatorConfig::BinPacking(Self { published: true, ..self.clone() }))
    }

    fn score(&self, products: &[Product], seed: u64, split: Split) -> Result<f64, Outcome> {
        let instances = self.instances(seed, split);
        if products.len() != instances.len() {
            return Err(invalid("not every instance was packed".into()));
        }
        let (mut used, mut least) = (0, 0);
        for (at, (product, items)) in products.iter().zip(&instances).enumerate() {
            let Product::Outputs(answers) = product else {
                return Err(invalid("the candidate was not called item by item".into()));
            };
            let bins = pack(items, answers, self.items.capacity())
                .map_err(|reason| invalid(format!("instance {at}: {reason}")))?;
            used += bins;
            least +=
                items.iter().map(|item| u64::from(*item)).sum::<u64>().div_ceil(self.items.capacity().into());
        }
        Ok((used as f64 - least as f64) / least as f64)
    }
}

/// Bins used, if every answer was allowed when it was given.
fn pack(items: &[u32], answers: &[Vec<u8>], capacity: u32) -> Result<u64, String> {
    if answers.len() != items.len() {
        return Err(format!("{} answers to {} items", answers.len(), items.len()));
    }
    let mut room: Vec<u32> = Vec::new();
    for (at, (item, answer)) in items.iter().zip(answers).enumerate() {
        let Ok(bin) = <[u8; 4]>::try_from(answer.as_slice()) else {
            return Err(format!("answer {at} has {} bytes, not the 4 of a u32", answer.len()));
        };
        let bin = u32::from_le_bytes(bin) as usize;
        if bin == room.len() {
            room.push(capacity);
        }
        let Some(left) = room.get_mut(bin) else {
            return Err(format!("item {at} was put into bin {bin}, but there are {}", room.len()));
        };
        let Some(rest) = left.checked_sub(*item) else {
            return Err(format!(
                "item {at} of size {item} was put into bin {bin}, which has room for {left}"
            ));
        };
        *left = rest;
    }
    Ok(room.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(items: Items, published: bool) -> BinPacking {
        BinPacking { items, size: 100, instances: 3, held_out_sizes: vec![40, 300], published }
    }

    /// The bin that `choose` takes among those with enough room, or a new one.
    fn packed(items: &[u32], capacity: u32, best: bool) -> Vec<Vec<u8>> {
        let mut room: Vec<u32> = Vec::new();
        let mut answers = Vec::new();
        for item in items {
            let fitting = room.iter().enumerate().filter(|(_, r)| **r >= *item);
            let bin = if best { fitting.min_by_key(|(_, r)| **r) } else { fitting.into_iter().next() };
            let bin = bin.map_or(room.len(), |(at, _)| at);
            if bin == room.len() {
                room.push(capacity);
            }
            room[bin] -= item;
            answers.push((bin as u32).to_le_bytes().to_vec());
        }
        answers
    }

    fn excess(problem: &BinPacking, best: bool) -> f64 {
        let instances = problem.instances(1, Split::Selection);
        let pack = |items: &Instance| Product::Outputs(packed(items, problem.items.capacity(), best));
        let products: Vec<Product> = instances.iter().map(pack).collect();
        problem.score(&products, 1, Split::Selection).unwrap()
    }

    #[test]
    fn first_and_best_fit_are_worth_what_was_published() {
        // B. Romera-Paredes et al., "Mathematical discoveries from program
        // search with large language models", Nature 2024, table 1.
        for (items, best, published) in [
            (Items::Or3, false, 5.74),
            (Items::Or3, true, 5.37),
            (Items::Weibull5k, false, 4.23),
            (Items::Weibull5k, true, 3.98),
        ] {
            let percent = 100.0 * excess(&problem(items, true), best);
            assert!((percent - published).abs() < 0.02, "{items:?} {best}: {percent}");
        }
    }

    #[test]
    fn drawn_instances_follow_seed_split_and_size() {
        let problem = problem(Items::Weibull5k, false);
        let sizes = |split| problem.instances(1, split).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(Split::Selection), [100; 3]);
        assert_eq!(sizes(Split::Final), [40, 40, 40, 300, 300, 300]);
        assert_eq!(problem.instances(1, Split::Selection), problem.instances(1, Split::Selection));
        assert_ne!(problem.instances(1, Split::Selection), problem.instances(2, Split::Selection));
        let mut all = problem.instances(1, Split::Final);
        all.extend(problem.instances(1, Split::Selection));
        let mut starts: Vec<&[u32]> = all.iter().map(|i| &i[..20]).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), 9, "instances repeat");
        // Mean and range as in the published ones: Γ(4/3)·45 = 40.2, 60.
        for (items, mean, low, high) in [(Items::Weibull5k, 40.2, 1, 100), (Items::Or3, 60.0, 20, 100)] {
            let mut random = SplitMix64::new(3);
            let drawn: Vec<u32> = (0..20_000).map(|_| items.draw(&mut random)).collect();
            let found = drawn.iter().sum::<u32>() as f64 / 20_000.0;
            assert!((found - mean).abs() < 0.6, "{found}");
            assert!(drawn.iter().all(|item| (low..=high).contains(item)));
        }
    }

    #[test]
    fn each_item_is_a_call_of_its_own() {
        let problem = problem(Items::Or3, false);
        let instances = problem.instances(9, Split::Selection);
        for (job, items) in problem.jobs(9, Split::Selection).iter().zip(&instances) {
            let Job::Calls { inputs } = job else { panic!("{job:?}") };
            assert_eq!(inputs.len(), items.len());
            for (input, item) in inputs.iter().zip(items) {
                assert_eq!(input[..], [150u32.to_le_bytes(), item.to_le_bytes()].concat());
            }
        }
    }

    #[test]
    fn cheats_are_worth_nothing() {
        let items = [60, 50, 40, 30];
        let answers = |bins: &[u32]| bins.iter().map(|b| b.to_le_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(pack(&items, &answers(&[0, 0, 1, 1]), 150), Ok(2));
        assert_eq!(pack(&items, &answers(&[0, 0, 0, 1]), 150), Ok(2));
        assert!(pack(&items, &answers(&[0, 0, 0, 0]), 150).unwrap_err().contains("room for 0"));
        assert!(pack(&items, &answers(&[1, 0, 0, 0]), 150).unwrap_err().contains("there are 0"));
        assert!(pack(&items, &answers(&[0, u32::MAX, 0, 0]), 150).is_err());
        assert!(pack(&items, &answers(&[0, 0, 1]), 150).unwrap_err().contains("3 answers"));
        assert!(pack(&items, &vec![vec![0; 3]; 4], 150).unwrap_err().contains("3 bytes"));
        assert!(pack(&items, &vec![Vec::new(); 4], 150).is_err());
        let problem = problem(Items::Or3, false);
        assert!(problem.score(&[], 1, Split::Selection).is_err());
        let output = [Product::Output(Vec::new()), Product::Output(Vec::new()), Product::Output(Vec::new())];
        assert!(problem.score(&output, 1, Split::Selection).is_err());
    }
}
