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

/// The kernels that a file is tested with.
fn kernels(file: &str) -> &'static [&'static str] {
    match file {
        HOPPER => &[HOPPER],
        PORTABLE => &[PORTABLE],
        TILES => &[HOPPER, PORTABLE],
        ATTENTION | ATTENTION_BACKWARD => &[ATTENTION, ATTENTION_BACKWARD],
        ATTENTION_HOPPER | ATTENTION_HOPPER_BACKWARD | ATTENTION_HOPPER_TILES => {
            &[ATTENTION_HOPPER, ATTENTION_HOPPER_BACKWARD, ATTENTION_BACKWARD]
        }
        _ => panic!("{file}"),
    }
}

/// The simulator with those kernels alone, `line` of the file replaced; `None`
/// without a compiler.
fn with_fault(name: &str, file: &str, line: &str, instead: &str) -> Option<PathBuf> {
    let objects = objects()?;
    let folder = folder(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    for entry in std::fs::read_dir(&sources).unwrap() {
        let entry = entry.unwrap().file_name().into_string().unwrap();
        if !entry.ends_with(".cu") && !entry.ends_with(".cuh") {
            continue;
        }
        let mut source = std::fs::read_to_string(sources.join(&entry)).unwrap();
        if entry == file {
            assert_eq!(source.matches(line).count(), 1, "{file} no longer has this line once: {line}");
            source = source.replace(line, instead);
        }
        std::fs::write(folder.join(entry), source).unwrap();
    }
    let main = folder.join("kernels.cpp");
    let includes: String = kernels(file).iter().map(|file| format!("#include \"{file}\"\n")).collect();
    std::fs::write(&main, includes).unwrap();
    let built = Command::new(compiler())
        .args(["-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-I"])
        .arg(&sources)
        .arg("-o")
        .arg(folder.join("libcuda.so.1"))
        .args(objects)
        .arg(&main)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(folder)
}

/// The tests that a file's kernels must fail with a line replaced.
fn tests_of(file: &str) -> &'static str {
    match file {
        HOPPER | PORTABLE | TILES => "tensor_cores::every_form",
        ATTENTION | ATTENTION_BACKWARD => "halves::a_negative_scale",
        _ => "halves::rings_that_go_round",
    }
}

/// What the tests say with that line replaced; they must fail.
#[track_caller]
fn noticed(name: &str, file: &str, capability: &str, line: &str, instead: &str, says: &str) {
    noticed_by(tests_of(file), name, file, capability, line, instead, says);
}

