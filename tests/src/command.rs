//! The `terrarium` command as a person would start it, on a task and a corpus
//! so small that a whole run takes seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use terrarium_engine::seeds::SplitMix64;

/// The command that was built with this test.
///
/// # Panics
/// If it was not built.
pub fn terrarium() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let found = profile.join("terrarium");
    assert!(found.is_file(), "{} is missing: cargo build --release --bin terrarium", found.display());
    found
}

/// What differs from the `gpt` template's own task.
#[derive(Clone, Debug)]
pub struct TinyTask {
    /// Device fuel of training; ten steps need about 0.2e9.
    pub device_fuel: u64,
    /// Windows scored, of 32 tokens each.
    pub windows: u32,
    /// Lines of `[search]`.
    pub search: String,
    /// Defaults of knobs: name and value.
    pub knobs: Vec<(&'static str, &'static str)>,
}

impl Default for TinyTask {
    fn default() -> Self {
        Self {
            device_fuel: 1_000_000_000,
            windows: 16,
            search: "generation_size = 3\ngenerations = 2\nnoise_seeds = 2\nrace_seeds = 3\nfinal_seeds = 2"
                .into(),
            knobs: Vec::new(),
        }
    }
}

/// A folder of its own with `text/` (a corpus) and `task/` (a small task).
/// It disappears when it is dropped.
pub struct Home {
    folder: tempfile::TempDir,
    cache: Option<PathBuf>,
}

impl Home {
    /// With this task.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn new(task: &TinyTask) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Self { folder, cache: None };
        write_text(&home.path("text"));
        write_task(&home.path("task"), task);
        std::fs::create_dir(home.path("tmp")).expect("created");
        home
    }

    /// Compiles with a cache of its own, which holds the installed compiler
    /// and SDK but no component: so that candidates are really compiled.
    ///
    /// # Panics
    /// If `terrarium setup` has not been run.
    pub fn with_empty_cache(task: &TinyTask) -> Self {
        let shared = terrarium_sandbox::toolchain::Dirs::from_env().expect("a cache folder").cache;
        let mut home = Self::new(task);
        let cache = home.path("cache");
        std::fs::create_dir(&cache).expect("created");
        for part in ["toolchain", "sdk", "work", "locks"] {
            let from = shared.join(part);
            assert!(from.is_dir(), "{} is missing: terrarium setup", from.display());
            std::os::unix::fs::symlink(from, cache.join(part)).expect("linked");
        }
        home.cache = Some(cache);
        home
    }

    /// Forgets what was compiled, where this home has a cache of its own.
    ///
    /// # Panics
    /// If the folder cannot be removed.
    pub fn forget_components(&self) {
        let components = self.cache.as_ref().map(|cache| cache.join("components"));
        if let Some(components) = components.filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(components).expect("removed");
        }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `terrarium ARGUMENTS`, to be started in this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(terrarium());
        command.args(arguments).current_dir(self.folder.path()).env("TMPDIR", self.path("tmp"));
        if let Some(cache) = &self.cache {
            command.env("TERRARIUM_CACHE", cache);
        }
        command
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// If it does not end with this exit code.
    pub fn run(&self, exit: i32, arguments: &[&str]) -> Output {
        finish(self.command(arguments), exit)
    }

    /// Runs the command and reads standard output as lines of JSON.
    ///
    /// # Panics
    /// If it does not end with this exit code, or a line is not JSON.
    pub fn json(&self, exit: i32, arguments: &[&str]) -> Vec<Value> {
        json_lines(&self.run(exit, arguments))
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it does not end with this exit code.
pub fn finish(mut command: Command, exit: i32) -> Output {
    let output = command.output().expect("started");
    assert_eq!(
        output.status.code(),
        Some(exit),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Standard output as lines of JSON.
///
/// # Panics
/// If a line is not JSON.
pub fn json_lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Forty files of 3 KiB: words that follow one another by simple rules.
fn write_text(folder: &Path) {
    const WORDS: [&str; 12] = ["let ", "mut ", "x", "y", " = ", " + ", "1", "2", ";\n", "fn ", "()", " {\n"];
    std::fs::create_dir(folder).expect("created");
    let mut random = SplitMix64::new(1);
    for file in 0..40 {
        let mut text = String::new();
        let mut word = 0;
        while text.len() < 3 << 10 {
            text.push_str(WORDS[word]);
            word = (word + 1 + random.below(2)) % WORDS.len();
        }
        std::fs::write(folder.join(format!("{file:02}.rs")), text).expect("written");
    }
}

/// The template's candidate with smaller defaults.
fn write_task(folder: &Path, task: &TinyTask) {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-templates/gpt");
    let mut source = std::fs::read_to_string(template.join("candidate/candidate.rs")).expect("the template");
    let small = [("depth", "1"), ("head_dim_by_8", "2"), ("batch_rows", "4")];
    for (name, value) in small.iter().chain(&task.knobs) {
        set_default(&mut source, name, value);
    }
    std::fs::create_dir_all(folder.join("candidate")).expect("created");
    std::fs::write(folder.join("candidate/candidate.rs"), source).expect("written");
    let text = format!(
        r#"[task]
name = "tiny"
title = "A very small GPT"
world = "trainer"
metric = {{ name = "val_bpb", direction = "minimize" }}
candidate = "candidate/candidate.rs"
[budget]
device_fuel = {}
wall_ms = 60_000
device_bytes = 268_435_456
[evaluation]
context = 32
rows = 8
windows = {}
[data]
kind = "corpus"
[search]
{}
"#,
        task.device_fuel, task.windows, task.search
    );
    std::fs::write(folder.join("task.toml"), text).expect("written");
}

/// Changes the default in `knobs::…("NAME", DEFAULT, …)`.
fn set_default(source: &mut String, name: &str, value: &str) {
    let mark = format!("(\"{name}\", ");
    let at = source.find(&mark).unwrap_or_else(|| panic!("the template has no knob {name}")) + mark.len();
    let end = at + source[at..].find(',').expect("a list of arguments");
    source.replace_range(at..end, value);
}
