//! A function-calling tool for an agent: the model writes code, the tool runs
//! it on an input, and the model reads what came of it. Nothing that the model
//! writes can reach the machine, and no answer is longer than a few kilobytes.
//!
//! Each line of standard input is a JSON object `{"code", "input"}`; each
//! answer is one line, `{"ok": true, "output"}` or `{"ok": false, "error",
//! "hint"}`. `code` is Rust with a function `run(input: &str) -> String`.
//!
//! ```sh
//! echo '{"code": "fn run(s: &str) -> String { s.to_uppercase() }", "input": "hello"}' |
//!     cargo run --release --example function_tool
//! ```

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Read, Write};
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{BuildError, Evaluation, Limits, Outcome, Product, Sandbox, Source, World, clean};

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 128 << 10;
/// Longest output and error that go into an answer, in bytes.
const MAX_TEXT: usize = 4_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    code: String,
    #[serde(default)]
    input: String,
}

#[derive(Serialize, Default)]
struct Answer {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    log: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Answer {
    fn refused(error: &str, hint: &str) -> Self {
        Self { error: Some(clean(error, MAX_TEXT)), hint: Some(hint.to_owned()), ..Self::default() }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // This executable is started again for each jail, compiler and worker.
    terrarium_sandbox::child::run_if_child();

    let dirs = Dirs::from_env()?;
    toolchain::install(&dirs, &mut |step| eprintln!("{step}"))?;
    let sandbox = Sandbox::builder().dirs(dirs).workers(1).build()?;
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let count = stdin.by_ref().take(MAX_REQUEST + 1).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || count as u64 <= MAX_REQUEST;
        if !whole {
            stdin.skip_until(b'\n')?;
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            _ if !whole => Answer::refused("the request is too long", "send less code or input"),
            Err(e) => Answer::refused(&e.to_string(), "send one line of JSON: {\"code\", \"input\"}"),
            Ok(request) => call(&sandbox, &request)?,
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        stdout.flush()?;
    }
}

fn call(sandbox: &Sandbox, request: &Request) -> Result<Answer, Box<dyn Error>> {
    // The model's code first, so that the compiler's line numbers are its own.
    let source = format!(
        "{}\n
#[derive(Default)]
struct Tool;
impl terrarium_sdk::Function for Tool {{
    fn call(&mut self, input: &[u8]) -> terrarium_sdk::Result<Vec<u8>> {{
        Ok(String::into_bytes(run(&String::from_utf8_lossy(input))))
    }}
}}
terrarium_sdk::export_function!(Tool);
",
        request.code
    );
    let component = match sandbox.compile(Source::Rust(&source), World::Function) {
        Ok(component) => component,
        Err(BuildError::Candidate(outcome)) => return Ok(failed(&outcome)),
        Err(BuildError::Host(error)) => return Err(error.into()),
    };
    let limits = Limits {
        fuel: 500_000_000,
        wall_ms: 3_000,
        memory_bytes: 64 << 20,
        output_bytes: MAX_TEXT as u64,
        log_bytes: MAX_TEXT as u64,
        ..Limits::default()
    };
    let evaluation = Evaluation::call(request.input.as_bytes()).with_limits(limits);
    let report = sandbox.run(&component, &evaluation)?;
    Ok(match (&report.outcome, &report.product) {
        (Outcome::Finished, Some(Product::Output(bytes))) => Answer {
            ok: true,
            output: Some(clean(&String::from_utf8_lossy(bytes), MAX_TEXT)),
            log: report.log,
            ..Answer::default()
        },
        (outcome, _) => Answer { log: report.log, ..failed(outcome) },
    })
}

fn failed(outcome: &Outcome) -> Answer {
    Answer::refused(&outcome.to_string(), outcome.hint())
}
