//! Set-up of the compiler, in cache folders of its own.

use std::path::Path;

use terrarium_sandbox::jail::{self, CompileLimits};
use terrarium_sandbox::toolchain::{self, Dirs, Route, ToolchainError};

const GUEST: &str = "extern crate terrarium_sdk;\n#[unsafe(no_mangle)] pub extern \"C\" fn f(x: u32) -> u32 { vec![x; 3].iter().sum() }\n";

/// The templates of this tree and an empty cache.
fn fresh() -> (tempfile::TempDir, Dirs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let templates = Dirs::from_env().expect("folders").templates;
    let dirs = Dirs { cache: folder.path().join("cache"), templates };
    (folder, dirs)
}

fn compiles(toolchain: &toolchain::Toolchain) -> Vec<u8> {
    let launcher = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    jail::compile(GUEST, toolchain, &CompileLimits::default(), launcher).expect("compiles").wasm
}

#[test]
fn two_set_ups_at_once_make_one_toolchain_and_a_later_look_finds_it() {
    let (_folder, dirs) = fresh();
    assert!(matches!(toolchain::find(&dirs), Err(ToolchainError::NotInstalled { .. })));
    let other = {
        let dirs = dirs.clone();
        std::thread::spawn(move || toolchain::install(&dirs, &mut |_| {}).expect("installs"))
    };
    let mine = toolchain::install(&dirs, &mut |_| {}).expect("installs");
    assert_eq!(mine, other.join().expect("the other set-up"));
    assert_eq!(mine, toolchain::find(&dirs).expect("found"));
    assert!(compiles(&mine).starts_with(b"\0asm"));

    // What was made is gone in part: the next set-up makes it again.
    std::fs::remove_file(&mine.sdk_rlib).expect("removed");
    assert!(matches!(toolchain::find(&dirs), Err(ToolchainError::SdkStale { .. })));
    assert_eq!(mine, toolchain::ensure(&dirs, &mut |_| {}).expect("built again"));
}

#[test]
fn no_route_is_an_error_with_a_hint() {
    let (_folder, dirs) = fresh();
    let error = toolchain::install_by(&dirs, &[], &mut |_| {}).expect_err("no route was allowed");
    for way in ["rustup target add", "servers of its packages"] {
        assert!(error.hint().contains(way), "{}", error.hint());
    }
}

#[test]
#[ignore = "a minute and a half and, for a user who is not root, a download: cargo test --release --workspace --test toolchain of_the_system -- --ignored"]
fn the_packages_of_the_system_give_a_compiler() {
    let (_folder, dirs) = fresh();
    let made = toolchain::install_by(&dirs, &[Route::DebianSystem, Route::DebianUnpacked], &mut |line| {
        println!("{line}")
    })
    .expect("installs");
    assert_eq!(compiles(&made), compiles(&made));
}

#[test]
#[ignore = "a download of some hundred megabytes: cargo test --release --workspace --test toolchain unpacked -- --ignored"]
fn the_packages_unpacked_without_rights_give_a_compiler() {
    let (_folder, dirs) = fresh();
    let made = toolchain::install_by(&dirs, &[Route::DebianUnpacked], &mut |line| println!("{line}"))
        .expect("installs");
    assert!(made.compiler.rustc.starts_with(std::fs::canonicalize(&dirs.cache).expect("the cache")));
    assert_eq!(compiles(&made), compiles(&made));
}
