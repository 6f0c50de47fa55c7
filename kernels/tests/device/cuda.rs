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

use crate::bench::ON_CUDA;

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
        .args(["sim/sim.cpp", "sim/ptx.cpp", "sim/driver.cpp", "kernels.cu"].map(|file| source.join(file)))
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
            &["experts::", "fused::", "matrices::", "models::", "rows::", "secrets::"],
            &[("TERRARIUM_SIM_SEED", seed)],
        ));
    }
}

#[test]
fn tensor_cores_agree_with_the_reference_in_the_simulator() {
    let Some(library) = simulator() else { return };
    // TMA and wgmma, and what older cards have.
    for capability in ["90", "80"] {
        let tests = ["halves::", "tensor_cores::"];
        passed(&again(library, &tests, &[("TERRARIUM_SIM_CAPABILITY", capability)]));
    }
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
