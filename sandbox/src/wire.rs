//! Messages between a parent and its child processes: a little-endian `u32`
//! length, then the message as MessagePack (self-describing, which the tagged
//! enums need) without names of fields: both ends are one build, or have agreed
//! on a version.
//!
//! Both ends bound what they accept. A child is not trusted by its parent.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Sends one message with a single `write`.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// One message as the bytes that [`receive`] reads.
pub fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0u8; 4];
    message
        .serialize(&mut rmp_serde::Serializer::new(&mut frame))
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let length = u32::try_from(frame.len() - 4)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "message over 4 GiB"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Receives one message of at most `limit` bytes. `UnexpectedEof` with an
/// empty message means that the peer is gone.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read, limit: usize) -> io::Result<T> {
    let mut length = [0u8; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("message of {length} bytes; at most {limit} are accepted"),
        ));
    }
    // Grown as bytes arrive, so that a forged length allocates little.
    let mut body = Vec::with_capacity(length.min(1 << 20));
    from.by_ref().take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    rmp_serde::from_slice(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// How long the end of a channel looks for an answer before it goes to sleep:
/// a few times what going to sleep and being woken costs. Others go first.
const LOOK: Duration = Duration::from_micros(200);

/// Whether there is one processor only.
static ALONE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|n| n.get() == 1));

/// Asks what [`look`] must know, with system calls that a worker's filter kills
/// for: to be called before it.
pub(crate) fn ready_to_look() {
    LazyLock::force(&ALONE);
}

/// What has come, or comes within a moment; `None`: go to sleep for it. Where
/// there is one processor only, nothing can come while one looks.
pub(crate) fn look(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut end = None;
    loop {
        match rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT) {
            Ok((read, _)) => return Ok(Some(read)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let now = Instant::now();
        if *ALONE || now >= *end.get_or_insert(now + LOOK) {
            return Ok(None);
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame with some of its bytes changed and, one time in four, cut short.
    pub(crate) fn altered(mut frame: Vec<u8>, changes: &[(u16, u8)], cut: u16) -> Vec<u8> {
        for (at, value) in changes {
            let at = usize::from(*at) % frame.len();
            frame[at] = *value;
        }
        if cut.is_multiple_of(4) {
            frame.truncate(usize::from(cut) % frame.len());
        }
        frame
    }

    #[test]
    fn a_message_comes_back_and_a_bad_frame_is_refused() {
        let mut buffer = Vec::new();
        send(&mut buffer, &(1u32, "two".to_owned(), f64::NAN.to_bits())).unwrap();
        let back: (u32, String, u64) = receive(&mut buffer.as_slice(), 100).unwrap();
        assert_eq!(back, (1, "two".to_owned(), f64::NAN.to_bits()));

        let forged = [0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(
            receive::<u8>(&mut forged.as_slice(), 100).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            receive::<u64>(&mut buffer[..7].as_ref(), 100).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
