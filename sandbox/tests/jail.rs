//! Attacks on the compile jail, with the real compiler. Each must end in its
//! typed failure within its deadline, leave no process and no file behind, and
//! spoil nothing for the next compile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use terrarium_sandbox::jail::{self, Clock, CompileFailure, CompileLimits, Compiled};
use terrarium_sandbox::toolchain::{self, Dirs, Toolchain};

const HELLO: &str = "#[unsafe(no_mangle)] pub extern \"C\" fn answer(n: u32) -> u32 {\n    let v: Vec<u32> = (0..n).collect();\n    v.iter().sum()\n}\n";

const ENDLESS: &str = "#![allow(long_running_const_eval)]\npub static S: u32 = { let mut i = 0u32; loop { i = i.wrapping_add(1); if i == u32::MAX { i = 0; } } };";

/// One compile at a time: the tests look at what is left in the folder for
/// temporary files, and time what they do.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn toolchain() -> &'static Toolchain {
    static TOOLCHAIN: OnceLock<Toolchain> = OnceLock::new();
    TOOLCHAIN.get_or_init(|| {
        let dirs = Dirs::from_env().expect("folders");
        toolchain::install(&dirs, &mut |line| eprintln!("{line}"))
            .unwrap_or_else(|e| panic!("{e}; {}", e.hint()))
    })
}

fn launcher() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_terrarium-cell"))
}

fn compile(source: &str) -> Result<Compiled, CompileFailure> {
    compile_with(source, &CompileLimits::default())
}

fn compile_with(source: &str, limits: &CompileLimits) -> Result<Compiled, CompileFailure> {
    let _alone = alone();
    let toolchain = toolchain();
    let started = Instant::now();
    let result = jail::compile(source, toolchain, limits, launcher());
    let took = started.elapsed();
    assert!(
        took < limits.wall + Duration::from_secs(2),
        "the deadline was {:?}, it took {took:?}",
        limits.wall
    );
    assert_eq!(leftovers(), Vec::<PathBuf>::new(), "job folders were left behind");
    // One that has been killed is listed until the kernel has taken it apart.
    let patience = Instant::now() + Duration::from_millis(500);
    while !processes().is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(processes(), Vec::<String>::new(), "processes were left behind");
    result
}

/// Job folders of this process.
fn leftovers() -> Vec<PathBuf> {
    let mine = format!("terrarium-job-{}-", std::process::id());
    std::fs::read_dir(std::env::temp_dir())
        .expect("list the temporary files")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&mine)))
        .collect()
}

/// The `stat` lines of processes that are our children or work in our jobs.
fn processes() -> Vec<String> {
    let me = std::process::id().to_string();
    let mine = format!("terrarium-job-{me}-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("list the processes").flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)).unwrap_or_default();
        let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if parent == me || folder.to_string_lossy().contains(&mine) {
            found.push(stat);
        }
    }
    found
}

/// The rendered messages of a refusal.
fn refused(source: &str) -> String {
    match compile(source) {
        Err(CompileFailure::Diagnostics(list)) => {
            assert!(list.iter().any(|d| d.level.starts_with("error")), "no error among {list:?}");
            list.into_iter().map(|d| d.rendered).collect::<Vec<_>>().join("\n")
        }
        other => panic!("expected diagnostics, got {other:?}"),
    }
}

fn is_wasm(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}

#[test]
fn a_guest_compiles_and_its_bytes_are_the_same_every_time() {
    let first = compile(HELLO).expect("compiles");
    let second = compile(HELLO).expect("compiles");
    assert!(is_wasm(&first.wasm));
    assert_eq!(first.wasm, second.wasm);
    let text = String::from_utf8_lossy(&first.wasm);
    assert!(text.contains("answer"), "the export is there");
    for path in [std::env::temp_dir(), toolchain().compiler.sysroot.clone()] {
        assert!(!text.contains(&*path.to_string_lossy()), "{} is in the module", path.display());
    }
}

#[test]
fn a_guest_can_name_the_sdk() {
    let compiled = compile(&format!("extern crate terrarium_sdk;\n{HELLO}")).expect("compiles");
    assert!(is_wasm(&compiled.wasm));
}

#[test]
fn a_mistake_is_reported_with_its_place() {
    match compile("pub fn f() -> u32 {\n    let x: u32 = \"no\";\n    x\n}\n") {
        Err(CompileFailure::Diagnostics(list)) => {
            assert_eq!(list[0].code.as_deref(), Some("E0308"));
            assert_eq!((list[0].line, list[0].column), (2, 18));
            assert!(list[0].rendered.contains("in/candidate.rs:2:18"), "{}", list[0].rendered);
        }
        other => panic!("expected diagnostics, got {other:?}"),
    }
}

