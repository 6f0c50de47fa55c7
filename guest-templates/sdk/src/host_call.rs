//! Functions of whoever embeds the sandbox, called by name. Only candidates
//! of the world `function` have them.

use std::fmt;

/// Why a host function gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCallError {
    /// No function of this name is registered.
    NotRegistered {
        /// The name that was called.
        name: String,
    },
    /// The function ran and returned this error.
    Failed {
        /// What it said.
        message: String,
    },
}

impl fmt::Display for HostCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered { name } => {
                f.write_str("no host function is registered as ")?;
                f.write_str(name)
            }
            Self::Failed { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for HostCallError {}

impl From<HostCallError> for crate::Error {
    fn from(error: HostCallError) -> Self {
        crate::Error::invalid(error.to_string())
    }
}

/// Calls a function that the embedder registered. It costs 1000 units of fuel
/// and one for each byte of input and result; too many calls or bytes end the
/// evaluation. Natively no function is registered.
pub fn host_call(name: &str, input: &[u8]) -> Result<Vec<u8>, HostCallError> {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::function::terrarium::guest::host;
        host::call(name, input).map_err(|error| match error {
            host::CallError::NotRegistered => HostCallError::NotRegistered { name: name.to_owned() },
            host::CallError::Failed(message) => HostCallError::Failed { message },
        })
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = input;
        Err(HostCallError::NotRegistered { name: name.to_owned() })
    }
}
