//! The process that owns the device: one thread that admits, one for each
//! connection that it admitted, one that watches for work that does not end.
//!
//! A device that fails, or hangs, ends this process, and its context with it.
//! Before it goes it tells the guilty tenant from the others; its supervisor
//! starts the next one, to which they connect anew.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg, sockopt};
use serde::{Deserialize, Serialize};
use terrarium_kernels::{Device, Error, ErrorCode};

use super::config::BrokerConfig;
use super::protocol::{Answer, MAX_REQUEST, Request, VERSION};
use super::shared::Shared;
use super::tenant::{Served, welcome};
use super::turns::{Tenant, Turns};
use crate::child::{DeviceRequest, NamedDevice};
use crate::wire;

/// What an owner is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub device: String,
    pub config: BrokerConfig,
}

/// Starts the text of a loss that the evaluation itself brought about.
pub(crate) const GUILTY: &str = "this evaluation lost the device";

/// Time for a client to say hello, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most connections of all users together.
const MAX_CONNECTIONS: usize = 4096;

/// Largest hello.
const MAX_HELLO: usize = 256;

/// Exit status after the device was lost.
const EXIT_LOST: i32 = 71;

type Open = Box<dyn Fn(&DeviceRequest) -> Result<Device, Error> + Send + Sync>;

struct Owner {
    open: Open,
    kind: String,
    config: BrokerConfig,
    turns: Arc<Turns>,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    number: u64,
    connected: BTreeMap<Tenant, Peer>,
}

struct Peer {
    socket: UnixStream,
    /// Of tensors that it may have.
    bytes: u64,
}

/// Serves until the device is lost. The listening socket is descriptor 0.
pub(crate) fn child_main(orders: Option<std::ffi::OsString>, devices: &[NamedDevice]) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| e.to_string())?;
    rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string())?;
    let text = orders.and_then(|text| text.into_string().ok()).ok_or("no orders")?;
    let Orders { device, config } = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    config.check()?;
    let open = opener(&device, devices)?;
    // The first opening says what device it is; it is given back at once.
    let none = DeviceRequest { threads: 1, max_bytes: 0, max_tensors: 0 };
    let kind = open(&none).map_err(|e| e.to_string())?.kind();
    // SAFETY: descriptor 0 is the listening socket that the supervisor gave,
    // owned by this process and used by nothing else. Were it something else,
    // `accept` would fail.
    let listener = unsafe { UnixListener::from_raw_fd(0) };
    println!("{}", crate::clean(&kind, 200));
    let _ = io::stdout().flush();
    let hung = Duration::from_millis(config.hung_ms.0);
    let turns = Arc::new(Turns::new(config.slice_fuel.0));
    let owner = Arc::new(Owner { open, kind, config, turns, peers: Mutex::default() });
    let watched = owner.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep((hung / 4).clamp(Duration::from_millis(1), Duration::from_millis(250)));
            if let Some(tenant) = watched.turns.stuck(hung) {
                watched.lose(tenant, "its work held the device for longer than hung_ms");
            }
        }
    });
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                owner.welcome(socket);
            }
            // Out of descriptors, or the client went: others go on.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn opener(name: &str, devices: &[NamedDevice]) -> Result<Open, String> {
    if let Some(ordinal) = name.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
        return Ok(Box::new(move |request| {
            Device::cuda(terrarium_kernels::CudaConfig {
                ordinal,
                max_bytes: request.max_bytes,
                max_tensors: request.max_tensors,
            })
        }));
    }
    match devices.iter().find(|device| device.name == name) {
        Some(device) => Ok(Box::new(device.open)),
        None => Err(format!("there is no device `{}`; try cpu or cuda:0", crate::clean(name, 40))),
    }
}

impl Owner {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who came first is admitted first, and who is refused costs no thread.
    fn welcome(self: &Arc<Self>, socket: UnixStream) {
        let Ok(credentials) = sockopt::socket_peercred(&socket) else {
            return;
        };
        if socket.set_write_timeout(Some(PATIENCE)).is_err()
            || socket.set_read_timeout(Some(PATIENCE)).is_err()
        {
            return;
        }
        let tenant = match self.admit(credentials.uid.as_raw(), &socket) {
            Ok(tenant) => tenant,
            // The answer fits the empty buffer of a new connection.
            Err(error) => return refuse(&socket, error),
        };
        let owner = self.clone();
        if std::thread::Builder::new().spawn(move || owner.serve(tenant, &socket)).is_err() {
            // The connection is closed, which tells the client.
            self.part(tenant);
        }
    }

    fn serve(&self, tenant: Tenant, socket: &UnixStream) {
        let told = self.converse(tenant, socket);
        self.part(tenant);
        if let Err(error) = told {
            refuse(socket, error);
        }
    }

