//! Parity with PyTorch, where `make parity` or `make bench-cpu` has installed
//! it: a change of the template, the SDK or a kernel that moves the training
//! away from PyTorch's is seen without being looked for.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `tests/peers/pytorch.py` installs it.
fn environment(root: &Path) -> PathBuf {
    std::env::var_os("TERRARIUM_PEERS").map_or_else(|| root.join("target/peers"), PathBuf::from).join("torch")
}

#[test]
fn fifty_steps_have_the_losses_of_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    if !environment(root).join("installed").exists() {
        eprintln!("skipped: PyTorch is not installed here; `make parity` installs it");
        return;
    }
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.parent().and_then(Path::parent).expect("a profile's folder").join("examples/parity");
    assert!(program.exists(), "first: cargo build --release --workspace --example parity");
    let output = Command::new("python3")
        .arg(root.join("tests/peers/parity.py"))
        .arg(program)
        .output()
        .expect("python3 starts");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    eprint!("{said}");
}
