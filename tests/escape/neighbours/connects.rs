//! attack: connects to a port of this machine
//! expect: finished
//! output: 0 false

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let to = [("127.0.0.1", «port»), ("localhost", «port»), ("::1", «port»)];
        let open = to.iter().filter(|to| std::net::TcpStream::connect(**to).is_ok()).count();
        let sent = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
        Ok(format!("{open} {sent}").into())
    }
}

export_function!(Guest);
