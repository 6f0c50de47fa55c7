//! Child processes: the same executable again, in another role.
//!
//! A parent starts `exe __terrarium-child ROLE`. The child talks to it over
//! one socket, its standard input; it inherits nothing else: no environment,
//! no other descriptor, no directory but `/`.

use crate::{codegen, jail, wire, worker};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use terrarium_kernels as kernels;

/// First argument of a child.
pub const MARK: &str = "__terrarium-child";

/// What a device is opened with.
#[derive(Clone, Debug)]
pub struct DeviceRequest {
    /// Threads that it may use. Results must not depend on them.
    pub threads: usize,
    /// Most bytes of tensor storage.
    pub max_bytes: u64,
    /// Most tensors.
    pub max_tensors: u32,
}

/// A device that workers of this executable can use, under the name that
/// [`SandboxBuilder::device`](crate::SandboxBuilder::device) selects.
///
/// A device is not handed over as a value, because it lives in the worker,
/// which is another process: it starts from `main` again, with an empty
/// environment, and holds nothing of the embedder's memory. What it shares
/// with the embedder is the executable. So a device is a plain function in it,
/// found by name.
///
/// It is called before the worker sees anything of an evaluation, when files
/// are out of reach already but threads can still be started. Afterwards the
/// worker's filter of system calls (see [`crate::lockdown`]) holds for the
/// device as well.
#[derive(Clone, Copy, Debug)]
pub struct NamedDevice {
    /// Its name.
    pub name: &'static str,
    /// Opens it, once per worker, and again if it was lost.
    pub open: fn(&DeviceRequest) -> Result<kernels::Device, kernels::Error>,
}

/// Name of the device that is always there.
pub const CPU: &str = "cpu";

const BUILT_IN: NamedDevice = NamedDevice { name: CPU, open: open_cpu };

fn open_cpu(request: &DeviceRequest) -> Result<kernels::Device, kernels::Error> {
    kernels::Device::cpu(kernels::CpuConfig {
        threads: request.threads,
        max_bytes: request.max_bytes,
        max_tensors: request.max_tensors,
    })
}

/// Runs the child's role and never returns, if this process was started as
/// one. Call it first in every `main` whose executable a sandbox re-executes.
pub fn run_if_child() {
    run_if_child_with(&[]);
}

/// The same, with devices besides the CPU. A name that is registered twice
/// means the first; `cpu` can be replaced too.
pub fn run_if_child_with(devices: &[NamedDevice]) {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|a| a != MARK) {
        return;
    }
    let role = args.next().unwrap_or_default();
    let result = match role.to_str() {
        Some("jail") => jail::child_main(),
        Some("codegen") => codegen::child_main(channel()),
        Some("worker") => {
            let all: Vec<NamedDevice> = devices.iter().copied().chain([BUILT_IN]).collect();
            worker::child_main(channel(), &all)
        }
        _ => Err(format!("unknown role {role:?}")),
    };
    match result {
        Ok(()) => std::process::exit(0),
        Err(reason) => {
            eprintln!("terrarium child {role:?}: {reason}");
            std::process::exit(EXIT_FAILED);
        }
    }
}

/// Exit status of a child that could not play its role.
pub const EXIT_FAILED: i32 = 70;

/// The socket that the parent gave as standard input.
fn channel() -> UnixStream {
    // SAFETY: descriptor 0 is open (the parent always sets it), is owned by
    // this process, and nothing here reads standard input in another way.
    // Were it no socket, reads and writes would fail with an error.
    unsafe { UnixStream::from_raw_fd(0) }
}

/// A child that does not read for this long is taken for dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

/// What went wrong with a child.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// No answer in time. The child has been killed and reaped.
    #[error("no answer before the deadline")]
    Deadline,
    /// It ended without an answer. `signal` 0: it exited.
    #[error("the process died (signal {signal})")]
    Died { signal: i32 },
    /// The channel failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A running child. Killed and reaped when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    channel: BufReader<Timed>,
    /// Set when the channel was closed by us: there is nothing to wait for.
    hung_up: Arc<AtomicBool>,
}