#[test]
fn warnings_of_a_good_source_are_kept() {
    let compiled = compile(&format!("{HELLO}\nfn unused_function() {{}}\n")).expect("compiles");
    assert!(
        compiled.warnings.iter().any(|d| d.message.contains("unused_function")),
        "{:?}",
        compiled.warnings
    );
}

#[test]
fn files_of_the_host_cannot_be_read() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&secret, "pub const STOLEN: u32 = 41;").expect("write");
    let secret = secret.path().display();
    for source in [
        "pub const S: &str = include_str!(\"/etc/passwd\");".to_owned(),
        "pub const S: &[u8] = include_bytes!(\"/dev/zero\");".to_owned(),
        "pub const S: &[u8] = include_bytes!(\"/proc/self/environ\");".to_owned(),
        "pub const S: &[u8] = include_bytes!(\"../../plan.json\");".to_owned(),
        format!("pub const S: &str = include_str!(\"{secret}\");"),
        format!("include!(\"{secret}\");"),
        format!("#[path = \"{secret}\"] pub mod stolen;"),
        "#[doc = include_str!(\"/etc/passwd\")] pub fn f() {}".to_owned(),
    ] {
        let texts = refused(&source);
        assert!(!texts.contains("root:") && !texts.contains("STOLEN"), "{texts}");
        // Not even whether it exists, where there is a root folder of its own.
        let hidden = texts.contains("o such file") || texts.contains("ermission denied");
        assert!(hidden, "refused for another reason: {texts}");
    }
}

#[test]
fn what_the_environment_of_the_engine_holds_is_not_there() {
    const KEY: &str = "OPENAI_API_KEY";
    if std::env::var_os(KEY).is_none() {
        // The same test again, as an engine that has a key. It is a child of
        // this process, for which the other tests must wait.
        let _alone = alone();
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "what_the_environment_of_the_engine_holds_is_not_there"])
            .env(KEY, "sk-planted")
            .status()
            .expect("started");
        assert!(status.success());
        return;
    }
    let texts = refused("pub const S: &str = env!(\"HOME\");");
    assert!(texts.contains("HOME"), "{texts}");
    let source = format!("const _: () = assert!(option_env!(\"{KEY}\").is_none());\n{HELLO}");
    compile(&source).expect("compiles, for the variable is not set");
}

#[test]
fn an_evaluation_of_constants_without_end_meets_the_deadline() {
    let limits = CompileLimits { wall: Duration::from_secs(3), ..CompileLimits::default() };
    match compile_with(ENDLESS, &limits) {
        Err(CompileFailure::Deadline { clock: Clock::Wall, .. }) => {}
        other => panic!("expected the deadline, got {other:?}"),
    }
}

#[test]
fn processor_time_is_bounded_where_the_wall_clock_is_generous() {
    let limits = CompileLimits { wall: Duration::from_secs(40), cpu_seconds: 2, ..CompileLimits::default() };
    match compile_with(ENDLESS, &limits) {
        Err(CompileFailure::Deadline { clock: Clock::Cpu, .. }) => {}
        other => panic!("expected the processor's clock, got {other:?}"),
    }
}

#[test]
fn a_macro_that_calls_itself_is_refused() {
    refused("macro_rules! a { ($($t:tt)*) => { a!($($t)* x); } }\na!();");
}

#[test]
fn a_doubling_macro_is_held() {
    let limits = CompileLimits { wall: Duration::from_secs(4), ..CompileLimits::default() };
    let source =
        "#![recursion_limit = \"1000\"]\nmacro_rules! d { ($($t:tt)*) => { d!($($t)* $($t)*); } }\nd!(x x);";
    match compile_with(source, &limits) {
        Err(CompileFailure::Deadline { .. } | CompileFailure::MemoryLimit { .. }) => {}
        other => panic!("expected time or memory to hold it, got {other:?}"),
    }
}

#[test]
fn a_flood_of_messages_is_capped() {
    let source: String = (0..4000).map(|i| format!("const A{i}: u32 = \"{}\";\n", "x".repeat(30))).collect();
    let limits = CompileLimits { stderr_bytes: 64 << 10, ..CompileLimits::default() };
    match compile_with(&source, &limits) {
        Err(CompileFailure::Diagnostics(list)) => {
            assert!(!list.is_empty() && list.len() <= 32, "{}", list.len());
            assert!(list.iter().map(|d| d.rendered.len()).sum::<usize>() <= 64 << 10);
        }
        other => panic!("expected capped diagnostics, got {other:?}"),
    }
}

