//! The jail for C: one clang call, linked by the same linker as Rust guests.
//!
//! clang opens files through `#include`, `#embed`, `__has_include` and
//! `.incbin` as freely as rustc does through `include_str!`; the layers are
//! the same, and so is the driver's right to start itself and the linker.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::supervise::Order;
use super::{Call, CompileFailure, CompileLimits, Compiled, Plan, run};
use crate::toolchain::Clang;

/// The header of the `function` world for C.
pub(crate) const HEADER: &str = include_str!("../../../guest-templates/c/terrarium.h");

/// What kind of program a C source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CProgram {
    /// Includes `terrarium.h` and defines `terrarium_call`.
    Function,
    /// Has a `main`: standard input to standard output. Needs wasi-libc.
    Command,
}

/// The part of wasi-libc that prints and reads a `long double`.
const LONG_DOUBLE: &str = "lib/wasm32-wasi/libc-printscan-long-double.a";

const SOURCE: &str = "in/candidate.c";
const MODULE: &str = "out/candidate.wasm";

/// Compiles one C source, as [`compile`](super::compile) does one in Rust.
/// The core module imports `wasi_snapshot_preview1` as far as the program
/// uses what only WASI can do.
pub fn compile_c(
    source: &str,
    program: CProgram,
    clang: &Clang,
    limits: &CompileLimits,
    launcher: &Path,
) -> Result<Compiled, CompileFailure> {
    let order = Order::new(plan(program, clang, limits), limits, launcher);
    run(source, &call(clang), order, limits, None)
}

pub(super) fn call(clang: &Clang) -> Call<'static> {
    let mut hidden = vec![
        (clang.resource_dir.clone(), "<clang>"),
        (clang.program.clone(), "<clang>"),
        (clang.linker.clone(), "<linker>"),
    ];
    hidden.extend(clang.sysroot.clone().map(|root| (root, "<sysroot>")));
    Call {
        source: SOURCE,
        module: MODULE,
        files: &[("in/terrarium.h", HEADER)],
        hidden,
        read: super::Reader::read_clang,
    }
}

pub(super) fn plan(program: CProgram, clang: &Clang, limits: &CompileLimits) -> Plan {
    let mut read = clang.libraries.clone();
    // The linker by both its names: a root of one's own has no links.
    let programs = [clang.program.clone(), clang.linker.clone(), clang.linker_program.clone()];
    read.extend(programs.clone());
    read.push(clang.resource_dir.clone());
    read.extend(clang.sysroot.iter().flat_map(|root| libc_folders(root)));
    let mut execute = clang.interpreter.clone();
    execute.extend(programs);
    let mut plan = Plan::new(&clang.program, &clang.library_path, read, execute, limits);
    plan.args = arguments(program, clang);
    plan
}

/// What the jail opens of wasi-libc: the sysroot may be all of `/usr`.
fn libc_folders(sysroot: &Path) -> Vec<PathBuf> {
    ["include/wasm32-wasi", "lib/wasm32-wasi"].map(|folder| sysroot.join(folder)).into()
}

fn arguments(program: CProgram, clang: &Clang) -> Vec<OsString> {
    let mut args: Vec<OsString> = [
        "--no-default-config",
        "-std=gnu17",
        "-O3",
        "-msimd128",
        "-mbulk-memory",
        "-fvisibility=hidden",
        "-fno-ident",
        "-fno-color-diagnostics",
        "-fno-caret-diagnostics",
        "-fno-crash-diagnostics",
        "-ferror-limit=20",
        // A stack that overflows traps at address 0 instead of running into data.
        "-Wl,--stack-first",
        "-Wl,-z,stack-size=1048576",
        "-Wl,--strip-all",
    ]
    .map(OsString::from)
    .into();
    let mut join = |name: &str, path: &Path| {
        let mut arg = OsString::from(name);
        arg.push(path);
        args.push(arg);
    };
    join("-fuse-ld=", &clang.linker);
    join("-resource-dir=", &clang.resource_dir);
    match &clang.sysroot {
        Some(sysroot) => {
            join("--sysroot=", sysroot);
            args.push("--target=wasm32-wasi".into());
            if program == CProgram::Function {
                args.push("-mexec-model=reactor".into());
            }
        }
        None => args.extend(
            ["--target=wasm32-unknown-unknown", "-ffreestanding", "-nostdlib", "-Wl,--no-entry"]
                .map(OsString::from),
        ),
    }
    args.extend(["-o", MODULE, SOURCE].map(OsString::from));
    // The plain one says on standard error that it cannot print a long double,
    // and so makes every `snprintf` import WASI.
    if clang.sysroot.as_ref().is_some_and(|root| root.join(LONG_DOUBLE).is_file()) {
        args.push("-lc-printscan-long-double".into());
    }
    args
}
