//! attack: listens at a port
//! expect: finished
//! output: 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let open = [0, 80, 8080, 4242].iter().filter(|port| std::net::TcpListener::bind(("0.0.0.0", **port)).is_ok()).count();
        Ok(open.to_string().into())
    }
}

export_function!(Guest);
