//! Compiles the guests of the bundle for a machine without a compiler:
//! `bundle_guests FOLDER TERRARIUM` writes core modules into `FOLDER` and
//! `hostile.json`, which says how each hostile one must end.

use std::error::Error;
use std::path::Path;

use serde_json::json;
use terrarium_sandbox::World;
use terrarium_sandbox::jail::{self, CompileLimits};
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_tests::corpus::{self, Kind, Via};
use terrarium_tests::glass;

/// Families of the hostile corpus that use the device.
const FAMILIES: [&str; 5] = ["handles", "scores", "shapes", "state", "time"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, launcher] = &arguments[..] else {
        return Err("usage: bundle_guests FOLDER TERRARIUM".into());
    };
    let (folder, launcher) = (Path::new(folder), std::path::absolute(launcher)?);
    let dirs = Dirs::from_env()?;
    let toolchain = toolchain::install(&dirs, &mut |line| eprintln!("{line}"))?;
    let limits = CompileLimits::default();
    let write = |name: &str, source: &str| -> Result<usize, Box<dyn Error>> {
        let compiled = jail::compile(source, &toolchain, &limits, &launcher)
            .map_err(|failure| format!("{name}: {failure}"))?;
        std::fs::write(folder.join(name).with_extension("wasm"), &compiled.wasm)?;
        Ok(compiled.wasm.len())
    };
    for name in ["gpt", "gpt-h100"] {
        let bytes = write(name, &glass::template(name))?;
        eprintln!("{name}: {bytes} bytes");
    }
    write("uniform", &glass::source("uniform"))?;

    std::fs::create_dir_all(folder.join("hostile"))?;
    let mut listed = Vec::new();
    for attack in corpus::load()? {
        let plain = attack.kind == Kind::Rust && attack.world == World::Trainer && attack.via == Via::Library;
        let once =
            attack.every.is_none() && attack.times == 1 && attack.keys == 1 && !attack.text.contains('«');
        if !FAMILIES.contains(&attack.family.as_str()) || !plain || !once {
            continue;
        }
        let name = format!("hostile/{}-{}", attack.family, attack.name);
        write(&name, &attack.text)?;
        listed.push(json!({
            "name": format!("{}/{}", attack.family, attack.name),
            "what": attack.what,
            "wasm": format!("{name}.wasm"),
            "expect": attack.expect,
            "limits": attack.limited,
            "score": attack.score,
            "never": attack.never,
        }));
    }
    // In turn through the families, so that a check out of time saw all.
    let mut turns: Vec<(usize, usize)> = Vec::new();
    let mut counts = [0; FAMILIES.len()];
    for (at, guest) in listed.iter().enumerate() {
        let name = guest["name"].as_str().unwrap_or_default();
        let family = FAMILIES.iter().position(|f| name.starts_with(&format!("{f}/"))).unwrap_or(0);
        turns.push((counts[family], at));
        counts[family] += 1;
    }
    turns.sort_unstable();
    let listed: Vec<_> = turns.into_iter().map(|(_, at)| listed[at].clone()).collect();
    eprintln!("{} hostile guests", listed.len());
    std::fs::write(folder.join("hostile.json"), serde_json::to_string_pretty(&listed)? + "\n")?;
    Ok(())
}
