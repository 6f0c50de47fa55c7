//! What was acknowledged survives `kill -9` at any moment, of any process of
//! a run, and the run ends with the record of one that nobody disturbed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use terrarium_engine::candidate::Candidate;
use terrarium_engine::evaluate::EvaluationKey;
use terrarium_engine::ledger::{Decision, LedgerEntry};
use terrarium_engine::run::RunFolder;
use terrarium_engine::seeds::SplitMix64;
use terrarium_tests::command::{Home, TinyTask, finish};
use terrarium_tests::processes::{Process, Role, descendants, signal};

/// A process gets so many tries before it is the candidate's fault, so no
/// more than this many children die between two deaths of the engine.
const CHILDREN_IN_A_ROW: u64 = 3;

/// Everything that must not depend on interruptions.
#[derive(PartialEq)]
struct Record {
    candidates: Vec<Candidate>,
    /// With the digest of all deterministic fields.
    evaluations: Vec<(EvaluationKey, String)>,
    decisions: Vec<Decision>,
    ledger: Vec<LedgerEntry>,
}

fn record(run: &Path) -> Record {
    let folder = RunFolder::open_to_read(run).unwrap();
    let archive = folder.archive();
    let evaluations = archive.evaluations().unwrap();
    Record {
        candidates: archive.candidates().unwrap(),
        evaluations: evaluations.iter().map(|e| (e.key.clone(), e.digest().to_string())).collect(),
        decisions: archive.decisions().unwrap(),
        ledger: archive.ledger().unwrap(),
    }
}

fn assert_same(found: &Record, expected: &Record) {
    assert!(found.candidates == expected.candidates, "other candidates");
    assert_eq!(found.evaluations, expected.evaluations);
    assert!(found.decisions == expected.decisions, "other decisions");
    assert!(found.ledger == expected.ledger, "another ledger");
}

fn evaluations(run: &Path) -> u64 {
    // Before the folder is complete there are none.
    RunFolder::open_to_read(run).ok().and_then(|folder| folder.archive().evaluation_count().ok()).unwrap_or(0)
}

/// A run in `home` under way, which is begun again whenever it is killed.
struct Run<'a> {
    home: &'a Home,
    begin: &'a [&'a str],
    name: &'a str,
    engine: Child,
}

const RUN: [&str; 8] = ["run", "./task", "--data", "text", "--seed", "3", "--workers", "2"];

