//! The CUDA backend without a GPU: the tests of this binary that run
//! operations are run once more, in a process that finds the simulator's
//! driver library in place of NVIDIA's.
//!
//! The simulator is compiled by the system's C++ compiler; where there is
//! none these tests say so and pass.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use terrarium_kernels::{CudaConfig, Device, ErrorCode};

use crate::bench::{Bench, ON_CUDA};

/// The folder with the simulator's libcuda.so.1; `None` without a compiler.
fn simulator() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| build("simulator", &[])).as_deref()
}

/// The C++ compiler that compiles the simulator.
pub fn compiler() -> OsString {
    std::env::var_os("CXX").unwrap_or_else(|| "c++".into())
}

fn build(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let compiler = compiler();
    let built = Command::new(&compiler)
        .args(["-std=c++20", "-O3", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-x", "c++"])
        .args(flags)
        .arg("-o")
        .arg(folder.join("libcuda.so.1"))
        .args(
            ["sim/sim.cpp", "sim/ptx.cpp", "sim/text.cpp", "sim/driver.cpp", "kernels.cu"]
                .map(|file| source.join(file)),
        )
        .output();
    match built {
        Ok(output) if output.status.success() => Some(folder),
        Ok(output) => panic!("the simulator does not compile:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: no C++ compiler ({}: {error}); set CXX", Path::new(&compiler).display());
            None
        }
    }
}

/// This test binary again, with the simulator as its driver.
pub fn again(library: &Path, tests: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(tests)
        .arg("--test-threads=1")
        .env("LD_LIBRARY_PATH", library)
        .env(ON_CUDA, "1")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

#[track_caller]
pub fn passed(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(!out.contains("running 0 tests"), "no test of that name:\n{out}");
}

#[test]
fn every_operation_agrees_with_the_reference_in_the_simulator() {
    let Some(library) = simulator() else { return };
    for seed in ["1", "2"] {
        passed(&again(
            library,
            &["experts::", "fused::", "heads::", "matrices::", "models::", "rows::", "secrets::"],
            &[("TERRARIUM_SIM_SEED", seed)],
        ));
    }
}

#[test]
fn tensor_cores_agree_with_the_reference_in_the_simulator() {
    let Some(library) = simulator() else { return };
    // TMA and wgmma, and what older cards have.
    for capability in ["90", "80"] {
        let tests = ["halves::", "heads::", "tensor_cores::"];
        passed(&again(library, &tests, &[("TERRARIUM_SIM_CAPABILITY", capability)]));
    }
    // Without clusters.
    passed(&again(library, &["tensor_cores::", "models::"], &[("TERRARIUM_CUDA", "alone")]));
}

#[test]
fn hostile_arguments_are_run_or_refused_in_the_simulator() {
    let Some(library) = simulator() else { return };
    passed(&again(library, &["garbage::nothing_panics"], &[]));
}

/// Started by the test below, with a driver that fails.
#[test]
fn a_card_that_is_lost() {
    if std::env::var_os("TERRARIUM_SIM_FAIL").is_none() {
        return;
    }
    let mut device = Device::cuda(CudaConfig::default()).unwrap();
    let dst = device.alloc(terrarium_kernels::DType::F32, &[4]).unwrap();
    let graph = device.prepare(vec![terrarium_kernels::Fill { dst, value: 1.0 }.into()]).unwrap();
    let first = device.run(&graph).unwrap_err();
    assert_eq!(first.code(), ErrorCode::DeviceLost, "{first}");
    assert_eq!(first.op(), Some(0));
    let second = device.run(&graph).unwrap_err();
    assert_eq!(second.code(), ErrorCode::DeviceLost);
    assert!(second.to_string().contains("lost before"), "{second}");
    assert!(device.alloc(terrarium_kernels::DType::F32, &[4]).is_err());
}

#[test]
fn a_lost_card_stays_lost_and_says_so() {
    let Some(library) = simulator() else { return };
    passed(&again(library, &["cuda::a_card_that_is_lost"], &[("TERRARIUM_SIM_FAIL", "cuLaunchKernel")]));
}

#[test]
fn without_a_driver_there_is_one_clear_line() {
    if std::env::var_os(ON_CUDA).is_some() {
        return;
    }
    if let Err(error) = Device::cuda(CudaConfig::default()) {
        assert_eq!(error.code(), ErrorCode::DeviceLost);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// Runs a graph five times beside its operations, one by one: captured graphs
/// give the bits of launches. Started by the test below.
#[test]
fn replays_give_the_bits_of_launches() {
    use terrarium_kernels::*;
    if !Bench::on_cuda() {
        return;
    }
    let n = 64;
    let results = |whole: bool, experts: bool| {
        let mut device = Device::cuda(CudaConfig::default()).unwrap();
        let [x, w, y] = [(); 3].map(|()| device.alloc(DType::F32, &[n, n]).unwrap());
        let inv_rms = device.alloc(DType::F32, &[n]).unwrap();
        let counter = device.alloc(DType::I32, &[1]).unwrap();
        let one = device.alloc(DType::I32, &[1]).unwrap();
        let total = device.alloc(DType::F32, &[1]).unwrap();
        let starts = device.alloc(DType::I32, &[2]).unwrap();
        let stacked = device.view(w, 0, &[1, n, n]).unwrap();
        device.upload_i32(one, 0, &[1]).unwrap();
        device.upload_i32(starts, 0, &[0, n as i32]).unwrap();
        let element = |tensor| Operand { tensor, layout: Layout::Element };
        let (distribution, scale) = (Distribution::Uniform, 1.0);
        let mut ops: Vec<Op> = vec![
            // Draws anew at each run, by a counter on the card.
            RandomStep { dst: x, seed: 1, stream: 2, counter, distribution, scale }.into(),
            Columns { src: one, src_col: 0, dst: counter, dst_col: 0, width: 1, accumulate: true }.into(),
            MatMul { a: x, b: x, out: w, trans_a: false, trans_b: true, alpha: 1.0, accumulate: false }
                .into(),
            RmsNorm { x: w, out: y, inv_rms, eps: 1e-6 }.into(),
            RowMap {
                rows: n,
                cols: n,
                inputs: vec![element(y)],
                nodes: vec![Node::Input(0), Node::Unary { op: UnaryOp::Tanh, a: 0 }],
                stores: vec![Store { node: 1, tensor: y, layout: Layout::Element }],
            }
            .into(),
        ];
        if experts {
            // Finds its groups on the card, and so is captured too.
            ops.push(
                GroupedMatMul { a: y, b: stacked, starts, out: x, trans_b: false, accumulate: false }.into(),
            );
        }
        let axis = ReduceAxis::All;
        ops.push(
            Reduce { src: if experts { x } else { y }, dst: total, axis, scale: 1.0, accumulate: true }
                .into(),
        );
        let graph = device.prepare(ops).unwrap();
        let mut found = Vec::new();
        for _ in 0..5 {
            if whole {
                device.run(&graph).unwrap();
            } else {
                for at in 0..graph.ops() {
                    device.run_part(&graph, at..at + 1).unwrap();
                }
            }
            let mut out = vec![0.0; (n * n) as usize];
            device.download_f32(y, 0, &mut out).unwrap();
            let mut sum = [0.0];
            device.download_f32(total, 0, &mut sum).unwrap();
            found.extend(out.into_iter().chain(sum).map(f32::to_bits));
        }
        found
    };
    for experts in [false, true] {
        let launched = results(false, experts);
        let size = (n * n) as usize + 1;
        assert_ne!(launched[..size], launched[size..2 * size], "each run draws other numbers");
        assert!(launched == results(true, experts), "with experts: {experts}");
    }
}

#[test]
fn captured_graphs_replay_in_the_simulator() {
    let Some(library) = simulator() else { return };
    let test = &["cuda::replays_give_the_bits_of_launches"];
    passed(&again(library, test, &[]));
    // Row kernels that are interpreted keep a graph from being captured.
    passed(&again(library, test, &[("TERRARIUM_CUDA", "interpret")]));
    // A capture that fails is a lost card, and one is made at the second run.
    let lost = again(library, test, &[("TERRARIUM_SIM_FAIL", "cuGraphLaunch:1")]);
    let said = String::from_utf8_lossy(&lost.stdout).into_owned() + &String::from_utf8_lossy(&lost.stderr);
    assert!(!lost.status.success() && said.contains("replaying a captured graph"), "{said}");
    // Nothing is replayed where that is switched off.
    let switched = [("TERRARIUM_SIM_FAIL", "cuGraphLaunch:1"), ("TERRARIUM_CUDA", "launches")];
    passed(&again(library, test, &switched));
}
