//! The compiled kernels belong to the sources beside them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// `cuda/kernels.sources` is what `make cubins` wrote: a change to a kernel
/// without compiling it again would otherwise be seen on no machine without a
/// card, since the simulator compiles the sources.
#[test]
fn the_image_was_made_of_these_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let list = std::fs::read_to_string(folder.join("kernels.sources")).unwrap();
    let mut listed: Vec<&str> = Vec::new();
    for line in list.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let actual: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(actual, sum, "{name} is not what the image was made of; run `make cubins`");
        listed.push(name);
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = name.ends_with(".cu") || name.ends_with(".cuh");
        assert!(!source || listed.contains(&&*name), "{name} is not listed; run `make cubins`");
    }
    assert!(listed.contains(&"kernels.fatbin") && listed.contains(&"kernels.assembly"));
}

/// A kernel in `kernels.assembly`: its architecture and name, and what it was
/// found to use.
struct Kernel<'a> {
    architecture: &'a str,
    name: &'a str,
    uses: HashMap<&'a str, u32>,
}

impl Kernel<'_> {
    fn count(&self, what: &str) -> u32 {
        self.uses.get(what).copied().unwrap_or(0)
    }
}

fn kernels(text: &str) -> Vec<Kernel<'_>> {
    text.lines()
        .map(|line| {
            let mut fields = line.split(' ');
            let (architecture, name) = (fields.next().unwrap(), fields.next().unwrap());
            let uses = fields.map(|field| {
                let (what, count) = field.split_once('=').unwrap();
                (what, count.parse().unwrap())
            });
            Kernel { architecture, name, uses: uses.collect() }
        })
        .collect()
}

/// Kernels that set the pace keep everything in registers, and the instructions
/// that were meant are there: a compiler that found another way would make
/// them slow without a word.
#[test]
fn the_instructions_that_were_meant_are_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let text = std::fs::read_to_string(folder.join("kernels.assembly")).unwrap();
    let kernels = kernels(&text);
    let hot = [
        "matmul",
        "attention",
        "rms_norm",
        "layer_norm",
        "rope_norm",
        "adamw",
        "cross_entropy",
        "linear_cross_entropy",
    ];
    for kernel in &kernels {
        let Kernel { architecture, name, .. } = kernel;
        if hot.iter().any(|start| name.starts_with(start)) {
            for what in ["stack", "local", "LDL", "STL"] {
                assert_eq!(kernel.count(what), 0, "{name} for {architecture} uses local memory ({what})");
            }
        }
        let registers = kernel.count("registers");
        assert!((1..=255).contains(&registers), "{name} for {architecture}: {registers} registers");
    }
    let needs = |architecture: &str, start: &str, number: usize, instructions: &[&str]| {
        let matching = kernels.iter().filter(|k| k.architecture == architecture && k.name.starts_with(start));
        let matching: Vec<&Kernel> = matching.collect();
        assert_eq!(matching.len(), number, "kernels {start}* for {architecture}");
        for kernel in matching {
            for what in instructions {
                assert!(kernel.count(what) > 0, "{} for {architecture} has no {what}", kernel.name);
            }
        }
    };
    for architecture in ["sm_80", "sm_90a"] {
        needs(architecture, "matmul_bf16_", 4, &["LDGSTS", "LDSM", "HMMA"]);
        needs(architecture, "linear_cross_entropy_bf16", 1, &["LDGSTS", "LDSM", "HMMA"]);
        needs(architecture, "linear_cross_entropy_backward_bf16", 1, &["LDGSTS", "LDSM", "HMMA"]);
        needs(architecture, "attention_bf16_", 2, &["LDGSTS", "LDSM", "HMMA", "STG.128"]);
        needs(architecture, "attention_backward_bf16_", 4, &["LDGSTS", "LDSM", "HMMA", "STG.128"]);
        // Of bfloat16, 8 bytes at a time.
        needs(architecture, "rms_norm", 2, &["LDG.128", "STG.128", "LDG.64", "STG.64"]);
        needs(architecture, "layer_norm", 2, &["LDG.128", "STG.128"]);
        needs(architecture, "rope_norm", 2, &["LDG.128", "STG.128", "LDG.64", "STG.64"]);
        needs(architecture, "adamw", 1, &["LDG.128", "STG.128"]);
        needs(architecture, "cross_entropy", 2, &["LDG.128"]);
    }
    let hopper = ["UTMALDG", "SYNCS", "HGMMA", "USETMAXREG", "STG.128"];
    needs("sm_90a", "matmul_hopper_", 8, &hopper);
    for form in ["nn", "nt", "tn", "tt"] {
        needs("sm_90a", &format!("matmul_hopper_{form}_pair"), 1, &["MULTICAST"]);
    }
    for (name, number) in [("attention_hopper_", 2), ("attention_backward_hopper_", 4)] {
        needs("sm_90a", name, number, &hopper);
    }
    // Forward, little is stored.
    needs("sm_90a", "linear_cross_entropy_hopper", 2, &hopper[..4]);
    needs("sm_90a", "linear_cross_entropy_backward_hopper", 2, &hopper);
    for name in ["linear_cross_entropy_hopper_pair", "linear_cross_entropy_backward_hopper_pair"] {
        needs("sm_90a", name, 1, &["MULTICAST"]);
    }
}

/// Where the compiler's wheels are, the image is taken apart once more.
#[test]
fn the_record_of_instructions_is_that_of_the_image() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(disassembler) = disassembler(&root.join("../target/cuda-compiler/lib")) else {
        eprintln!("skipped: no cuobjdump; `make cubins` installs it");
        return;
    };
    let script = root.join("cuda/assembly.sh");
    let again = Command::new("sh").arg(script).env("CUOBJDUMP", disassembler).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let record = std::fs::read_to_string(root.join("cuda/kernels.assembly")).unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), record, "run `make cubins`");
}

/// `CUDA_HOME`'s, or that of the wheels in the build environment.
fn disassembler(environment: &Path) -> Option<PathBuf> {
    let homes = std::env::var_os("CUDA_HOME").map(PathBuf::from).into_iter().chain(
        std::fs::read_dir(environment)
            .into_iter()
            .flatten()
            .flatten()
            .map(|python| python.path().join("site-packages/nvidia/cu13")),
    );
    homes.map(|home| home.join("bin/cuobjdump")).find(|program| program.exists())
}