    fn part(&self, tenant: Tenant) {
        self.peers().connected.remove(&tenant);
        self.turns.forget(tenant);
    }

    fn admit(&self, uid: u32, socket: &UnixStream) -> Result<Tenant, Error> {
        let quota = self.config.of(uid);
        let mut peers = self.peers();
        let own = peers.connected.keys().filter(|tenant| tenant.uid == uid).count();
        if own >= quota.connections as usize || peers.connected.len() >= MAX_CONNECTIONS {
            let detail = format!("user {uid} has {own} connections to the broker, the most allowed");
            return Err(Error::new(ErrorCode::Quota, detail));
        }
        let socket = socket.try_clone().map_err(lost)?;
        peers.number += 1;
        let tenant = Tenant { uid, number: peers.number };
        peers.connected.insert(tenant, Peer { socket, bytes: 0 });
        Ok(tenant)
    }

    /// Grants bytes of the user's quota to a connection.
    fn grant(&self, tenant: Tenant, bytes: u64) -> Result<(), Error> {
        let limit = self.config.of(tenant.uid).bytes;
        let mut peers = self.peers();
        let others = peers.connected.iter().filter(|(t, _)| t.uid == tenant.uid && **t != tenant);
        let granted = others.fold(0u64, |sum, (_, peer)| sum.saturating_add(peer.bytes));
        if granted.saturating_add(bytes) > limit {
            let detail = format!(
                "{bytes} bytes asked of the broker, {} of {limit} are left to user {}",
                limit.saturating_sub(granted),
                tenant.uid
            );
            return Err(Error::new(ErrorCode::Quota, detail));
        }
        if let Some(peer) = peers.connected.get_mut(&tenant) {
            peer.bytes = bytes;
        }
        Ok(())
    }

    /// Until the client hangs up. An error is for the client.
    fn converse(&self, tenant: Tenant, socket: &UnixStream) -> Result<(), Error> {
        let mut from = BufReader::new(socket);
        let quota = self.config.of(tenant.uid).clone();
        let bad = |e: io::Error| Error::new(ErrorCode::InvalidArgument, format!("a request: {e}"));
        let Request::Hello { version, max_bytes, max_tensors } =
            wire::receive(&mut from, MAX_HELLO).map_err(bad)?
        else {
            return Err(Error::new(ErrorCode::InvalidArgument, "hello comes first"));
        };
        if version != VERSION {
            let detail = format!("the broker speaks version {VERSION}, not {version}");
            return Err(Error::new(ErrorCode::InvalidArgument, detail));
        }
        if max_tensors > quota.tensors {
            let detail = format!("{max_tensors} tensors asked of the broker, at most {}", quota.tensors);
            return Err(Error::new(ErrorCode::Quota, detail));
        }
        self.grant(tenant, max_bytes)?;
        let device = (self.open)(&DeviceRequest { threads: 0, max_bytes, max_tensors })?;
        let (shared, file) = Shared::make().map_err(lost)?;
        let frame = welcome(&self.kind).map_err(lost)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let sent =
            sendmsg(socket, &[io::IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL).map_err(lost)?;
        let mut to = socket;
        to.write_all(&frame[sent..]).map_err(lost)?;
        drop(file);
        // Between evaluations a worker says nothing for long.
        socket.set_read_timeout(None).map_err(lost)?;
        let slice = self.config.slice_fuel.0;
        let mut served = Served::new(tenant, quota, self.turns.clone(), device, shared, slice);
        loop {
            let request = match wire::receive::<Request>(&mut from, MAX_REQUEST) {
                Ok(request) => request,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(bad(e)),
                Err(_) => return Ok(()),
            };
            let answer = served.answer(request);
            if let Answer::Failed(Error::DeviceLost { detail, .. }) = &answer {
                self.lose(tenant, detail);
            }
            if wire::send(&mut to, &answer).is_err() {
                return Ok(());
            }
        }
    }

    /// Ends this process, after all clients were told whose doing it was.
    fn lose(&self, guilty: Tenant, why: &str) -> ! {
        for (tenant, peer) in &self.peers().connected {
            let detail = if *tenant == guilty {
                format!("{GUILTY}: {why}")
            } else {
                "another evaluation lost the device; this one can be repeated".to_owned()
            };
            if let Ok(frame) = wire::frame(&Answer::Failed(Error::new(ErrorCode::DeviceLost, detail))) {
                // Who does not read finds the connection closed.
                let _ = send(&peer.socket, &frame, SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT));
            }
        }
        eprintln!("broker: user {} lost the device: {}", guilty.uid, crate::clean(why, 500));
        std::process::exit(EXIT_LOST)
    }
}

fn lost(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::DeviceLost, e.to_string())
}

fn refuse(mut socket: &UnixStream, error: Error) {
    // A client that does not listen is closed all the same.
    let _ = wire::send(&mut socket, &Answer::Failed(error));
}
