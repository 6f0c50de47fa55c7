//! A plug-in host: a program that lets strangers extend it. The plug-in lives
//! from call to call, keeps its state, and can use only what the host hands it
//! by name.
//!
//! Each line of standard input is one call; each answer is one line. The
//! plug-in's log appears on standard error as it comes.
//!
//! ```sh
//! cargo run --release --example plugin_host            # the plug-in below
//! cargo run --release --example plugin_host FILE.rs    # your own
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terrarium_sandbox::child::{self, DeviceRequest, NamedDevice};
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{
    BuildError, CallError, HostFunctions, InstanceOptions, Limits, Sandbox, Source, World, kernels,
};

/// Counts words, and keeps its notes in the host's store.
const PLUGIN: &str = r#"
use terrarium_sdk::{Function, Result, export_function, host_call, report};
#[derive(Default)]
struct Words { seen: u64 }
impl Function for Words {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let line = String::from_utf8_lossy(input);
        self.seen += line.split_whitespace().count() as u64;
        report::log("counted a line");
        host_call("store.put", [b"last=", input].concat().as_slice())?;
        let last = host_call("store.get", b"last")?;
        Ok([self.seen.to_string().as_bytes(), b" words; last: ", last.as_slice()].concat())
    }
}
export_function!(Words);
"#;

/// A device of our own: the CPU with one thread, and little of it. It is found
/// by its name, because it is opened in another process.
fn small_cpu(request: &DeviceRequest) -> Result<kernels::Device, kernels::Error> {
    let max_bytes = request.max_bytes.min(16 << 20);
    kernels::Device::cpu(kernels::CpuConfig { threads: 1, max_bytes, max_tensors: request.max_tensors })
}

fn main() -> Result<(), Box<dyn Error>> {
    // This executable is started again for each jail, compiler and worker.
    child::run_if_child_with(&[NamedDevice { name: "small-cpu", open: small_cpu }]);

    let source = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => PLUGIN.to_owned(),
    };
    let dirs = Dirs::from_env()?;
    toolchain::install(&dirs, &mut |step| eprintln!("{step}"))?;
    let sandbox = Sandbox::builder().dirs(dirs).device("small-cpu").build()?;
    let component = match sandbox.compile(Source::Rust(&source), World::Function) {
        Ok(component) => component,
        Err(BuildError::Candidate(outcome)) => {
            println!("refused: {}", outcome.to_string().escape_debug());
            return Ok(());
        }
        Err(BuildError::Host(error)) => return Err(error.into()),
    };

    let mut plugin = sandbox.instance(
        &component,
        InstanceOptions {
            // No end to its life, but to each call.
            limits: Limits { fuel: 1 << 60, wall_ms: 86_400_000, ..Limits::default() },
            call_fuel: Some(100_000_000),
            call_deadline: Some(Duration::from_secs(2)),
            host_functions: Some(store()),
            on_log: Some(Box::new(|line| eprintln!("plug-in: {line}"))),
            ..InstanceOptions::default()
        },
    )?;
    for line in std::io::stdin().lock().lines() {
        match plugin.call(line?.as_bytes()) {
            Ok(answer) => println!("ok: {}", String::from_utf8_lossy(&answer).escape_debug()),
            Err(CallError::Guest { message }) => println!("error: {}", message.escape_debug()),
            Err(CallError::Ended(outcome)) => {
                println!("ended: {}", outcome.to_string().escape_debug());
                break;
            }
        }
    }
    Ok(())
}

/// What the plug-in may use: a small store, and nothing else.
fn store() -> HostFunctions {
    const MOST: usize = 100;
    let store = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
    let put = Arc::clone(&store);
    HostFunctions::new()
        .with("store.put", move |input| {
            // The input is the plug-in's: checked like a stranger's.
            let at = input.iter().position(|b| *b == b'=').ok_or("store.put takes KEY=VALUE")?;
            let key = std::str::from_utf8(&input[..at]).map_err(|_| "the key is not UTF-8")?;
            let mut store = put.lock().unwrap_or_else(PoisonError::into_inner);
            if store.len() >= MOST && !store.contains_key(key) {
                return Err("the store is full".into());
            }
            store.insert(key.to_owned(), input[at + 1..].to_vec());
            Ok(Vec::new())
        })
        .with("store.get", move |key| {
            let key = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8")?;
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.get(key).cloned().ok_or_else(|| "there is no such key".to_owned())
        })
}
