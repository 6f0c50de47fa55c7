//! Guests that are not Rust: C in the same jail, components, programs that
//! import WASI; and the attacks of `tests/escape/c` and `tests/escape/wasi`.
//!
//! Where there is no C compiler and none can be had, what needs one says so
//! and passes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use terrarium_sandbox::gate::{ComponentLimits, ModuleLimits};
use terrarium_sandbox::jail::{self, CProgram, CompileLimits};
use terrarium_sandbox::toolchain::{self, Clang, Dirs};
use terrarium_sandbox::{
    BuildError, BuildOptions, Component, Evaluation, InstanceOptions, Job, Knobs, Limits, Outcome, Product,
    Report, Sandbox, SandboxConfig, Source, World,
};

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let mut config = SandboxConfig::new(Dirs::from_env().expect("folders"));
        config.exe = env!("CARGO_BIN_EXE_terrarium-cell").into();
        // Some attacks last until the deadline.
        config.compile.wall = Duration::from_secs(4);
        Sandbox::open(config).expect("the cache opens")
    })
}

/// The C compiler, fetched once; `None` where it cannot be had.
fn clang() -> Option<&'static Clang> {
    static CLANG: OnceLock<Option<Clang>> = OnceLock::new();
    let found = CLANG.get_or_init(|| {
        let dirs = Dirs::from_env().expect("folders");
        toolchain::install_c(&dirs, &mut |line| eprintln!("{line}"))
            .map_err(|e| println!("skipped: no C compiler ({e})"))
            .ok()
    });
    found.as_ref()
}

fn build(source: Source<'_>, world: World, wasi: bool) -> Result<Component, BuildError> {
    sandbox().compile_with(source, world, BuildOptions::new().wasi(wasi))
}

fn small_limits() -> Limits {
    Limits {
        fuel: 200_000_000,
        wall_ms: 20_000,
        memory_bytes: 64 << 20,
        output_bytes: 1 << 16,
        ..Limits::default()
    }
}

fn evaluation(input: &[u8], limits: Limits) -> Evaluation {
    let job = Job::Call { input: input.to_vec() };
    Evaluation { seed: 7, probe_key: 0, knobs: Knobs::new(), job, limits }
}

fn run(component: &Component, input: &[u8]) -> Report {
    sandbox().run(component, &evaluation(input, small_limits())).expect("the host is well")
}