impl Child {
    /// Starts `exe` in `role`. All children are started by one thread that
    /// lives as long as this process: a child dies with the *thread* that
    /// started it (that is what `PR_SET_PDEATHSIG` means), and callers' threads
    /// come and go.
    pub(crate) fn spawn(exe: &Path, role: &'static str) -> io::Result<Self> {
        type Order = (PathBuf, &'static str, mpsc::Sender<io::Result<Child>>);
        static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
        let spawner = SPAWNER.get_or_init(|| {
            let (orders, inbox) = mpsc::channel::<Order>();
            std::thread::spawn(move || {
                for (exe, role, answer) in inbox {
                    // The caller may have gone; the child then dies by its drop.
                    let _ = answer.send(Self::start(&exe, role));
                }
            });
            Mutex::new(orders)
        });
        let (answer, child) = mpsc::channel();
        let gone = || io::Error::other("the spawning thread is gone");
        let orders = spawner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        orders.send((exe.to_owned(), role, answer)).map_err(|_| gone())?;
        child.recv().map_err(|_| gone())?
    }

    fn start(exe: &Path, role: &str) -> io::Result<Self> {
        let (channel, theirs) = UnixStream::pair()?;
        channel.set_write_timeout(Some(SEND_TIMEOUT))?;
        let stderr = if std::env::var_os("TERRARIUM_CHILD_STDERR").is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let process = Command::new(exe)
            .args([MARK, role])
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0)
            .spawn()?;
        let channel = BufReader::new(Timed { socket: channel, end: Instant::now() });
        Ok(Self { process, channel, hung_up: Arc::default() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A function for other threads that ends the conversation: whoever waits
    /// in [`Child::receive`] finds the child dead. Only the owner kills, so no
    /// process number can be used after it was given to another.
    pub(crate) fn hang_up(&self) -> io::Result<impl Fn() + Send + 'static> {
        let socket = self.channel.get_ref().socket.try_clone()?;
        let hung_up = Arc::clone(&self.hung_up);
        Ok(move || {
            hung_up.store(true, Ordering::SeqCst);
            let _ = socket.shutdown(std::net::Shutdown::Both);
        })
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ChildError> {
        let frame = wire::frame(message)?;
        self.send_frame(&frame)
    }

    /// Sends what [`wire::frame`] made.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) -> Result<(), ChildError> {
        match self.channel.get_mut().socket.write_all(frame) {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(self.post_mortem())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// One message within `timeout`; on any failure the child is gone.
    pub(crate) fn receive<T: DeserializeOwned>(
        &mut self,
        limit: usize,
        timeout: Duration,
    ) -> Result<T, ChildError> {
        self.channel.get_mut().end = Instant::now() + timeout;
        match wire::receive(&mut self.channel, limit) {
            Ok(message) => Ok(message),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                self.kill();
                Err(ChildError::Deadline)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                Err(self.post_mortem())
            }
            Err(e) => {
                self.kill();
                Err(e.into())
            }
        }
    }

    /// The channel closed: the process is dead or dying.
    fn post_mortem(&mut self) -> ChildError {
        let end = Instant::now() + Duration::from_millis(500);
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return ChildError::Died { signal: status.signal().unwrap_or(0) },
                Ok(None) if Instant::now() < end && !self.hung_up.load(Ordering::SeqCst) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // It closed its channel but lives: that is not in its role.
                _ => {
                    self.kill();
                    return ChildError::Died { signal: 0 };
                }
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Ok(id) = i32::try_from(self.process.id())
            && let Some(group) = rustix::process::Pid::from_raw(id)
        {
            // The whole group first (the child leads one), then the child.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Reads from a socket until a point in time, then fails with `TimedOut`.
struct Timed {
    socket: UnixStream,
    end: Instant,
}

impl io::Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        match self.socket.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            other => other,
        }
    }
}
