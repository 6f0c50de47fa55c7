//! Trying an attack: on a sandbox with a cache of its own, followed by a good
//! evaluation that must be right.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{
    BuildError, Component, Evaluation, Job, Knobs, Outcome, Product, Report, Sandbox, SandboxConfig, Source,
    World,
};

use super::{Attack, Every, Kind, Via, expand, judge};
use crate::command::terrarium;
use crate::glass;

/// How an attack went.
#[derive(Debug)]
pub struct Held {
    /// From source to the last report, without the good evaluation after it.
    pub took: Duration,
    /// Everything that was not as it must be; empty if the glass held.
    pub breaches: Vec<String>,
    /// How it ended: code and the beginning of what was said, each once.
    pub endings: BTreeSet<String>,
}

/// Where attacks are tried.
pub struct Trial {
    sandbox: Sandbox,
    folder: PathBuf,
    cache: PathBuf,
    listener: std::net::TcpListener,
    secrets: Vec<String>,
    reverse: Component,
    uniform: Component,
}

/// What no attack may ever tell: lines of the host's files, a variable of the
/// engine's environment, the content of a file beside the source.
const PLANTED: &str = "swordfish-in-a-file";

/// Time beyond its deadline after which an evaluation counts as not stopped.
const GRACE: Duration = Duration::from_secs(15);

