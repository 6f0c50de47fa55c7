//! The compiled kernels belong to the sources beside them.

use std::path::Path;

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
    assert!(listed.contains(&"kernels.fatbin"));
}
