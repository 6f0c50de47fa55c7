//! A client's end: the device of a worker that owns none.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use terrarium_kernels::remote::{Call, Remote};
use terrarium_kernels::{Device, Error, ErrorCode, TensorId};

use super::protocol::{Answer, MAX_ANSWER, MAX_REQUEST, Request, SHARED_WORDS, VERSION};
use super::shared::Shared;
use crate::child::DeviceRequest;
use crate::wire;

/// How long a broker may take to answer before the first answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn lost(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::DeviceLost, format!("the device's broker: {what}; the evaluation can be repeated"))
}

/// Connects to the broker at this path.
///
/// # Errors
/// Nothing listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

/// The kind of the device that the broker at this path owns.
///
/// # Errors
/// `DeviceLost`: it does not answer, or refuses.
pub fn kind(path: &Path) -> Result<String, Error> {
    let socket = connect(path).map_err(|e| lost(format!("{}: {e}", path.display())))?;
    Ok(open(socket, &DeviceRequest { threads: 1, max_bytes: 0, max_tensors: 0 })?.kind())
}

/// A device over a connection. Descriptors are made here, and memory is
/// mapped: a process can lock itself down afterwards.
///
/// # Errors
/// `DeviceLost`: the broker does not answer, or refuses.
pub fn open(socket: UnixStream, request: &DeviceRequest) -> Result<Device, Error> {
    let (max_bytes, max_tensors) = (request.max_bytes, request.max_tensors);
    socket.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    wire::ready_to_look();
    let hello = Request::Hello { version: VERSION, max_bytes, max_tensors };
    wire::send(&mut &socket, &hello).map_err(lost)?;
    let (first, file) = first(&socket).map_err(lost)?;
    let mut link = Link { socket, first };
    let kind = match wire::receive::<Answer>(&mut link, MAX_ANSWER).map_err(lost)? {
        Answer::Welcome { kind } => kind,
        Answer::Failed(error) => return Err(error),
        Answer::Done(_) => return Err(lost("it answered out of turn")),
    };
    let file = file.ok_or_else(|| lost("it sent no memory"))?;
    let shared = Shared::open(&file).map_err(lost)?;
    link.socket.set_read_timeout(None).map_err(lost)?;
    Ok(Device::remote(Box::new(Client { link, shared, kind }), max_bytes, max_tensors))
}

/// The first byte of an answer, with the descriptor that comes along.
fn first(socket: &UnixStream) -> io::Result<(Option<u8>, Option<OwnedFd>)> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok((Some(byte[0]), file))
}

/// Reads as a locked-down worker may: `recv`, and nothing else.
struct Link {
    socket: UnixStream,
    first: Option<u8>,
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let (Some(byte), Some(at)) = (self.first, buffer.first_mut()) {
            *at = byte;
            self.first = None;
            return Ok(1);
        }
        match wire::look(&self.socket, buffer)? {
            Some(read) => Ok(read),
            None => Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0),
        }
    }
}

struct Client {
    link: Link,
    shared: Shared,
    kind: String,
}

impl Client {
    fn ask(&mut self, request: &Request) -> Result<u64, Error> {
        let frame = wire::frame(request).map_err(lost)?;
        if frame.len() > MAX_REQUEST {
            return Err(Error::new(
                ErrorCode::Quota,
                format!("a list of {} bytes, at most {MAX_REQUEST}; split it", frame.len()),
            ));
        }
        let mut left = frame.as_slice();
        while !left.is_empty() {
            match send(&self.link.socket, left, SendFlags::NOSIGNAL) {
                Ok(sent) => left = &left[sent..],
                Err(rustix::io::Errno::INTR) => {}
                // It may have said why before it went.
                Err(e) if e == rustix::io::Errno::PIPE => break,
                Err(e) => return Err(lost(e)),
            }
        }
        match wire::receive::<Answer>(&mut self.link, MAX_ANSWER).map_err(lost)? {
            Answer::Done(value) => Ok(value),
            Answer::Failed(error) => Err(error),
            Answer::Welcome { .. } => Err(lost("it answered out of turn")),
        }
    }
}

impl Remote for Client {
    fn kind(&self) -> String {
        self.kind.clone()
    }

    fn call(&mut self, call: &Call) -> Result<u64, Error> {
        self.ask(&Request::Call(call.clone()))
    }

    fn upload(&mut self, id: TensorId, ints: bool, offset: u64, words: &[u32]) -> Result<(), Error> {
        let mut at = offset;
        for part in words.chunks(SHARED_WORDS) {
            self.shared.write(part);
            // A part is at most SHARED_WORDS long.
            let words = part.len() as u32;
            self.ask(&Request::Upload { id, ints, offset: at, words })?;
            at = at.saturating_add(u64::from(words));
        }
        Ok(())
    }

    fn download(&mut self, id: TensorId, ints: bool, offset: u64, words: &mut [u32]) -> Result<(), Error> {
        let mut at = offset;
        for part in words.chunks_mut(SHARED_WORDS) {
            let words = part.len() as u32;
            self.ask(&Request::Download { id, ints, offset: at, words })?;
            self.shared.read(part);
            at = at.saturating_add(u64::from(words));
        }
        Ok(())
    }
}
