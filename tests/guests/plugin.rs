//! Does what the first word of its input says, and keeps a sum.

use terrarium_sdk::{Error, Function, HostCallError, Result, export_function, host_call, report};

#[derive(Default)]
struct Plugin {
    sum: u64,
}

impl Function for Plugin {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let text = String::from_utf8_lossy(input).into_owned();
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let number = || rest.parse::<u64>().unwrap_or(0);
        match verb {
            "add" => {
                self.sum += number();
                Ok(self.sum.to_string().into_bytes())
            }
            "ask" => {
                let (name, input) = rest.split_once(' ').unwrap_or((rest, ""));
                match host_call(name, input.as_bytes()) {
                    Err(HostCallError::NotRegistered { name }) => Ok(["no ", &name].concat().into()),
                    answer => Ok(answer?),
                }
            }
            "often" => {
                for _ in 0..number() {
                    host_call("echo", b"x")?;
                }
                Ok(Vec::new())
            }
            "large" => Ok(host_call("echo", &vec![1; number() as usize])?),
            "log" => {
                rest.split(' ').for_each(report::log);
                Ok(Vec::new())
            }
            "work" => {
                for n in 0..number() {
                    std::hint::black_box(n);
                }
                Ok(Vec::new())
            }
            "grow" => Ok(vec![0; number() as usize]),
            "fail" => Err(Error::invalid(rest)),
            "panic" => panic!("{rest}"),
            _ => Ok(input.to_vec()),
        }
    }
}
export_function!(Plugin);