#[track_caller]
fn noticed_by(test: &str, name: &str, file: &str, capability: &str, line: &str, instead: &str, says: &str) {
    let Some(library) = with_fault(name, file, line, instead) else { return };
    let output = again(&library, &[test], &[("TERRARIUM_SIM_CAPABILITY", capability)]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{name}: the simulator noticed nothing\n{text}");
    assert!(text.contains(says), "{name}: {says:?} is not in\n{text}");
}

const HOPPER: &str = "matmul_hopper.cu";
const PORTABLE: &str = "matmul_bf16.cu";
const TILES: &str = "product.cuh";
const ATTENTION: &str = "attention_bf16.cu";
const ATTENTION_BACKWARD: &str = "attention_bf16_backward.cu";
const ATTENTION_HOPPER: &str = "attention_hopper.cu";
const ATTENTION_HOPPER_BACKWARD: &str = "attention_hopper_backward.cu";
const ATTENTION_HOPPER_TILES: &str = "attention_hopper.cuh";

/// Where heads are columns of a projection.
const PROJECTIONS: &str = "heads::projections_of_full_heads";

/// Values lie as far apart as keys only where both have tensors of their own.
#[test]
fn values_taken_for_as_far_apart_as_keys() {
    let (line, instead) = ("key, a.v_row, a);", "key, a.k_row, a);");
    noticed_by(PROJECTIONS, "values-apart", ATTENTION, "80", line, instead, "");
    let (line, instead) =
        ("own.first, strides[1], a);\n    start(0);", "own.first, strides[0], a);\n    start(0);");
    noticed_by(PROJECTIONS, "own-values-apart", ATTENTION_BACKWARD, "80", line, instead, "");
    let (line, instead) =
        ("a.dv + offsets[1], own.first, strides[1]", "a.dv + offsets[1], own.first, strides[0]");
    noticed_by(PROJECTIONS, "gradients-apart", ATTENTION_BACKWARD, "80", line, instead, "");
    let (line, instead) = ("one, head, own.first, a.v_row, a);", "one, head, own.first, own_row, a);");
    noticed_by(PROJECTIONS, "hopper-gradients-apart", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}

#[test]
fn whole_kernels_pass_by_this_way_too() {
    let Some(library) = with_fault("sound", HOPPER, "prefetch_map(a.a);", "prefetch_map(a.a);") else {
        return;
    };
    passed(&again(&library, &[tests_of(HOPPER)], &[]));
    let line = "copy_async_wait<1>();";
    let Some(library) = with_fault("sound-attention", ATTENTION, line, line) else { return };
    passed(&again(&library, &[tests_of(ATTENTION), PROJECTIONS], &[("TERRARIUM_SIM_CAPABILITY", "80")]));
    let line = "prefetch_map(a.q);";
    let Some(library) = with_fault("sound-hopper", ATTENTION_HOPPER, line, line) else { return };
    passed(&again(&library, &[tests_of(ATTENTION_HOPPER), PROJECTIONS], &[]));
}

#[test]
fn a_producer_that_waits_for_no_empty_stage() {
    let line = "barrier_wait(&s.empty[ring.slot], ring.parity ^ 1);";
    noticed("no-empty-wait", HOPPER, "90", line, ";", "");
    let line = "barrier_wait_cluster(&s.empty[ring.slot], ring.parity ^ 1);";
    noticed("no-empty-wait-of-pairs", HOPPER, "90", line, ";", "");
}

#[test]
fn a_consumer_that_waits_for_no_full_stage() {
    let line = "barrier_wait(&s.full[ring.slot], ring.parity);";
    noticed("no-full-wait", HOPPER, "90", line, "", "");
}

#[test]
fn a_stage_that_is_never_given_back() {
    let line = "if (k > p.first) release<blocks>(&s.empty[before]);";
    noticed("no-release", HOPPER, "90", line, "", "deadlock in matmul_hopper");
}

#[test]
fn a_stage_that_is_given_back_while_it_is_read() {
    noticed("early-release", HOPPER, "90", "warpgroup_wait<1>();", "", "");
}

#[test]
fn barriers_that_are_used_before_they_are_made() {
    let says = "a barrier that was not initialised";
    let line = "__syncthreads();  // The barriers are there.";
    noticed("no-sync-of-barriers", HOPPER, "90", line, ";", says);
    let line = "cluster_sync();  // Those of both blocks are.";
    noticed("no-sync-of-pairs", HOPPER, "90", line, "__syncthreads();", says);
}

#[test]
fn a_block_that_ends_while_the_other_writes_to_it() {
    let line = "if (blocks > 1) cluster_sync();";
    noticed("no-sync-at-the-end", HOPPER, "90", line, "", "a block that has ended");
}

#[test]
fn a_stage_that_is_given_back_to_its_own_block_alone() {
    let (line, instead) = ("barrier_arrive_at(empty, lane);", "barrier_arrive(empty);");
    noticed("release-to-itself", HOPPER, "90", line, instead, "");
}

#[test]
fn a_stage_that_is_not_given_back_to_the_other_block() {
    let (line, instead) = ("if (lane >= blocks) return;", "if (lane >= 1) return;");
    noticed("no-release-to-the-other", HOPPER, "90", line, instead, "deadlock in matmul_hopper");
}

#[test]
fn halves_of_columns_in_the_wrong_place() {
    let (line, instead) = ("stage.b + rank * SHARE * HOPPER_DEPTH", "stage.b");
    noticed("shares-in-one-place", HOPPER, "90", line, instead, "");
    let (line, instead) = ("p.col + rank * SHARE,", "p.col,");
    noticed("shares-of-one-place", HOPPER, "90", line, instead, "");
}

#[test]
fn a_pair_that_writes_the_same_rows() {
    noticed("rank-forgotten", HOPPER, "90", "p.row += rank * HOPPER_ROWS;", "", "");
}

#[test]
fn words_that_change_places_with_the_wrong_lane() {
    let (line, instead) = ("int(bit));", "int(3 - bit));");
    noticed("turn-the-wrong-way", TILES, "90", line, instead, "");
    noticed("turn-the-wrong-way-portable", TILES, "80", line, instead, "");
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

#[test]
fn hopper_attention_that_waits_for_no_empty_stage() {
    let line = "barrier_wait(&s.keys_empty[slot], parity ^ 1);";
    noticed("hopper-attention-no-empty-wait", ATTENTION_HOPPER, "90", line, "", "");
}

#[test]
fn hopper_attention_that_waits_for_no_values() {
    let line = "barrier_wait(&s.values_full[before], (step - 1) / RING & 1);";
    noticed("hopper-attention-no-full-wait", ATTENTION_HOPPER, "90", line, "", "");
}

#[test]
fn hopper_attention_before_its_queries_are_there() {
    noticed("hopper-attention-no-queries", ATTENTION_HOPPER, "90", "barrier_wait(&s.queries, 0);", "", "");
}

#[test]
fn hopper_attention_with_a_parity_that_does_not_turn() {
    let line = "barrier_wait(&s.keys_full[slot], step / RING & 1);";
    let instead = "barrier_wait(&s.keys_full[slot], 0);";
    noticed("hopper-attention-parity", ATTENTION_HOPPER, "90", line, instead, "");
}

#[test]
fn hopper_attention_that_gives_values_back_while_they_are_read() {
    let line = "warpgroup_wait<0>();  // The last values have been added.";
    noticed("hopper-attention-early-release", ATTENTION_HOPPER, "90", line, "", "");
}

#[test]
fn hopper_attention_that_expects_too_few_bytes() {
    let (line, instead) = ("(full, 128 * D * 2);", "(full, 128 * D);");
    let says = "deadlock in attention_hopper_64";
    noticed("hopper-attention-bytes", ATTENTION_HOPPER, "90", line, instead, says);
}

#[test]
fn hopper_attention_without_a_mask() {
    let (line, instead) = ("mask(z, ahead, window, scale);", "mask(z, 1 << 20, 1u << 30, scale);");
    noticed("hopper-attention-no-mask", ATTENTION_HOPPER, "90", line, instead, "");
}

#[test]
fn hopper_attention_with_its_boxes_in_the_wrong_place() {
    let (line, instead) = ("d / 64 * 8 * N * 128", "d / 64 * 4 * N * 128");
    noticed("hopper-tiles-boxes", ATTENTION_HOPPER_TILES, "90", line, instead, "");
}

#[test]
fn hopper_attention_with_its_column_groups_in_the_wrong_place() {
    let (line, instead) = ("16 * K * 128)", "8 * K * 128)");
    noticed("hopper-tiles-groups", ATTENTION_HOPPER_TILES, "90", line, instead, "");
}

#[test]
fn hopper_attention_that_reads_along_the_wrong_side() {
    let (line, instead) = ("warpgroup_multiply_registers<1>", "warpgroup_multiply_registers<0>");
    noticed("hopper-tiles-along", ATTENTION_HOPPER_TILES, "90", line, instead, "");
}

#[test]
fn hopper_gradients_that_wait_for_no_empty_stage() {
    let line = "barrier_wait(&s.empty[w.slot], w.parity ^ 1);\n        barrier_arrive_expecting";
    let instead = "barrier_arrive_expecting";
    noticed("hopper-gradients-no-empty-wait", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}

#[test]
fn hopper_gradients_whose_statistics_wait_for_no_empty_stage() {
    let line = "barrier_wait(&s.empty[w.slot], w.parity ^ 1);\n#pragma unroll";
    let instead = "\n#pragma unroll";
    noticed("hopper-gradients-statistics", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}

#[test]
fn hopper_gradients_that_wait_for_no_full_stage() {
    let line = "barrier_wait(&s.full[w.slot], w.parity);";
    noticed("hopper-gradients-no-full-wait", ATTENTION_HOPPER_BACKWARD, "90", line, "", "");
}

#[test]
fn hopper_gradients_before_their_own_rows_are_there() {
    let line = "barrier_wait(&s.owned, 0);";
    noticed("hopper-gradients-no-own-rows", ATTENTION_HOPPER_BACKWARD, "90", line, "", "");
}

#[test]
fn hopper_gradients_with_a_parity_that_does_not_turn() {
    let (line, instead) = ("slot = 0, parity ^= 1;", "slot = 0;");
    noticed("hopper-gradients-parity", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}

#[test]
fn hopper_gradients_that_give_a_stage_back_while_it_is_read() {
    let line = "if (speaks && before < BACKWARD_RING) barrier_arrive(&s.empty[before]);";
    let instead = "if (speaks) barrier_arrive(&s.empty[w.slot]);";
    noticed("hopper-gradients-early-release", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}

#[test]
fn hopper_gradients_that_never_give_back_what_they_pass_over() {
    let line = "if (speaks) barrier_arrive(&s.empty[w.slot]);";
    let says = "deadlock in attention_backward_hopper_";
    noticed("hopper-gradients-no-release", ATTENTION_HOPPER_BACKWARD, "90", line, "", says);
}

/// A consumer that passes over a step still holds the one before.
#[test]
fn hopper_gradients_with_a_ring_of_two_stages() {
    let (line, instead) = ("BACKWARD_RING = 3;", "BACKWARD_RING = 2;");
    let says = "deadlock in attention_backward_hopper_keys_64";
    noticed("hopper-gradients-ring", ATTENTION_HOPPER_BACKWARD, "90", line, instead, says);
}

#[test]
fn hopper_gradients_of_scores_that_are_not_there() {
    let line = "warpgroup_wait<1>();  // z is there, and the sums of the last step were made.";
    noticed("hopper-gradients-no-scores", ATTENTION_HOPPER_BACKWARD, "90", line, "", "");
}

#[test]
fn hopper_gradients_without_a_window() {
    let (line, instead) = (" || ahead + int(STEP_ROWS) > window) {", ") {");
    noticed("hopper-gradients-no-window", ATTENTION_HOPPER_BACKWARD, "90", line, instead, "");
}