impl Trial {
    /// In `folder`, which must be empty, with the toolchain that is installed.
    /// `secrets` are texts that no report may hold.
    ///
    /// # Errors
    /// Whatever the host lacks.
    pub fn open(folder: &Path, secrets: &[&str]) -> Result<Self, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let mut dirs = Dirs::from_env().map_err(|e| told(&e))?;
        toolchain::install(&dirs, &mut |line| eprintln!("{line}")).map_err(|e| told(&e))?;
        let cache = folder.join("cache");
        std::fs::create_dir(&cache).map_err(|e| told(&e))?;
        for part in ["toolchain", "sdk", "locks"] {
            std::os::unix::fs::symlink(dirs.cache.join(part), cache.join(part)).map_err(|e| told(&e))?;
        }
        dirs.cache.clone_from(&cache);
        std::fs::write(folder.join("secret.rs"), format!("pub const STOLEN: &str = \"{PLANTED}\";"))
            .map_err(|e| told(&e))?;
        let mut config = SandboxConfig::new(dirs);
        config.exe = terrarium();
        // Bounded by the processor's time, which other programs do not use up;
        // the wall clock is the second line.
        config.compile.cpu_seconds = 3;
        config.compile.wall = Duration::from_secs(60);
        config.codegen_deadline = Duration::from_secs(60);
        let sandbox = Sandbox::open(config).map_err(|e| told(&e))?;
        let build = |name: &str, world| {
            sandbox.compile(Source::Rust(&glass::source(name)), world).map_err(|e| told(&e))
        };
        let (reverse, uniform) = (build("reverse", World::Function)?, build("uniform", World::Trainer)?);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| told(&e))?;
        listener.set_nonblocking(true).map_err(|e| told(&e))?;
        let mut secrets: Vec<String> = secrets.iter().map(|s| (*s).to_owned()).collect();
        secrets.extend([PLANTED.to_owned(), "root:x:0:0".to_owned()]);
        Ok(Self { sandbox, folder: folder.to_owned(), cache, listener, secrets, reverse, uniform })
    }

    /// Tries one attack, and a good evaluation after it.
    pub fn run(&self, attack: &Attack) -> Held {
        let start = Instant::now();
        let mut endings = BTreeSet::new();
        let mut breaches = match attack.via {
            Via::Library => self.through_the_library(attack, &mut endings),
            Via::Eval => self.through_eval(attack, &mut endings),
            Via::Report => self.through_a_report(attack),
        };
        let took = start.elapsed();
        breaches.extend(self.good_evaluation(attack.world).map(|b| format!("the good one after it: {b}")));
        if self.listener.accept().is_ok() {
            breaches.push("something connected to the runner".into());
        }
        Held { took, breaches, endings }
    }

    /// Builds an attack that is known to build, to be evaluated many times.
    ///
    /// # Errors
    /// Why it does not.
    pub fn prepare(&self, attack: &Attack) -> Result<Component, String> {
        let text = self.text(attack)?;
        let built = match attack.kind {
            Kind::Rust => self.sandbox.compile(Source::Rust(&text), attack.world),
            Kind::Wat => self
                .sandbox
                .compile(Source::Wasm(&wat::parse_str(&text).map_err(|e| e.to_string())?), attack.world),
            Kind::Hex => self.sandbox.compile(Source::Wasm(&hex(&text)?), attack.world),
        };
        built.map_err(|e| e.to_string())
    }

    /// One evaluation of an attack; what is not as it must be.
    pub fn once(&self, attack: &Attack, component: &Component) -> Vec<String> {
        match self.evaluate(attack, component, 1) {
            Ok(report) => judge::report(attack, &report, &self.secrets),
            Err(e) => vec![e],
        }
    }

    /// One good evaluation; what is wrong with it.
    pub fn good(&self, world: World) -> Option<String> {
        self.good_evaluation(world)
    }

    /// Process ids of the workers that wait for work.
    pub fn idle_workers(&self) -> Vec<u32> {
        self.sandbox.idle_workers()
    }

    /// Ends all workers, and says which files lie in the trial's own cache
    /// that are no components.
    pub fn close(self) -> Vec<PathBuf> {
        self.sandbox.drain();
        let components = std::fs::read_dir(self.cache.join("components")).into_iter().flatten().flatten();
        components
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_none_or(|extension| extension != "art"))
            .collect()
    }

    fn text(&self, attack: &Attack) -> Result<String, String> {
        let port = self.listener.local_addr().map_err(|e| e.to_string())?.port();
        expand(&attack.text, &|name| match name {
            "secret" => Some(self.folder.join("secret.rs").display().to_string()),
            "port" => Some(port.to_string()),
            _ => None,
        })
    }

    fn through_the_library(&self, attack: &Attack, endings: &mut BTreeSet<String>) -> Vec<String> {
        let text = match self.text(attack) {
            Ok(text) => text,
            Err(e) => return vec![e],
        };
        let wasm = match attack.kind {
            Kind::Rust => {
                return self.built(attack, self.sandbox.compile(Source::Rust(&text), attack.world), endings);
            }
            Kind::Wat => wat::parse_str(&text).map_err(|e| e.to_string()),
            Kind::Hex => hex(&text),
        };
        let wasm = match wasm {
            Ok(wasm) => wasm,
            Err(e) => return vec![e],
        };
        let mut build =
            |wasm: &[u8]| self.built(attack, self.sandbox.compile(Source::Wasm(wasm), attack.world), endings);
        match attack.every {
            None => build(&wasm),
            Some(Every::Prefix) => (0..wasm.len()).flat_map(|length| build(&wasm[..length])).collect(),
            Some(Every::Flip) => (0..wasm.len())
                .flat_map(|at| {
                    let mut damaged = wasm.clone();
                    damaged[at] ^= 0x41;
                    build(&damaged)
                })
                .collect(),
        }
    }

    fn built(
        &self,
        attack: &Attack,
        built: Result<Component, BuildError>,
        endings: &mut BTreeSet<String>,
    ) -> Vec<String> {
        let component = match built {
            Ok(component) => component,
            Err(BuildError::Host(e)) => return vec![format!("the host is in trouble: {e}")],
            Err(BuildError::Candidate(outcome)) => {
                endings.insert(ending(&outcome));
                let mut breaches: Vec<_> = judge::outcome(attack, &outcome).into_iter().collect();
                let value = serde_json::to_value(&outcome).unwrap_or_default();
                breaches.extend(judge::text_of(attack, &value, &self.secrets));
                return breaches;
            }
        };
        let (mut caught, mut breaches) = (0, Vec::new());
        for key in 0..attack.keys {
            for _ in 0..attack.times {
                let start = Instant::now();
                let report = match self.evaluate(attack, &component, key) {
                    Ok(report) => report,
                    Err(e) => return vec![e],
                };
                endings.insert(ending(&report.outcome));
                if start.elapsed() > Duration::from_millis(attack.limits.wall_ms) + GRACE {
                    breaches.push(format!("it was stopped after {:?} only", start.elapsed()));
                }
                let away = attack.caught < attack.keys && report.outcome.is_finished();
                caught += u64::from(!away);
                if !away {
                    breaches.extend(judge::report(attack, &report, &self.secrets));
                }
            }
        }
        if caught < attack.caught {
            breaches.push(format!("it was caught with {caught} of {} keys", attack.keys));
        }
        breaches
    }

    fn evaluate(&self, attack: &Attack, component: &Component, key: u64) -> Result<Report, String> {
        let evaluation = match attack.world {
            World::Trainer => glass::training(key, attack.limits.clone()),
            _ => self::call(&attack.input, attack),
        };
        self.sandbox.run(component, &evaluation).map_err(|e| format!("the host is in trouble: {e}"))
    }

    /// After whatever went before, the sandbox gives right answers.
    fn good_evaluation(&self, world: World) -> Option<String> {
        let (component, evaluation) = match world {
            World::Trainer => (&self.uniform, glass::training(1, glass::small_limits())),
            _ => (&self.reverse, good_call()),
        };
        match self.sandbox.run(component, &evaluation) {
            Ok(Report { outcome: Outcome::Finished, product: Some(product), .. }) => match product {
                Product::Output(bytes) if bytes == b"ssalg" => None,
                Product::HeldOut(score) if score.bits_per_byte == 8.0 => None,
                other => Some(format!("{other:?}")),
            },
            Ok(report) => Some(report.outcome.to_string()),
            Err(e) => Some(e.to_string()),
        }
    }

    /// The source as a file, for the command.
    fn file(&self, attack: &Attack) -> Result<PathBuf, String> {
        let path = self.folder.join(format!("{}.rs", attack.name));
        std::fs::write(&path, self.text(attack)?).map_err(|e| e.to_string())?;
        Ok(path)
    }

    fn command(&self, arguments: &[&str]) -> Result<Output, String> {
        Command::new(terrarium())
            .args(arguments)
            .env("TERRARIUM_CACHE", &self.cache)
            .current_dir(&self.folder)
            .output()
            .map_err(|e| e.to_string())
    }

    fn through_eval(&self, attack: &Attack, endings: &mut BTreeSet<String>) -> Vec<String> {
        let file = match self.file(attack) {
            Ok(file) => file,
            Err(e) => return vec![e],
        };
        let mut breaches = Vec::new();
        for more in [&["--json"][..], &[]] {
            let mut arguments = vec!["eval", "circles", "--source", file.to_str().unwrap_or_default()];
            for limit in &attack.limited {
                arguments.extend(["--limit", limit]);
            }
            arguments.extend(more);
            let output = match self.command(&arguments) {
                Ok(output) => output,
                Err(e) => return vec![e],
            };
            if !matches!(output.status.code(), Some(0 | 3)) {
                breaches.push(format!("eval ended with {}", output.status));
            }
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if more.is_empty() {
                // What a person sees in a terminal.
                let all = format!("{out}{err}");
                breaches.extend(judge::plain(&all));
                breaches.extend(judge::words(attack, &all));
                continue;
            }
            let object: Value = match (out.lines().count(), serde_json::from_str(&out)) {
                (1, Ok(object)) => object,
                _ => {
                    breaches.push(format!("standard output is not one line of JSON: {out}"));
                    continue;
                }
            };
            let code = object["outcome"]["code"].as_str().unwrap_or_default();
            endings.insert(code.to_owned());
            if !attack.expect.iter().any(|expected| expected == code) {
                breaches.push(format!("it ended in {}", object["outcome"]));
            }
            if object["score"].is_number() != (code == "finished") {
                breaches.push(format!("the score of {code} is {}", object["score"]));
            }
            breaches.extend(judge::text_of(attack, &object, &self.secrets));
        }
        breaches
    }

    fn through_a_report(&self, attack: &Attack) -> Vec<String> {
        let file = match self.file(attack) {
            Ok(file) => file,
            Err(e) => return vec![e],
        };
        let run = self.folder.join(format!("run-{}", attack.name));
        let (file, folder) = (file.display().to_string(), run.display().to_string());
        let arguments = [
            "run",
            "circles",
            "--source",
            &file,
            "--out",
            &folder,
            "--evals",
            "8",
            "--generations",
            "1",
            "--proposer",
            "knobs",
            "--seed",
            "1",
        ];
        let output = match self.command(&arguments) {
            Ok(output) => output,
            Err(e) => return vec![e],
        };
        let mut breaches = Vec::new();
        let page = std::fs::read_to_string(run.join("report.html")).unwrap_or_default();
        if !output.status.success() || page.is_empty() {
            breaches.push(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let shown = [output.stdout.as_slice(), b"\n", &output.stderr].concat();
        breaches.extend(judge::plain(&String::from_utf8_lossy(&shown)));
        breaches.extend(judge::words(attack, &page));
        breaches
    }
}

fn call(input: &[u8], attack: &Attack) -> Evaluation {
    Evaluation {
        seed: 1,
        probe_key: 1,
        knobs: Knobs::new(),
        job: Job::Call { input: input.to_vec() },
        limits: attack.limits.clone(),
    }
}

fn good_call() -> Evaluation {
    Evaluation {
        seed: 1,
        probe_key: 1,
        knobs: Knobs::new(),
        job: Job::Call { input: b"glass".to_vec() },
        limits: glass::small_limits(),
    }
}

/// Code and the beginning of what was said.
fn ending(outcome: &Outcome) -> String {
    outcome.to_string().replace('\n', " ").chars().take(110).collect()
}

/// Bytes written as hex, with comments after `;;`.
fn hex(text: &str) -> Result<Vec<u8>, String> {
    let words = text.lines().flat_map(|line| line.split(";;").next().unwrap_or_default().split_whitespace());
    words.map(|word| u8::from_str_radix(word, 16).map_err(|e| format!("{word}: {e}"))).collect()
}
