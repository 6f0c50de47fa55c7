//! Standard output and error: bytes in memory, up to a limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi_io::{async_trait, bytes::Bytes};

/// What happens to bytes that no longer fit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// They are dropped.
    Drop,
    /// They end the evaluation.
    End,
}

/// What a guest may write at a time.
const PERMIT: usize = 1 << 16;

struct Captured {
    bytes: Vec<u8>,
    limit: usize,
    overflow: Overflow,
    /// Size of the output that was refused.
    refused: Option<u64>,
}

/// What a guest wrote. Clones share it.
#[derive(Clone)]
pub(super) struct Sink(Arc<Mutex<Captured>>);

impl Sink {
    pub fn new(limit: usize, overflow: Overflow) -> Self {
        Self(Arc::new(Mutex::new(Captured { bytes: Vec::new(), limit, overflow, refused: None })))
    }

    /// All that was written; it is empty afterwards.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().bytes)
    }

    /// The last bytes, at most `count`.
    pub fn last(&self, count: usize) -> Vec<u8> {
        let captured = self.lock();
        captured.bytes[captured.bytes.len().saturating_sub(count)..].to_vec()
    }

    /// Size of the output that ended the evaluation, if it did.
    pub fn refused(&self) -> Option<u64> {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut captured = self.lock();
        let room = captured.limit.saturating_sub(captured.bytes.len());
        if bytes.len() > room && captured.overflow == Overflow::End {
            captured.refused = Some((captured.bytes.len() + bytes.len()) as u64);
            return Err(StreamError::trap("the output is larger than its limit"));
        }
        captured.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(PERMIT)
    }
}

#[async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only a newer WASI asks for this one, which is not offered.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_or_ends_the_evaluation() {
        let mut log = Sink::new(4, Overflow::Drop);
        log.write(Bytes::from_static(b"abc")).unwrap();
        log.clone().write(Bytes::from_static(b"def")).unwrap();
        assert_eq!((log.refused(), log.last(2)), (None, b"cd".to_vec()));
        assert_eq!(log.take(), b"abcd");

        let mut output = Sink::new(4, Overflow::End);
        output.write(Bytes::from_static(b"abcd")).unwrap();
        assert!(matches!(output.write(Bytes::from_static(b"e")), Err(StreamError::Trap(_))));
        assert_eq!(output.refused(), Some(5));
        assert!(matches!(log.write_zeroes(usize::MAX), Err(StreamError::Trap(_))));
        log.write_zeroes(2).unwrap();
        assert_eq!(log.take(), [0, 0]);
    }
}