fn output(report: &Report) -> String {
    match &report.product {
        Some(Product::Output(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => panic!("no output: {report:?}"),
    }
}

fn rejection(result: Result<Component, BuildError>) -> String {
    match result {
        Err(BuildError::Candidate(Outcome::Rejected { reason })) => reason,
        other => panic!("expected a rejection: {other:?}"),
    }
}

const SORT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
int main(void) {
    char line[1000], **lines = 0;
    size_t count = 0;
    while (fgets(line, sizeof line, stdin)) {
        lines = realloc(lines, (count + 1) * sizeof *lines);
        lines[count++] = strdup(line);
    }
    qsort(lines, count, sizeof *lines, order);
    for (size_t i = 0; i < count; i++) printf("%zu: %s", i + 1, lines[i]);
    fprintf(stderr, "%zu lines\n", count);
    return 0;
}
"#;

#[test]
fn a_function_in_c_is_metered_like_one_in_rust() {
    if clang().is_none() {
        return;
    }
    let source = r#"
#include "terrarium.h"
#include <stdio.h>
#include <stdlib.h>
static int order(const void *a, const void *b) { return *(const uint8_t *)a - *(const uint8_t *)b; }
terrarium_result terrarium_call(terrarium_bytes input) {
    if (!input.len) return terrarium_error("nothing to sort");
    double scale = terrarium_knob("scale", 0.5, 0.0, 1.0, TERRARIUM_LINEAR);
    int64_t depth = terrarium_knob_integer("depth", 3, 1, 9, TERRARIUM_LOGARITHMIC);
    const char *kinds[] = {"up", "down"};
    uint32_t kind = terrarium_knob_choice("kind", 1, kinds, 2);
    qsort(input.data, input.len, 1, order);
    char *text = malloc(200);
    int length = snprintf(text, 200, "%.*s %.2f %d %s", (int)input.len, input.data, scale, (int)depth, kinds[kind]);
    terrarium_log("sorted");
    terrarium_metric("length", 1, length);
    return terrarium_ok(text, length);
}
"#;
    let component = build(Source::C(source), World::Function, false).expect("compiles without WASI");
    let report = run(&component, b"glass");
    assert_eq!(output(&report), "aglss 0.50 3 down");
    assert_eq!((report.log.as_str(), report.metrics[0].value), ("sorted\n", 17.0));
    assert_eq!(report.knobs.len(), 3);
    assert_eq!(report.usage, run(&component, b"glass").usage);
    let error = run(&component, b"").outcome;
    assert!(
        matches!(&error, Outcome::GuestError { message, .. } if message == "nothing to sort"),
        "{error:?}"
    );
}

#[test]
fn without_a_libc_c_is_freestanding() {
    let Some(clang) = clang() else { return };
    let mut bare = clang.clone();
    bare.sysroot = None;
    let source = r#"
#include "terrarium.h"
terrarium_result terrarium_call(terrarium_bytes input) {
    uint8_t *twice = terrarium_realloc(0, 0, 1, 2 * input.len);
    for (size_t i = 0; i < input.len; i++) twice[2 * i] = twice[2 * i + 1] = input.data[i];
    terrarium_log("no libc");
    return terrarium_ok(twice, 2 * input.len);
}
"#;
    let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    let compile =
        |source| jail::compile_c(source, CProgram::Function, &bare, &CompileLimits::default(), cell);
    let compiled = compile(source).expect("compiles");
    assert_eq!(compiled.wasm, compile(source).expect("compiles").wasm, "the same bytes every time");
    let component = build(Source::Wasm(&compiled.wasm), World::Function, false).expect("passes the gate");
    assert_eq!(output(&run(&component, b"abc")), "aabbcc");
    // More than the memory that it starts with.
    let large = vec![b'x'; 3 << 19];
    let limits = Limits { output_bytes: 4 << 20, ..small_limits() };
    let report = sandbox().run(&component, &evaluation(&large, limits)).expect("the host is well");
    assert_eq!(output(&report).len(), 3 << 20);
    assert!(compile("#include <stdio.h>\n").is_err());
}

#[test]
fn a_mistake_in_c_is_reported_with_its_place() {
    if clang().is_none() {
        return;
    }
    match build(Source::C("int main(void) {\n    return x;\n}\n"), World::Command, true) {
        Err(BuildError::Candidate(Outcome::CompileError { diagnostics })) => {
            assert_eq!((diagnostics[0].line, diagnostics[0].column), (2, 12), "{diagnostics:?}");
            assert!(diagnostics[0].message.contains("undeclared identifier 'x'"), "{diagnostics:?}");
        }
        other => panic!("expected diagnostics: {other:?}"),
    }
    match build(Source::C("void f(void);\nint main(void) { f(); }\n"), World::Command, true) {
        Err(BuildError::Candidate(Outcome::CompileError { diagnostics })) => {
            assert!(diagnostics[0].message.contains("undefined symbol: f"), "{diagnostics:?}");
        }
        other => panic!("expected the linker's words: {other:?}"),
    }
}

#[test]
fn a_program_against_a_whole_libc_runs_as_a_command() {
    if clang().is_none() {
        return;
    }
    let component = build(Source::C(SORT), World::Command, true).expect("compiles");
    let report = run(&component, b"pear\napple\nfig\n");
    assert_eq!(output(&report), "1: apple\n2: fig\n3: pear\n");
    assert_eq!(report.log, "3 lines\n");
    let again = run(&component, b"pear\napple\nfig\n");
    assert_eq!((report.usage.clone(), report.product), (again.usage, again.product));
    assert!(report.usage.fuel.is_some_and(|fuel| fuel > 1_000), "{:?}", report.usage);
}

#[test]
fn a_function_may_use_wasi_where_it_is_on() {
    if clang().is_none() {
        return;
    }
    let source = "#include \"terrarium.h\"\n#include <stdio.h>\n\
                  terrarium_result terrarium_call(terrarium_bytes in) {\n\
                  printf(\"%d bytes\\n\", (int)in.len); fflush(stdout); return terrarium_ok(in.data, in.len); }\n";
    let reason = rejection(build(Source::C(source), World::Function, false));
    assert!(reason.contains("wasi_snapshot_preview1") && reason.contains("WASI is off"), "{reason}");
    let component = build(Source::C(source), World::Function, true).expect("compiles");
    let report = run(&component, b"abc");
    assert_eq!((output(&report).as_str(), report.log.trim_end()), ("abc", "3 bytes"));
}

#[test]
fn an_instance_of_a_guest_with_wasi_lives_over_several_calls() {
    if clang().is_none() {
        return;
    }
    let source = r#"
#include "terrarium.h"
#include <stdio.h>
#include <time.h>
terrarium_result terrarium_call(terrarium_bytes in) {
    static int calls;
    static struct timespec last;
    static char text[100];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int on = now.tv_sec > last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec > last.tv_nsec);
    last = now;
    fprintf(stderr, "call %d\n", ++calls);
    return terrarium_ok(text, snprintf(text, sizeof text, "%d %d", calls, on));
}
"#;
    let component = build(Source::C(source), World::Function, true).expect("compiles");
    let mut instance = sandbox()
        .instance(&component, InstanceOptions { limits: small_limits(), ..InstanceOptions::default() })
        .expect("opens");
    for n in 1..=3 {
        let answer = instance.call(b"").expect("answers");
        assert_eq!(String::from_utf8_lossy(&answer), format!("{n} 1"));
    }
}

#[test]
fn a_component_without_wasi_runs_as_a_function() {
    let text = "(component
      (core module $m (memory (export \"memory\") 1)
        (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export \"call\") (param i32 i32) (result i32)
          (i32.store (i32.const 16) (i32.const 0))
          (i32.store (i32.const 20) (local.get 0)) (i32.store (i32.const 24) (local.get 1))
          (i32.const 16)))
      (core instance $i (instantiate $m))
      (func (export \"call\") (param \"input\" (list u8)) (result (result (list u8) (error string)))
        (canon lift (core func $i \"call\") (memory $i \"memory\") (realloc (func $i \"realloc\")))))";
    let bytes = wat::parse_str(text).expect("a component");
    let component = build(Source::Component(&bytes), World::Function, false).expect("passes the gate");
    assert_eq!(output(&run(&component, b"echo")), "echo");
    let nothing = wat::parse_str("(component)").expect("a component");
    let component = build(Source::Component(&nothing), World::Function, false).expect("passes the gate");
    let outcome = run(&component, b"").outcome;
    assert!(matches!(&outcome, Outcome::Rejected { reason } if reason.contains("call")), "{outcome:?}");
    let reason = rejection(build(Source::Component(&nothing), World::Trainer, false));
    assert!(reason.contains("function"), "{reason}");
}

/// Python as a guest: an interpreter of 18 MB that somebody else compiled.
#[test]
#[ignore = "needs componentize-py (pip install componentize-py==0.25.1) and half a minute: cargo test --release --workspace --test languages -- --ignored"]
fn python_runs_as_a_function() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = "import json\nimport wit_world\nfrom wit_world.imports import report\n\
                  class WitWorld(wit_world.WitWorld):\n    def call(self, input: bytes) -> bytes:\n        \
                  numbers = json.loads(input)\n        report.log(f'sorting {len(numbers)}')\n        \
                  return json.dumps({'sorted': sorted(numbers), 'hash': hash('salted')}).encode()\n";
    std::fs::write(folder.path().join("app.py"), source).expect("write");
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
    let built = std::process::Command::new("componentize-py")
        .current_dir(folder.path())
        .arg("-d")
        .arg(wit)
        .args(["-w", "function", "componentize", "app", "-o", "app.wasm"])
        .status()
        .expect("componentize-py is on the path");
    assert!(built.success());
    let bytes = std::fs::read(folder.path().join("app.wasm")).expect("a component");
    let mut config = SandboxConfig::new(Dirs::from_env().expect("folders"));
    config.exe = env!("CARGO_BIN_EXE_terrarium-cell").into();
    config.codegen_deadline = Duration::from_secs(300);
    config.component = ComponentLimits {
        bytes: 64 << 20,
        functions: 100_000,
        // Most of them only bundle exports.
        core_instances: 200,
        ..ComponentLimits::default()
    };
    config.module = ModuleLimits {
        functions: 20_000,
        function_body_bytes: 1 << 20,
        locals_per_function: 4_000,
        locals: 1_000_000,
        br_table_targets: 200_000,
        br_table_targets_per_function: 20_000,
        block_values_per_function: 50_000,
        globals: 4_000,
        exports: 4_000,
        imports: 4_000,
        data_bytes: 64 << 20,
        data_segments: 10_000,
        memory_pages: 4_096,
        ..ModuleLimits::default()
    };
    let sandbox = Sandbox::open(config).expect("the cache opens");
    let start = Instant::now();
    let component = sandbox
        .compile_with(Source::Component(&bytes), World::Function, BuildOptions::new().wasi(true))
        .expect("passes the gate");
    println!("compiled in {:?}", start.elapsed());
    let limits =
        Limits { memory_bytes: 256 << 20, fuel: 2_000_000_000, table_elements: 100_000, ..small_limits() };
    let run = || sandbox.run(&component, &evaluation(b"[3, 1, 2]", limits.clone())).expect("the host");
    let (first, second) = (run(), run());
    println!("{} us, {:?} fuel", second.timing.total_us, second.usage.fuel);
    assert!(output(&first).starts_with("{\"sorted\": [1, 2, 3]"), "{first:?}");
    assert_eq!(
        (&first.product, &first.usage, first.log.as_str()),
        (&second.product, &second.usage, "sorting 3\n")
    );
}

/// An attack's head, in the words of the corpus.
struct Attack {
    name: String,
    text: String,
    expect: Vec<String>,
    world: World,
    wasi: bool,
    limits: Limits,
    input: Vec<u8>,
    output: Option<String>,
    says: Vec<String>,
    never: Vec<String>,
}

fn attacks(family: &str) -> Vec<Attack> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/escape").join(family);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the corpus").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| attack(path, family == "wasi")).collect()
}

fn attack(path: &Path, wasi: bool) -> Attack {
    let text = std::fs::read_to_string(path).expect("an attack is text");
    let mut attack = Attack {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        text: text.clone(),
        expect: Vec::new(),
        world: if wasi { World::Command } else { World::Function },
        wasi,
        limits: small_limits(),
        input: Vec::new(),
        output: None,
        says: Vec::new(),
        never: Vec::new(),
    };
    let mark = if attack.name.ends_with(".c") { "//" } else { ";;" };
    for line in text.lines().map_while(|line| line.strip_prefix(mark)) {
        let (key, value) = line.trim().split_once(": ").unwrap_or_else(|| panic!("{}: {line}", attack.name));
        match key {
            "attack" => {}
            "expect" => attack.expect = value.split(" | ").map(str::to_owned).collect(),
            "world" if value == "function" => attack.world = World::Function,
            "wasi" => attack.wasi = value == "on",
            "limits" => {
                for (name, value) in value.split_whitespace().filter_map(|pair| pair.split_once('=')) {
                    attack.limits.set(name, value.parse().expect("a number")).expect("a limit");
                }
            }
            "input" => attack.input = value.as_bytes().to_vec(),
            "output" => attack.output = Some(value.to_owned()),
            "says" => attack.says.push(value.to_owned()),
            "never" => attack.never.push(value.to_owned()),
            _ => panic!("{}: `{key}` is not known at the head of an attack", attack.name),
        }
    }
    assert!(!attack.expect.is_empty(), "{} expects nothing", attack.name);
    attack
}

/// How an attack ended: its outcome, its report if it ran.
fn try_it(attack: &Attack) -> (Outcome, Option<Report>) {
    let built = if attack.name.ends_with(".c") {
        build(Source::C(&attack.text), attack.world, attack.wasi)
    } else {
        let bytes = wat::parse_str(&attack.text).unwrap_or_else(|e| panic!("{}: {e}", attack.name));
        build(Source::Component(&bytes), attack.world, attack.wasi)
    };
    match built {
        Err(BuildError::Candidate(outcome)) => (outcome, None),
        Err(BuildError::Host(e)) => panic!("{}: {e}", attack.name),
        Ok(component) => {
            let report = sandbox()
                .run(&component, &evaluation(&attack.input, attack.limits.clone()))
                .unwrap_or_else(|e| panic!("{}: {e}", attack.name));
            (report.outcome.clone(), Some(report))
        }
    }
}

/// Everything in which an attack was not held.
fn breaches(attack: &Attack) -> Vec<String> {
    let start = Instant::now();
    let (outcome, report) = try_it(attack);
    let took = start.elapsed();
    let mut breaches = Vec::new();
    let code = outcome.code();
    let all = format!("{outcome:?} {report:?}");
    if !attack.expect.iter().any(|expected| expected == code) {
        breaches.push(format!("it ended in {code}"));
    }
    breaches
        .extend(attack.says.iter().filter(|w| !all.contains(*w)).map(|w| format!("it does not say {w:?}")));
    breaches.extend(attack.never.iter().filter(|w| all.contains(*w)).map(|w| format!("it says {w:?}")));
    if took > Duration::from_millis(attack.limits.wall_ms) + Duration::from_secs(10) {
        breaches.push(format!("it took {took:?}"));
    }
    if let Some(report) = &report {
        if let (Some(wanted), Some(Product::Output(bytes))) = (&attack.output, &report.product)
            && *wanted != String::from_utf8_lossy(bytes)
        {
            breaches.push("the output is another".into());
        }
        if report.log.len() as u64 > attack.limits.log_bytes + 2 || report.log.contains('\u{1b}') {
            breaches.push(format!("{} bytes of log", report.log.len()));
        }
        // The same seed: the same bits, fuel included.
        let again = try_it(attack).1.expect("it ran before");
        if code != "deadline"
            && (again.outcome != report.outcome
                || again.product != report.product
                || again.log != report.log
                || again.usage != report.usage)
        {
            breaches.push("the second time was not like the first".into());
        }
    }
    if !breaches.is_empty() {
        breaches.push(all.chars().take(1_500).collect());
    }
    breaches
}

fn hold(family: &str) {
    let compiler = clang().is_some();
    let attacks: Vec<Attack> =
        attacks(family).into_iter().filter(|attack| compiler || !attack.name.ends_with(".c")).collect();
    assert!(!compiler || attacks.len() >= 15, "{} attacks", attacks.len());
    let mut broken = Vec::new();
    for attack in &attacks {
        let start = Instant::now();
        let found = breaches(attack);
        println!("{:<50} {:>6.2} s", attack.name, start.elapsed().as_secs_f64());
        broken.extend(found.iter().map(|breach| format!("{family}/{}: {breach}", attack.name)));
    }
    println!("{} attacks, {} breaches", attacks.len(), broken.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_attacks_of_c_are_held() {
    if clang().is_some() {
        hold("c");
    }
}

#[test]
fn the_attacks_of_wasi_are_held() {
    hold("wasi");
}
