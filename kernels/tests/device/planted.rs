//! What the simulator would notice: kernels with a line taken out must fail in
//! it. A test that passes for a broken kernel is no test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cuda::{again, compiler, passed};

/// The simulator without kernels, compiled once: its object files.
fn objects() -> Option<&'static [PathBuf]> {
    static BUILT: OnceLock<Option<Vec<PathBuf>>> = OnceLock::new();
    let build = || {
        let folder = folder("planted");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/sim");
        let mut objects = Vec::new();
        for name in ["sim", "ptx", "driver"] {
            let object = folder.join(format!("{name}.o"));
            let source = sources.join(format!("{name}.cpp"));
            let mut command = Command::new(compiler());
            command.args(["-std=c++20", "-O2", "-U_FORTIFY_SOURCE", "-fPIC", "-c", "-o"]);
            match command.arg(&object).arg(source).status() {
                Ok(status) => assert!(status.success()),
                Err(error) => {
                    eprintln!("skipped: no C++ compiler ({error}); set CXX");
                    return None;
                }
            }
            objects.push(object);
        }
        Some(objects)
    };
    BUILT.get_or_init(build).as_deref()
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Kernels without which those of a file cannot be tested.
fn companion(file: &str) -> &'static str {
    match file {
        ATTENTION => "\n#include \"attention_bf16_backward.cu\"\n",
        ATTENTION_BACKWARD => "\n#include \"attention_bf16.cu\"\n",
        _ => "",
    }
}

/// The simulator with `file` (and its companion) alone, `line` of it replaced;
/// `None` without a compiler.
fn with_fault(name: &str, file: &str, line: &str, instead: &str) -> Option<PathBuf> {
    let objects = objects()?;
    let folder = folder(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let source = std::fs::read_to_string(sources.join(file)).unwrap();
    assert_eq!(source.matches(line).count(), 1, "{file} no longer has this line once: {line}");
    let broken = folder.join("kernels.cpp");
    std::fs::write(&broken, source.replace(line, instead) + companion(file)).unwrap();
    let built = Command::new(compiler())
        .args(["-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-I"])
        .arg(&sources)
        .arg("-o")
        .arg(folder.join("libcuda.so.1"))
        .args(objects)
        .arg(&broken)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(folder)
}

/// The tests that a file's kernels must fail with a line replaced.
fn tests_of(file: &str) -> &'static str {
    match file {
        ATTENTION | ATTENTION_BACKWARD => "halves::a_negative_scale",
        _ => "tensor_cores::every_form",
    }
}

/// What the tests say with that line replaced; they must fail.
#[track_caller]
fn noticed(name: &str, file: &str, capability: &str, line: &str, instead: &str, says: &str) {
    let Some(library) = with_fault(name, file, line, instead) else { return };
    let output = again(&library, &[tests_of(file)], &[("TERRARIUM_SIM_CAPABILITY", capability)]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{name}: the simulator noticed nothing\n{text}");
    assert!(text.contains(says), "{name}: {says:?} is not in\n{text}");
}

const HOPPER: &str = "matmul_hopper.cu";
const PORTABLE: &str = "matmul_bf16.cu";
const ATTENTION: &str = "attention_bf16.cu";
const ATTENTION_BACKWARD: &str = "attention_bf16_backward.cu";

#[test]
fn whole_kernels_pass_by_this_way_too() {
    let Some(library) = with_fault("sound", HOPPER, "prefetch_map(a.a);", "prefetch_map(a.a);") else {
        return;
    };
    passed(&again(&library, &[tests_of(HOPPER)], &[]));
    let line = "copy_async_wait<1>();";
    let Some(library) = with_fault("sound-attention", ATTENTION, line, line) else { return };
    passed(&again(&library, &[tests_of(ATTENTION)], &[("TERRARIUM_SIM_CAPABILITY", "80")]));
}

#[test]
fn a_producer_that_waits_for_no_empty_stage() {
    let line = "barrier_wait(&s.empty[ring.slot], ring.parity ^ 1);";
    noticed("no-empty-wait", HOPPER, "90", line, "", "");
}

#[test]
fn a_consumer_that_waits_for_no_full_stage() {
    let line = "barrier_wait(&s.full[ring.slot], ring.parity);";
    noticed("no-full-wait", HOPPER, "90", line, "", "");
}

#[test]
fn a_stage_that_is_never_given_back() {
    let line = "if (k > p.first && speaks) barrier_arrive(&s.empty[before]);";
    noticed("no-release", HOPPER, "90", line, "", "deadlock in matmul_hopper");
}

#[test]
fn a_stage_that_is_given_back_while_it_is_read() {
    noticed("early-release", HOPPER, "90", "warpgroup_wait<1>();", "", "");
}

#[test]
fn barriers_that_are_used_before_they_are_made() {
    let line = "__syncthreads();  // The barriers are there.";
    noticed("no-sync-of-barriers", HOPPER, "90", line, "", "a barrier that was not initialised");
}

#[test]
fn a_product_without_a_fence() {
    noticed("no-fence", HOPPER, "90", "    warpgroup_fence();\n", "", "without a fence");
}

#[test]
fn a_tile_that_was_not_waited_for() {
    noticed("no-copy-wait", PORTABLE, "80", "copy_async_wait<PORTABLE_STAGES - 2>();", "", "");
}

#[test]
fn a_missing_syncthreads() {
    let line = "__syncthreads();  // This stage is there for all, and the one before was read by all.";
    noticed("no-sync", PORTABLE, "80", line, "", "");
}

#[test]
fn attention_that_waits_for_no_keys() {
    noticed("attention-no-wait", ATTENTION, "80", "copy_async_wait<0>();", "", "");
}

#[test]
fn attention_whose_warps_run_ahead() {
    let line = "__syncthreads();  // This stage is there for all, and the other was read by all.";
    noticed("attention-no-sync", ATTENTION, "80", line, "", "");
}

#[test]
fn attention_before_its_queries_are_there() {
    let line = "__syncthreads();  // The queries are there.";
    noticed("attention-no-queries", ATTENTION, "80", line, "", "");
}

#[test]
fn gradients_of_attention_whose_warps_run_ahead() {
    let line = "__syncthreads();  // This step is there for all, and the one before was read by all.";
    noticed("backward-no-sync", ATTENTION_BACKWARD, "80", line, "", "");
}

#[test]
fn gradients_of_attention_with_statistics_of_another_step() {
    let line = "keep_statistic(step + 1, next);";
    noticed("backward-no-statistics", ATTENTION_BACKWARD, "80", line, "", "");
}
