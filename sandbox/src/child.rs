//! Child processes: the same executable again, in another role.
//!
//! A parent starts `exe __terrarium-child ROLE ISOLATION`. The child talks to
//! it over one socket, its standard input; it inherits nothing else: no
//! environment, no other descriptor, no directory but `/`.

use crate::ahead::Ahead;
use crate::cgroup::Group;
use crate::isolation::Isolation;
use crate::namespaces::Access;
use crate::{broker, bubblewrap, codegen, jail, probe, wire, worker};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
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

const BUILT_IN: [NamedDevice; 2] = [
    NamedDevice { name: CPU, open: open_cpu },
    NamedDevice { name: broker::BROKERED, open: broker::inherited },
];

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
    let isolation = args.next().unwrap_or_default().to_string_lossy().parse::<Isolation>();
    let result = isolation.map_err(|e| e.to_string()).and_then(|isolation| match role.to_str() {
        Some("jail") => jail::child_main(isolation, args.next()),
        Some("probe") => probe::child_main(isolation, args.next()),
        Some("codegen") => codegen::child_main(channel(), isolation),
        Some("broker") => {
            let all: Vec<NamedDevice> = devices.iter().copied().chain([BUILT_IN[0]]).collect();
            broker::child_main(args.next(), &all)
        }
        Some("worker") => {
            let all: Vec<NamedDevice> = devices.iter().copied().chain(BUILT_IN).collect();
            worker::child_main(channel(), &all, isolation)
        }
        _ => Err(format!("unknown role {role:?}")),
    });
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

/// What waits for a child that is still starting: a usual component.
const SEND_BUFFER: usize = 1 << 20;

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

/// Children that were started before they are wanted.
pub(crate) type Children = Ahead<Start, io::Result<Child>>;

/// A running child. Killed and reaped when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    channel: BufReader<Timed>,
    /// Set when the channel was closed by us: there is nothing to wait for.
    hung_up: Arc<AtomicBool>,
    /// Started by bubblewrap, which puts a signal into its exit status.
    wrapped: bool,
    /// What is done once its next message is there.
    then: Option<Box<dyn FnOnce() + Send>>,
    /// Dropped last, with everything that is in it.
    _group: Option<Group>,
}

/// What is started.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Start {
    /// The executable.
    pub exe: PathBuf,
    /// What part it plays.
    pub role: &'static str,
    /// What it must put in place.
    pub isolation: Isolation,
    /// Files that it opens before it locks itself down.
    pub files: Vec<PathBuf>,
    /// Memory of its control group, in bytes, where there is one.
    pub memory: u64,
}

/// Runs `make` on the thread that starts all children and lives as long as
/// this process: a child dies with the *thread* that started it (that is what
/// `PR_SET_PDEATHSIG` means), and callers' threads come and go.
pub(crate) fn on_spawner<T: Send + 'static>(
    make: impl FnOnce() -> T + Send + 'static,
) -> io::Result<mpsc::Receiver<T>> {
    type Order = Box<dyn FnOnce() + Send>;
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for order in inbox {
                // A panic is the order's own: its channel closes without an answer.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(order));
            }
        });
        Mutex::new(orders)
    });
    let (answer, made) = mpsc::channel();
    let order = Box::new(move || {
        // Nobody may be waiting any more.
        let _ = answer.send(make());
    });
    let orders = spawner.lock().unwrap_or_else(PoisonError::into_inner).clone();
    orders.send(order).map_err(|_| not_made())?;
    Ok(made)
}

/// A channel of [`on_spawner`] closed without an answer.
pub(crate) fn not_made() -> io::Error {
    io::Error::other("the thread that starts processes failed to start one")
}

impl Child {
    /// Starts a child. `broker` is its connection to a device's broker, which
    /// it gets as its standard output.
    pub(crate) fn spawn(start: Start, broker: Option<OwnedFd>) -> io::Result<Self> {
        // Were the caller gone, the child would die by its drop.
        on_spawner(move || Self::start(&start, broker))?.recv().map_err(|_| not_made())?
    }

    /// One that was started ahead, if it lives, or a new one.
    pub(crate) fn next(ahead: &Children, start: &Start) -> io::Result<Self> {
        let mut waiting = ahead.take(start).and_then(Result::ok);
        match waiting.take_if(|child| child.is_alive()) {
            Some(child) => Ok(child),
            None => Self::spawn(start.clone(), None),
        }
    }

    /// Has the one after it started, once the next message of this one is
    /// there: before, the two would share the processors.
    pub(crate) fn prepare(&mut self, ahead: &Children, start: Start) {
        let ahead = ahead.clone();
        self.then = Some(Box::new(move || ahead.prepare(&start.clone(), move || Self::start(&start, None))));
    }

    fn start(start: &Start, broker: Option<OwnedFd>) -> io::Result<Self> {
        let Start { exe, role, isolation, files, memory } = start;
        let (channel, theirs) = UnixStream::pair()?;
        channel.set_write_timeout(Some(SEND_TIMEOUT))?;
        // As the system allows: it is a matter of speed alone.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&channel, SEND_BUFFER);
        let stderr = if std::env::var_os("TERRARIUM_CHILD_STDERR").is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let show: Vec<_> = files.iter().map(|path| (path.clone(), Access::Read)).collect();
        let wrapped = bubblewrap::command(exe, *isolation, &show)?;
        let is_wrapped = wrapped.is_some();
        let mut command = wrapped.unwrap_or_else(|| Command::new(exe));
        let group = Group::hold(&mut command, *isolation, *memory)?;
        let process = command
            .args([MARK, role])
            .arg(isolation.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(broker.map_or_else(Stdio::null, Stdio::from))
            .stderr(stderr)
            .process_group(0)
            .spawn()?;
        let channel = BufReader::new(Timed { socket: channel, end: Instant::now() });
        Ok(Self { process, channel, hung_up: Arc::default(), wrapped: is_wrapped, then: None, _group: group })
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
            Ok(message) => {
                if let Some(then) = self.then.take() {
                    then();
                }
                Ok(message)
            }
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
                Ok(Some(status)) => return ChildError::Died { signal: self.signal_of(status) },
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

    fn signal_of(&self, status: std::process::ExitStatus) -> i32 {
        let passed_on = || status.code().and_then(|code| bubblewrap::signal(self.wrapped, code));
        status.signal().or_else(passed_on).unwrap_or(0)
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
        if let Some(read) = wire::look(&self.socket, buffer)? {
            return Ok(read);
        }
        self.socket.set_read_timeout(Some(left))?;
        match self.socket.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            other => other,
        }
    }
}