impl<'a> Run<'a> {
    fn begin(home: &'a Home, begin: &'a [&'a str], name: &'a str) -> Self {
        Self { home, begin, name, engine: Self::start(home, begin, name) }
    }

    /// `run` until the folder is complete, then `resume`.
    fn start(home: &Home, begin: &[&str], name: &str) -> Child {
        let mut command = match home.path(name).join("run.toml").exists() {
            false => home.command(&[begin, &["--out", name]].concat()),
            true => home.command(&["resume", name, "--workers", "2"]),
        };
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.home.path(self.name)
    }

    fn has_ended(&mut self) -> bool {
        self.engine.try_wait().unwrap().is_some()
    }

    /// Waits until so many evaluations are recorded, or it has ended.
    fn wait_for(&mut self, count: u64) {
        let end = Instant::now() + Duration::from_secs(120);
        while evaluations(&self.folder()) < count && !self.has_ended() {
            assert!(Instant::now() < end, "no {count} evaluations in two minutes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A child in this role. Waits for it as long as the run does not get
    /// further than `count` evaluations.
    fn child(&mut self, role: Role, count: u64) -> Option<Process> {
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end && !self.has_ended() && evaluations(&self.folder()) <= count {
            let all = descendants(self.engine.id());
            let found = all.into_iter().find(|process| process.role() == Some(role));
            if found.is_some() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn kill_engine(&mut self) {
        // Stopped first, so that nothing is born between the count and the kill.
        assert!(signal(self.engine.id(), Signal::STOP));
        let family = descendants(self.engine.id());
        assert!(signal(self.engine.id(), Signal::KILL));
        self.engine.wait().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left: Vec<String> = family.iter().filter(|p| p.is_alive()).map(Process::describe).collect();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "these outlived their engine: {left:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.engine = Self::start(self.home, self.begin, self.name);
    }

    fn finish(self) {
        let output = self.engine.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// How often what was killed.
#[derive(Debug, Default)]
struct Killed {
    engine: u64,
    children: BTreeMap<Role, u64>,
}

/// A run to its end, in spite of so many kills, the last of them after two
/// thirds of its evaluations, of which there are `total` in all.
fn storm(home: &Home, begin: &[&str], name: &str, kills: u64, total: u64) -> Killed {
    let mut random = SplitMix64::new(7);
    let mut run = Run::begin(home, begin, name);
    let mut killed = Killed::default();
    let mut in_a_row = 0;
    for n in 0..kills {
        let reached = n * total * 2 / (3 * kills);
        run.wait_for(reached);
        std::thread::sleep(Duration::from_millis(random.below(100) as u64));
        // Twice each at least, then whatever comes.
        let rare = [Role::Compiler, Role::Codegen, Role::Worker];
        let rare = rare.into_iter().find(|role| killed.children.get(role).is_none_or(|&times| times < 2));
        let any = [None, Some(Role::Compiler), Some(Role::Codegen), Some(Role::Worker)][random.below(4)];
        let wanted = rare.or(any);
        let wanted = wanted.filter(|_| in_a_row < CHILDREN_IN_A_ROW);
        let child = wanted.and_then(|role| Some((role, run.child(role, reached + 2)?)));
        assert!(!run.has_ended(), "the run was over after {n} kills");
        match child {
            Some((role, process)) if process.kill() => {
                *killed.children.entry(role).or_default() += 1;
                in_a_row += 1;
            }
            _ => {
                run.kill_engine();
                killed.engine += 1;
                in_a_row = 0;
            }
        }
    }
    println!("killed: {killed:?}");
    run.finish();
    killed
}

#[test]
fn twenty_kills_change_nothing_that_is_recorded() {
    let home = Home::with_empty_cache(&TinyTask {
        search: "generation_size = 3\ngenerations = 3\nnoise_seeds = 3\nrace_seeds = 3\nfinal_seeds = 4\n\
                 proposers = { knobs = 1.0, mutate = 3.0 }"
            .into(),
        device_fuel: 2_000_000_000,
        ..TinyTask::default()
    });
    finish(home.command(&[&RUN[..], &["--out", "calm"]].concat()), 0);
    let calm = record(&home.path("calm"));
    let total = calm.evaluations.len() as u64;
    // Compiling is to be disturbed as well.
    home.forget_components();

    let killed = storm(&home, &RUN, "storm", 20, total);
    assert!(killed.engine >= 4 && killed.children.len() == 3, "some were never killed: {killed:?}");
    assert_same(&record(&home.path("storm")), &calm);
    // A finished run that is resumed has nothing to do and says the same.
    home.run(0, &["resume", "storm"]);
    assert_same(&record(&home.path("storm")), &calm);
}

#[test]
fn an_interrupt_drains_and_resume_finishes_the_same_run() {
    let home = Home::new(&TinyTask {
        search: "generation_size = 4\ngenerations = 2\nnoise_seeds = 4\nrace_seeds = 3\nfinal_seeds = 3\n\
                 proposers = { knobs = 1.0 }"
            .into(),
        ..TinyTask::default()
    });
    finish(home.command(&[&RUN[..], &["--out", "calm"]].concat()), 0);
    let calm = record(&home.path("calm"));

    let mut run = Run::begin(&home, &RUN, "drained");
    run.wait_for(2);
    let family = descendants(run.engine.id());
    assert!(signal(run.engine.id(), Signal::INT));
    let folder = run.folder();
    let output = run.engine.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("terrarium resume"), "{told}");
    let left: Vec<String> = family.iter().filter(|p| p.is_alive()).map(Process::describe).collect();
    assert_eq!(left, Vec::<String>::new(), "these outlived their engine");
    let kept = evaluations(&folder);
    assert!((2..calm.evaluations.len() as u64).contains(&kept), "{kept} evaluations were kept");

    home.run(0, &["resume", "drained"]);
    assert_same(&record(&folder), &calm);
}

/// One circle; what changes is its radius.
const CIRCLE: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Circle;
impl Function for Circle {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        // EVOLVE-BLOCK-START: radius
        let radius = 0.1f64;
        // EVOLVE-BLOCK-END
        Ok([0.5, 0.5, radius].iter().flat_map(|v: &f64| v.to_le_bytes()).collect())
    }
}
export_function!(Circle);
";

/// Says something else each time, and takes a while.
const AGENT: &str = "\
echo asked >> \"$0.log\"
sleep 0.2
sed -i \"s/radius = .*f64/radius = 0.$(shuf -i 1000-4900 -n 1)f64/\" candidate.rs
";

fn write_circle(home: &Home) {
    let folder = home.path("circle");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("candidate.rs"), CIRCLE).unwrap();
    std::fs::write(home.path("agent.sh"), AGENT).unwrap();
    let text = format!(
        "[task]\nname = \"circle\"\ntitle = \"One circle\"\nworld = \"function\"\n\
         metric = {{ name = \"radius\", direction = \"maximize\" }}\ncandidate = \"candidate.rs\"\n\
         [evaluator]\nbuiltin = \"circles\"\nn = 1\n\
         [search]\ngeneration_size = 4\ngenerations = 5\nnoise_seeds = 2\nrace_seeds = 3\nfinal_seeds = 2\n\
         proposers = {{ agent = 3.0, mutate = 1.0 }}\n\
         [search.commands.agent]\ncommand = [\"sh\", \"{}\"]\n",
        home.path("agent.sh").display()
    );
    std::fs::write(folder.join("task.toml"), text).unwrap();
}

#[test]
fn kills_lose_no_answer_of_an_agent_and_change_nothing_where_they_are_replayed() {
    let home = Home::with_empty_cache(&TinyTask::default());
    write_circle(&home);
    // Asked anew each time it would say something else.
    let live = ["run", "./circle", "--seed", "3", "--workers", "2"];
    let mut run = Run::begin(&home, &live, "live");
    for reached in [0, 2, 5, 9, 12, 16] {
        run.wait_for(reached);
        assert!(!run.has_ended(), "the run was over at {reached} evaluations");
        run.kill_engine();
    }
    run.finish();
    let original = record(&home.path("live"));
    let asked = std::fs::read_to_string(home.path("agent.sh.log")).unwrap().lines().count() as u64;
    let folder = RunFolder::open_to_read(&home.path("live")).unwrap();
    let places = folder.archive().spent("agent").unwrap().requests;
    assert!((1..=places).contains(&asked), "asked {asked} times for {places} places");
    let accepted = original.candidates.iter().filter(|c| c.origin.proposer == "agent").count();
    assert!(accepted >= 3, "{accepted} of {asked} answers became candidates");
    drop(folder);
    home.run(0, &["resume", "live"]);
    assert_same(&record(&home.path("live")), &original);
    assert_eq!(home.json(0, &["verify", "live", "--json"])[0]["sound"], true);

    std::fs::write(home.path("proposals"), home.run(0, &["proposals", "live"]).stdout).unwrap();
    let replay = ["run", "./circle", "--seed", "3", "--replay", "proposals"];
    let one = [&replay[..], &["--workers", "1"]].concat();
    finish(home.command(&[&one[..], &["--out", "calm"]].concat()), 0);
    let calm = record(&home.path("calm"));
    assert!(calm.candidates == original.candidates && calm.decisions == original.decisions);
    home.forget_components();
    let four = [&replay[..], &["--workers", "4"]].concat();
    let killed = storm(&home, &four, "storm", 8, calm.evaluations.len() as u64);
    assert!(killed.engine >= 1 && !killed.children.is_empty(), "some were never killed: {killed:?}");
    assert_same(&record(&home.path("storm")), &calm);
}
