//! Makes the guest's bindings from the host interface in `sandbox/wit`, the
//! only definition there is. Done here and not by a procedural macro, so that
//! compiling a candidate is one compiler call that loads no host code.

use std::error::Error;
use std::path::Path;

use wit_bindgen_core::{Files, wit_parser::Resolve};
use wit_bindgen_rust::{Opts, WithOption};

const WIT: &str = "../../sandbox/wit";
const PACKAGE: &str = "terrarium:guest";
const VERSION: &str = "0.1.0";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={WIT}");
    let out = std::env::var("OUT_DIR")?;

    generate(
        "trainer",
        Opts {
            generate_all: true,
            pub_export_macro: true,
            export_macro_name: Some("export_trainer_world".into()),
            default_bindings_module: Some("terrarium_sdk::bindings::trainer".into()),
            disable_custom_section_link_helpers: true,
            ..Opts::default()
        },
        Path::new(&out),
    )?;

    // The `function` world imports a subset of the same interfaces. They are
    // mapped onto the trainer's modules, so that there is one `knobs` and one
    // `report`; a function that uses neither `compute` nor `data` imports
    // neither, since unused imports never reach the linked module.
    let shared = |name: &str| {
        (
            format!("{PACKAGE}/{name}@{VERSION}"),
            WithOption::Path(format!("crate::bindings::trainer::terrarium::guest::{name}")),
        )
    };
    generate(
        "function",
        Opts {
            generate_all: true,
            with: vec![shared("knobs"), shared("report")],
            pub_export_macro: true,
            export_macro_name: Some("export_function_world".into()),
            default_bindings_module: Some("terrarium_sdk::bindings::function".into()),
            disable_custom_section_link_helpers: true,
            ..Opts::default()
        },
        Path::new(&out),
    )
}

fn generate(world: &str, opts: Opts, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(WIT)?;
    let id = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    let mut generator: Box<dyn wit_bindgen_core::WorldGenerator> = Box::new(opts.build());
    generator.generate(&mut resolve, id, &mut files)?;
    let (_, contents) =
        files.iter().next().ok_or("the generator produced no file: check the versions of wit-bindgen-*")?;
    std::fs::write(out.join(format!("{world}.rs")), contents)?;
    Ok(())
}
