//! attack: reads files of the machine while it runs
//! expect: finished
//! output: 0 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let paths = ["/etc/passwd", "/proc/self/environ", "/proc/self/maps", "«secret»", ".", "/"];
        let files = paths.iter().filter(|path| std::fs::read(path).is_ok()).count();
        let folders = paths.iter().filter(|path| std::fs::read_dir(path).is_ok()).count();
        Ok(format!("{files} {folders}").into())
    }
}

export_function!(Guest);
