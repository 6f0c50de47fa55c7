//! Twenty whole runs behind glass, at the defaults of `[search]`, on a task in
//! which nothing can be better: they keep nothing. On one in which something
//! can be better, beside the same noise, they find it.

use terrarium_tests::command::{Home, TinyTask};

const RUNS: usize = 20;

/// One circle, whose radius is a constant, what the knob `x` gains, and
/// uniform noise that follows from knobs and seed.
const CANDIDATE: &str = "\
use terrarium_sdk::{Function, Result, export_function, knobs};
#[derive(Default)]
struct Circle;
impl Function for Circle {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        // EVOLVE-BLOCK-START: knobs
        let x = knobs::number(\"x\", 0.1, 0.0, 1.0, knobs::Linear);
        // EVOLVE-BLOCK-END
        let mut state = 0xcbf2_9ce4_8422_2325_u64;
        for byte in input.iter().chain(&x.to_bits().to_le_bytes()) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            state ^= state >> 29;
        }
        let noise = (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 53) as f64;
        let radius = 0.1 + GAIN * x + 0.05 * noise;
        Ok([0.5, 0.5, radius].iter().flat_map(|v: &f64| v.to_le_bytes()).collect())
    }
}
export_function!(Circle);
";

/// How many of the runs keep something.
fn kept(gain: &str) -> usize {
    let home = Home::new(&TinyTask::default());
    let folder = home.path("null");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("candidate.rs"), CANDIDATE.replace("GAIN", gain)).unwrap();
    let text = "[task]\nname = \"null\"\ntitle = \"Noise\"\nworld = \"function\"\n\
                metric = { name = \"radius\", direction = \"maximize\" }\ncandidate = \"candidate.rs\"\n\
                [evaluator]\nbuiltin = \"circles\"\nn = 1\n[search]\nproposers = { knobs = 1.0 }\n";
    std::fs::write(folder.join("task.toml"), text).unwrap();
    let runs = (1..=RUNS).map(|seed| {
        let seed = seed.to_string();
        let last = home.json(0, &["run", "./null", "--seed", &seed, "--out", &seed, "--json"]).pop().unwrap();
        assert_eq!(last["event"], "finished", "{last:#}");
        last
    });
    runs.filter(|last| last["kept"] != last["baseline"]["candidate"]).count()
}

#[test]
fn twenty_runs_of_twenty_keep_nothing_of_pure_noise() {
    assert_eq!(kept("0.0"), 0);
}

#[test]
fn a_gain_beside_the_same_noise_is_found() {
    assert_eq!(kept("0.3"), RUNS);
}
