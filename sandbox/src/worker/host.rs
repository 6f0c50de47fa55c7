//! `host`: the embedder's functions, forwarded over the worker's socket.

use super::state::{State, function::terrarium::guest::host};
use crate::host::MAX_HOST_FUNCTION_NAME;
use crate::{Outcome, text};

/// Fuel for a call of a host function, besides one unit for each byte.
const FUEL_PER_CALL: u64 = 1_000;

/// What was used of the embedder's functions.
#[derive(Clone, Copy, Default)]
pub(super) struct HostUse {
    pub calls: u64,
    pub bytes: u64,
    /// Fuel, which the guest's own counter does not know of.
    pub fuel: u64,
}

impl host::Host for State {
    fn call(&mut self, name: String, input: Vec<u8>) -> wasmtime::Result<Result<Vec<u8>, host::CallError>> {
        self.count_call()?;
        self.host_use.calls += 1;
        let limit = self.evaluation.limits.host_function_calls;
        if self.host_use.calls > limit {
            return self.end(Outcome::Quota { which: "host_function_calls".into(), limit });
        }
        self.spend_on_host(FUEL_PER_CALL)?;
        if !self.attached.functions.contains(&name) {
            return Ok(Err(host::CallError::NotRegistered));
        }
        debug_assert!(name.len() <= MAX_HOST_FUNCTION_NAME);
        self.count_host_bytes(input.len())?;
        let link = self.link.clone();
        let answer = match link.host_call(name, input) {
            Ok(answer) => answer,
            Err(reason) => {
                // The parent is gone; so will be this worker at its next word.
                return Err(wasmtime::Error::msg(reason));
            }
        };
        match answer {
            Ok(output) => {
                self.count_host_bytes(output.len())?;
                Ok(Ok(output.into_vec()))
            }
            Err(error) => {
                self.count_host_bytes(error.len())?;
                Ok(Err(host::CallError::Failed(text::clean(&error, error.len()))))
            }
        }
    }
}

impl State {
    fn count_host_bytes(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let limit = self.evaluation.limits.host_function_bytes;
        self.host_use.bytes = self.host_use.bytes.saturating_add(bytes as u64);
        if self.host_use.bytes > limit {
            return self.end(Outcome::Quota { which: "host_function_bytes".into(), limit });
        }
        self.spend_on_host(bytes as u64)
    }

    /// Fuel for what the guest's own counter does not see. It cannot be taken
    /// from that counter here (a component that is in a call cannot be entered
    /// again), so it is a second sum with the same limit, and both together
    /// are compared with the limit when the call into the guest returns.
    fn spend_on_host(&mut self, fuel: u64) -> wasmtime::Result<()> {
        self.host_use.fuel = self.host_use.fuel.saturating_add(fuel);
        if self.host_use.fuel > self.fuel_limit {
            let phase = self.phase;
            return self.end(Outcome::OutOfFuel { phase });
        }
        Ok(())
    }
}
