//! The `terrarium` command.

fn main() {
    terrarium_sandbox::child::run_if_child();
    std::process::exit(terrarium_engine::cli::main());
}