#[test]
fn a_giant_static_does_not_become_a_giant_file() {
    match compile("#[unsafe(no_mangle)] pub static BIG: [u8; 200 << 20] = [7; 200 << 20];") {
        Err(CompileFailure::OutputTooLarge { .. } | CompileFailure::MemoryLimit { .. }) => {}
        other => panic!("expected a limit, got {other:?}"),
    }
}

#[test]
fn a_crate_that_calls_itself_a_procedural_macro_is_not_one() {
    refused(
        "#![crate_type = \"proc-macro\"]\nextern crate proc_macro;\n#[proc_macro] pub fn m(t: proc_macro::TokenStream) -> proc_macro::TokenStream { t }",
    );
}

#[test]
fn assembly_cannot_read_files() {
    let texts = refused("use std::arch::global_asm;\nglobal_asm!(\".incbin \\\"/etc/passwd\\\"\");");
    assert!(!texts.contains("root:"), "{texts}");
}

#[test]
fn libraries_of_the_host_cannot_be_linked() {
    let texts = refused(&format!(
        "#[link(name = \"c\", kind = \"static\")] unsafe extern \"C\" {{ fn getenv(n: *const u8) -> *const u8; }}\n#[unsafe(no_mangle)] pub extern \"C\" fn g() -> *const u8 {{ unsafe {{ getenv(core::ptr::null()) }} }}\n{HELLO}"
    ));
    assert!(
        texts.contains("unable to find library") || texts.contains("could not find native static library"),
        "{texts}"
    );
}

#[test]
fn parentheses_as_deep_as_the_source_may_be_are_contained() {
    let source = format!("pub fn f() -> u32 {{ {}1{} }}", "(".repeat(100_000), ")".repeat(100_000));
    match compile(&source) {
        Err(CompileFailure::Crashed { .. } | CompileFailure::MemoryLimit { .. }) => {}
        other => panic!("expected a contained crash, got {other:?}"),
    }
    assert!(is_wasm(&compile(HELLO).expect("the next one compiles").wasm));
}

#[test]
fn a_source_that_is_too_long_is_refused_before_anything_starts() {
    let source = "x".repeat(CompileLimits::default().source_bytes + 1);
    assert!(matches!(compile(&source), Err(CompileFailure::SourceTooLarge { .. })));
}

#[test]
fn unstable_features_are_not_to_be_had() {
    let texts = refused("#![feature(rustc_attrs)]\npub fn f() {}");
    assert!(texts.contains("may not be used on the"), "{texts}");
}

#[test]
fn a_compiler_that_somebody_else_kills_is_worth_another_try() {
    let _alone = alone();
    let toolchain = toolchain();
    let killer = std::thread::spawn(|| {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            // Only once it has become the compiler.
            if let Some(stat) = processes().iter().find(|stat| stat.contains("(rustc)")) {
                let pid = stat.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a number");
                let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
                return rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let result = jail::compile(ENDLESS, toolchain, &CompileLimits::default(), launcher());
    killer.join().expect("the killer");
    match result {
        Err(failure @ CompileFailure::Killed) => assert!(failure.is_retryable()),
        other => panic!("expected Killed, got {other:?}"),
    }
}

#[test]
fn a_launcher_that_is_none_is_an_error_that_says_so() {
    let _alone = alone();
    let error =
        jail::compile(HELLO, toolchain(), &CompileLimits::default(), Path::new("/nonexistent/launcher"))
            .expect_err("cannot start");
    assert!(error.to_string().contains("/nonexistent/launcher"), "{error}");
}

#[test]
#[ignore = "a measurement: cargo test --release --workspace --test jail -- --ignored --nocapture"]
fn the_jail_costs_little() {
    let _alone = alone();
    let toolchain = toolchain();
    let (mut jailed, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        let started = Instant::now();
        jail::compile(HELLO, toolchain, &CompileLimits::default(), launcher()).expect("compiles");
        jailed.push(started.elapsed());
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("candidate.rs"), HELLO).expect("write");
        let started = Instant::now();
        let status = Command::new(&toolchain.compiler.rustc)
            .args(toolchain::guest_rustc_args(
                toolchain,
                Path::new("candidate.rs"),
                Path::new("candidate.wasm"),
            ))
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status()
            .expect("started");
        plain.push(started.elapsed());
        assert!(status.success());
    }
    jailed.sort();
    plain.sort();
    println!("median of 11, interleaved: jailed {:?}, plain {:?}", jailed[5], plain[5]);
    assert!(jailed[5] < plain[5] * 2, "the jail must not dominate");
}
