//! The worker's end of its socket, shared by the loop that serves requests and
//! by the host functions that talk while a guest runs.

use super::{MAX_REQUEST, Reply, Request};
use crate::wire;
use serde_bytes::ByteBuf;
use std::collections::VecDeque;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Both directions of one descriptor: the last filter allows no other.
pub(super) struct Link {
    requests: BufReader<Requests>,
    replies: Arc<UnixStream>,
    /// Requests that came while an answer was waited for.
    ahead: VecDeque<Request<'static>>,
}

impl Link {
    /// To be made before the last filter.
    pub fn new(channel: UnixStream) -> Self {
        wire::ready_to_look();
        let replies = Arc::new(channel);
        let requests = BufReader::new(Requests(replies.clone()));
        Self { requests, replies, ahead: VecDeque::new() }
    }
}

/// The reading side.
struct Requests(Arc<UnixStream>);

impl io::Read for Requests {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match wire::look(&self.0, buffer)? {
            Some(read) => Ok(read),
            None => (&*self.0).read(buffer),
        }
    }
}

/// A [`Link`] that the state of a guest can hold. One thread uses it.
#[derive(Clone)]
pub(super) struct SharedLink(Arc<Mutex<Link>>);

impl SharedLink {
    pub fn new(link: Link) -> Self {
        Self(Arc::new(Mutex::new(link)))
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One message to the parent. An error means that it is gone.
    pub fn send(&self, reply: &Reply) -> Result<(), String> {
        wire::send(&mut &*self.lock().replies, reply).map_err(|e| e.to_string())
    }

    /// The next request; `None` when the parent hung up.
    pub fn next(&self) -> Result<Option<Request<'static>>, String> {
        let mut link = self.lock();
        if let Some(request) = link.ahead.pop_front() {
            return Ok(Some(request));
        }
        match wire::receive(&mut link.requests, MAX_REQUEST) {
            Ok(request) => Ok(Some(request)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Has the parent run a host function. Requests that the parent sent ahead
    /// are kept for later; it bounds their number.
    pub fn host_call(&self, name: String, input: Vec<u8>) -> Result<Result<ByteBuf, String>, String> {
        self.send(&Reply::HostCall { name, input })?;
        let mut link = self.lock();
        loop {
            match wire::receive(&mut link.requests, MAX_REQUEST).map_err(|e| e.to_string())? {
                Request::HostAnswer(answer) => return Ok(answer),
                other => link.ahead.push_back(other),
            }
        }
    }
}
