//! A launcher and nothing else: what tests and embedders re-execute as the
//! jail, the compiler process and the worker.

fn main() {
    terrarium_sandbox::child::run_if_child();
    eprintln!("terrarium-cell is started by the sandbox, not by hand");
    std::process::exit(2);
}
