//! Functions that the embedder gives to guests.
//!
//! A guest of the world `function` calls them by name through the import
//! `host.call`; the worker forwards the call over its socket, and the function
//! runs here, in the embedder's process, on a thread of its own. So a function
//! that takes too long cannot hold up a deadline or a cancellation: the
//! evaluation ends in time, the worker is killed, and what the function
//! returns later is dropped. (The function itself runs on to its end; Rust has
//! no way to stop it.)

use crate::cancel::CancelHandle;
use crate::text;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Most functions in one [`HostFunctions`].
pub const MAX_HOST_FUNCTIONS: usize = 64;

/// Longest name of one, in bytes.
pub const MAX_HOST_FUNCTION_NAME: usize = 64;

/// Longest error text of one that reaches the guest, in bytes.
const MAX_ERROR: usize = 4_000;

type Function = dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync;

/// The embedder's functions by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct HostFunctions {
    by_name: Arc<BTreeMap<String, Arc<Function>>>,
}

impl HostFunctions {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more (which replaces one of the same name). The input is
    /// the guest's, so it is hostile; an `Err` is a text that the guest gets.
    /// Names are checked where the functions are used.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        function: impl Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.by_name).insert(name.into(), Arc::new(function));
        self
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// What is wrong with these names, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.by_name.len() > MAX_HOST_FUNCTIONS {
            return Err(format!("{} functions; at most {MAX_HOST_FUNCTIONS} fit", self.by_name.len()));
        }
        match self.names().find(|name| {
            name.is_empty() || name.len() > MAX_HOST_FUNCTION_NAME || text::clean(name, name.len()) != **name
        }) {
            None => Ok(()),
            Some(name) => Err(format!(
                "the name {name:?} is empty, longer than {MAX_HOST_FUNCTION_NAME} bytes or not plain text"
            )),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Function>> {
        self.by_name.get(name).cloned()
    }
}

impl std::fmt::Debug for HostFunctions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.by_name.keys()).finish()
    }
}

/// What a function answered, in the form in which it goes to the worker.
pub(crate) type Answer = Result<Vec<u8>, String>;

/// Why a call was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Deadline,
    Cancelled,
}

/// The thread on which functions run, one after the other. It ends with its
/// owner, or when the function that it is in returns after that.
pub(crate) struct Caller {
    calls: mpsc::Sender<(Arc<Function>, Vec<u8>)>,
    answers: mpsc::Receiver<Option<Answer>>,
    wake: mpsc::Sender<Option<Answer>>,
}

impl Caller {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (calls, inbox) = mpsc::channel::<(Arc<Function>, Vec<u8>)>();
        let (outbox, answers) = mpsc::channel();
        let wake = outbox.clone();
        std::thread::Builder::new().name("terrarium-host".into()).spawn(move || {
            for (function, input) in inbox {
                let answer = catch_unwind(AssertUnwindSafe(|| function(&input)))
                    .unwrap_or_else(|_| Err("the host's function panicked".into()))
                    .map_err(|error| text::clean(&error, MAX_ERROR));
                if outbox.send(Some(answer)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { calls, answers, wake })
    }

    /// One call, given up after `timeout`. After that this caller is of no
    /// more use: its thread is in a function that nobody waits for.
    pub(crate) fn call(
        &self,
        function: Arc<Function>,
        input: Vec<u8>,
        timeout: Duration,
        cancel: Option<&CancelHandle>,
    ) -> Result<Answer, Abandoned> {
        let _woken = cancel.map(|cancel| {
            let wake = self.wake.clone();
            cancel.on_cancel(move || drop(wake.send(None)))
        });
        let gone = || Ok(Err("the host's functions are gone".to_owned()));
        if self.calls.send((function, input)).is_err() {
            return gone();
        }
        match self.answers.recv_timeout(timeout) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Abandoned::Cancelled),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Abandoned::Deadline),
            Err(mpsc::RecvTimeoutError::Disconnected) => gone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_call_is_answered_even_by_a_panic_and_given_up_at_its_deadline() {
        let functions = HostFunctions::new()
            .with("double", |input| Ok([input, input].concat()))
            .with("panic", |_| panic!("on purpose"))
            .with("sleep", |_| {
                std::thread::sleep(Duration::from_secs(2));
                Ok(Vec::new())
            });
        functions.check().unwrap();
        let caller = Caller::start().unwrap();
        let call = |name: &str, ms: u64, cancel: Option<&CancelHandle>| {
            caller.call(functions.get(name).unwrap(), b"ab".to_vec(), Duration::from_millis(ms), cancel)
        };
        assert_eq!(call("double", 5_000, None), Ok(Ok(b"abab".to_vec())));
        assert!(call("panic", 5_000, None).unwrap().unwrap_err().contains("panicked"));
        assert_eq!(call("double", 5_000, None), Ok(Ok(b"abab".to_vec())), "the thread survived");
        let start = Instant::now();
        assert_eq!(call("sleep", 50, None), Err(Abandoned::Deadline));
        let cancelled = CancelHandle::new();
        cancelled.cancel();
        let other = Caller::start().unwrap();
        let ended =
            other.call(functions.get("sleep").unwrap(), Vec::new(), Duration::from_secs(5), Some(&cancelled));
        assert_eq!(ended, Err(Abandoned::Cancelled));
        assert!(start.elapsed() < Duration::from_millis(1_500));
    }

    #[test]
    fn bad_names_and_too_many_are_told() {
        let one = |name: &str| HostFunctions::new().with(name, |_| Ok(Vec::new())).check();
        assert!(one("clock").is_ok());
        assert!(one("").is_err());
        assert!(one("a\u{1b}[2J").is_err());
        assert!(one(&"x".repeat(MAX_HOST_FUNCTION_NAME + 1)).is_err());
        let mut many = HostFunctions::new();
        for n in 0..=MAX_HOST_FUNCTIONS {
            many = many.with(n.to_string(), |_| Ok(Vec::new()));
        }
        assert!(many.check().unwrap_err().contains("at most"));
    }
}
