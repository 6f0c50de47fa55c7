//! The broker: the process that owns a device and lends it to workers.
//!
//! A worker is locked down and can open no device. It is given a connected
//! socket instead, as its standard output, and asks over it; its parent makes
//! the connection, so the socket's peer credentials name the user. The broker
//! trusts no worker: every operation passes the one validator again, on the
//! broker's own table of tensors, and every size is held against the user's
//! quota. Who may have how much is its [configuration](BrokerConfig).
//!
//! Two processes: a supervisor that holds the listening socket, and the
//! owner of the device, which it starts again when the device
//! was lost. Clients that connect meanwhile wait.

mod client;
mod config;
mod owner;
mod protocol;
mod shared;
mod tenant;
#[cfg(test)]
mod tests;
mod turns;

use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use client::{connect, kind, open};
pub use config::{BrokerConfig, HungMs, Quota, SliceFuel};
pub(crate) use owner::{GUILTY, child_main};

use crate::child::{DeviceRequest, MARK};
use terrarium_kernels::{Device, Error, ErrorCode};

/// Name of the device that a worker has over its standard output.
pub const BROKERED: &str = "broker";

/// What the owner's process keeps of the environment: where the driver is and
/// which cards it shows.
const ENVIRONMENT: [&str; 5] =
    ["LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "RAYON_NUM_THREADS", "TERRARIUM_CUDA", "TERRARIUM_SIM_SEED"];

/// An owner that ends sooner than this did not get to work.
const SHORT: Duration = Duration::from_secs(1);

/// So many in a row end the broker.
const SHORT_LIVES: u32 = 20;

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The device: `cpu`, `cuda:0`, or one that the executable registers.
    pub device: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// Who may have how much.
    pub config: BrokerConfig,
    /// The executable that is started again; its `main` must begin with
    /// [`crate::child::run_if_child`].
    pub exe: PathBuf,
}

impl Broker {
    /// Serves until this process ends. `ready` is called with the kind of the
    /// device and the owner's process number each time that one is ready.
    ///
    /// # Errors
    /// The socket cannot be made; the device cannot be opened (`InvalidInput`).
    pub fn serve(&self, mut ready: impl FnMut(&str, u32)) -> io::Result<()> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        self.config.check().map_err(invalid)?;
        let listener = self.bind()?;
        let orders = owner::Orders { device: self.device.clone(), config: self.config.clone() };
        let orders = serde_json::to_string(&orders).map_err(io::Error::other)?;
        let mut short = 0;
        loop {
            let start = Instant::now();
            let kept = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
            let mut owner = Command::new(&self.exe)
                .args([MARK, "broker", &crate::Isolation::default().to_string(), &orders])
                .env_clear()
                .envs(kept)
                .current_dir("/")
                .stdin(OwnedFd::from(listener.try_clone()?))
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            if let Some(said) = owner.stdout.take() {
                BufReader::new(said).read_line(&mut line)?;
            }
            if line.is_empty() {
                let status = owner.wait()?;
                return Err(invalid(format!("device `{}` cannot be opened ({status})", self.device)));
            }
            ready(line.trim(), owner.id());
            let status = owner.wait()?;
            eprintln!("broker: the device's owner ended ({status}); starting another");
            short = if start.elapsed() < SHORT { short + 1 } else { 0 };
            if short >= SHORT_LIVES {
                return Err(io::Error::other("the device's owner ends again and again"));
            }
        }
    }

    fn bind(&self) -> io::Result<UnixListener> {
        match std::fs::symlink_metadata(&self.socket) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(&self.socket).is_ok() {
                    let what = format!("a broker listens at {} already", self.socket.display());
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
                }
                std::fs::remove_file(&self.socket)?;
            }
            Ok(_) => {
                let what = format!("{} is there and is no socket", self.socket.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(&self.socket)?;
        // For this user alone, unless the configuration names others.
        let mode = if self.config.users.is_empty() { 0o600 } else { 0o666 };
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(mode))?;
        Ok(listener)
    }
}

/// The device of a worker whose parent gave it a broker's connection as its
/// standard output. Once: the connection is used up.
pub(crate) fn inherited(request: &DeviceRequest) -> Result<Device, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::new(ErrorCode::DeviceLost, "the connection to the broker is gone"));
    }
    // SAFETY: descriptor 1 is open (the parent always sets it) and nothing in
    // a worker prints; the flag above makes this its only owner. Were it no
    // socket, reads and writes would fail with an error. Exercised by every
    // evaluation with a broker.
    open(unsafe { std::os::fd::FromRawFd::from_raw_fd(1) }, request)
}

/// The connection for a worker.
pub(crate) fn connection(path: &Path) -> io::Result<OwnedFd> {
    let at = |e: io::Error| io::Error::new(e.kind(), format!("no broker at {}: {e}", path.display()));
    Ok(connect(path).map_err(at)?.into())
}
