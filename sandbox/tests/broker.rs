//! A broker in processes of its own, its honest clients and hostile ones.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use terrarium_kernels::{
    Attention, CpuConfig, DType, Device, Error, ErrorCode, Fill, Graph, Heads, MatMul, Random, RmsNorm,
};
use terrarium_sandbox::broker::{self, Broker, BrokerConfig, HungMs, Quota, SliceFuel};
use terrarium_sandbox::child::DeviceRequest;

struct Running {
    socket: PathBuf,
    /// The first owner, and those after it.
    first: u32,
    owners: mpsc::Receiver<u32>,
    _folder: tempfile::TempDir,
}

/// A broker over the CPU device. Its supervisor is a thread of this process,
/// and its owner dies with that.
fn start(config: BrokerConfig) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("broker");
    let (started, owners) = mpsc::channel();
    // Elsewhere than where it was built, another program that can be a child.
    let exe = std::env::var_os("TERRARIUM_TEST_CELL")
        .map_or_else(|| env!("CARGO_BIN_EXE_terrarium-cell").into(), std::path::PathBuf::from);
    let broker = Broker { device: "cpu".into(), socket: socket.clone(), config, exe };
    std::thread::spawn(move || {
        let served = broker.serve(|_, owner| {
            // A test that has seen enough listens no more.
            let _ = started.send(owner);
        });
        eprintln!("the broker ended: {served:?}");
    });
    let first = owners.recv_timeout(Duration::from_secs(20)).expect("an owner starts");
    Running { socket, first, owners, _folder: folder }
}

impl Running {
    fn next_owner(&self) -> u32 {
        self.owners.recv_timeout(Duration::from_secs(20)).expect("another owner starts")
    }
}

fn request(max_bytes: u64) -> DeviceRequest {
    DeviceRequest { threads: 1, max_bytes, max_tensors: 1000 }
}

fn open(socket: &Path, max_bytes: u64) -> Result<Device, Error> {
    broker::open(broker::connect(socket).unwrap(), &request(max_bytes))
}

/// Results of a few operations, and of an index out of range.
fn work(device: &mut Device) -> (Vec<u32>, Vec<Error>) {
    let n = 96;
    let [a, b, c, norm] = [(); 4].map(|()| device.alloc(DType::F32, &[n, n]).unwrap());
    let half = device.alloc(DType::Bf16, &[n, n]).unwrap();
    let inv_rms = device.alloc(DType::F32, &[n]).unwrap();
    let indices = device.alloc(DType::I32, &[4]).unwrap();
    device.upload_i32(indices, 0, &[0, 5, 95, 96]).unwrap();
    let values: Vec<f32> = (0..n * n).map(|i| (i as f32).sin()).collect();
    device.upload_f32(b, 0, &values).unwrap();
    device.upload_f32(half, 0, &values).unwrap();
    let rows = device.alloc(DType::F32, &[4, n]).unwrap();
    let distribution = terrarium_kernels::Distribution::Normal;
    let graph = device
        .prepare(vec![
            Random { dst: a, seed: 3, stream: 4, distribution, scale: 1.0 }.into(),
            MatMul { a, b, out: c, trans_a: false, trans_b: true, alpha: 0.5, accumulate: false }.into(),
            MatMul { a: c, b: half, out: a, trans_a: false, trans_b: false, alpha: 1.0, accumulate: true }
                .into(),
            terrarium_kernels::Gather { table: a, indices, out: rows }.into(),
            RmsNorm { x: a, out: norm, inv_rms, eps: 1e-6 }.into(),
        ])
        .unwrap();
    let mut errors = vec![device.run(&graph).unwrap_err(), device.run(&graph).unwrap_err()];
    errors.push(device.upload_f32(a, 1 << 40, &[0.0]).unwrap_err());
    errors.push(device.alloc(DType::F32, &[1 << 20, 1 << 20]).unwrap_err());
    let gone = device.view(b, 0, &[4]).unwrap();
    device.free(gone).unwrap();
    errors.push(device.shape(gone).unwrap_err());
    let (mut out, mut last) = (vec![0.0; (n * n) as usize], vec![0.0; (4 * n) as usize]);
    device.download_f32(norm, 0, &mut out).unwrap();
    device.download_f32(rows, 0, &mut last).unwrap();
    (out.iter().chain(&last).map(|v| v.to_bits()).collect(), errors)
}

#[test]
fn results_and_refusals_are_those_of_the_device_in_process() {
    let running = start(BrokerConfig { slice_fuel: SliceFuel(1), ..BrokerConfig::default() });
    let mut near = Device::cpu(CpuConfig { threads: 1, max_bytes: 4 << 20, max_tensors: 1000 }).unwrap();
    let mut far = open(&running.socket, 4 << 20).unwrap();
    assert_eq!(far.kind(), near.kind());
    let expected = work(&mut near);
    assert_eq!(expected.1[0].code(), ErrorCode::IndexRange);
    assert_eq!(work(&mut far), expected);
    far.reset();
    assert_eq!(work(&mut far), expected, "a reset device starts as a new one");

    // More than the shared memory holds, in parts.
    let mut far = open(&running.socket, 16 << 20).unwrap();
    let large = far.alloc(DType::I32, &[1 << 20]).unwrap();
    let values: Vec<i32> = (0..1 << 20).collect();
    far.upload_i32(large, 0, &values).unwrap();
    let mut back = vec![0; 1 << 20];
    far.download_i32(large, 0, &mut back).unwrap();
    assert_eq!(back, values);

    // What one tenant had is not what the next finds.
    drop(far);
    let mut other = open(&running.socket, 16 << 20).unwrap();
    let fresh = other.alloc(DType::I32, &[1 << 20]).unwrap();
    other.download_i32(fresh, 0, &mut back).unwrap();
    assert!(back.iter().all(|&word| word == 0));
}

/// A graph of so many products of 256 × 256.
fn products(device: &mut Device, count: usize) -> Graph {
    let [a, b, out] = [(); 3].map(|()| device.alloc(DType::F32, &[256, 256]).unwrap());
    let product = MatMul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false };
    device.prepare(vec![product.into(); count]).unwrap()
}

#[test]
fn hostile_clients_harm_only_themselves() {
    let quota = Quota { connections: 40, bytes: 64 << 20, ..Quota::default() };
    let running = start(BrokerConfig { default: quota, ..BrokerConfig::default() });
    let mut good = open(&running.socket, 8 << 20).unwrap();
    let expected = work(&mut good);
    let connect = || UnixStream::connect(&running.socket).unwrap();
    let said = |mut socket: &UnixStream| {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = Vec::new();
        // A reset is a goodbye, too.
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };

    // Noise, a forged length, another protocol, silence in the middle.
    for bytes in [&[0xffu8; 64][..], &[4, 0, 0, 0, 1, 2, 3, 4], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut socket = connect();
        socket.write_all(bytes).unwrap();
        assert!(said(&socket).contains("InvalidArgument"), "{bytes:?}");
    }
    let mut cut = connect();
    cut.write_all(&[100, 0, 0, 0, 1]).unwrap();
    drop(cut);
    // Connections that say nothing, and one that never reads.
    let silent: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    let mut flood = connect();
    flood.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while flood.write_all(&[0; 4096]).is_ok() {}

    // More than the quota of bytes, of tensors, of connections.
    let refused = |r: Result<Device, Error>| r.err().map(|e| e.code());
    assert_eq!(refused(open(&running.socket, 65 << 20)), Some(ErrorCode::Quota));
    assert_eq!(refused(open(&running.socket, 57 << 20)), Some(ErrorCode::Quota), "8 of 64 MiB are lent");
    let many: Vec<UnixStream> = (0..60).map(|_| connect()).collect();
    let turned_away = many.iter().rev().take(3).filter(|socket| said(socket).contains("Quota")).count();
    assert_eq!(turned_away, 3);
    drop((many, silent, flood));

    // Places come back some time after their clients went.
    let opened = || {
        (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            open(&running.socket, 8 << 20).ok()
        })
    };
    // Dies in the middle of its work, which is then not waited for.
    let mut dying = opened().expect("places come back");
    let graph = products(&mut dying, 50);
    std::thread::spawn(move || dying.run(&graph));

    good.reset();
    assert_eq!(work(&mut good), expected);
    drop(good);
    assert_eq!(work(&mut opened().expect("quotas come back")), expected);
    assert!(running.owners.try_recv().is_err(), "the owner {} lives", running.first);
}

#[test]
fn two_tenants_have_equal_shares_though_one_asks_for_longer_work() {
    // Several times what a request's way takes, in which the other one has the
    // device.
    const SLICE: usize = 32;
    let mut here = Device::cpu(CpuConfig::default()).unwrap();
    let slice_fuel = SliceFuel(products(&mut here, SLICE).cost());
    let running = start(BrokerConfig { slice_fuel, ..BrokerConfig::default() });
    let end = Instant::now() + Duration::from_millis(2500);
    let fuel = |count: usize| {
        let mut device = open(&running.socket, 8 << 20).unwrap();
        let graph = products(&mut device, count);
        std::thread::spawn(move || {
            let mut fuel = 0;
            while Instant::now() < end {
                device.run(&graph).unwrap();
                fuel += graph.cost();
            }
            fuel as f64
        })
    };
    let (long, short) = (fuel(10 * SLICE), fuel(SLICE));
    let (long, short) = (long.join().unwrap(), short.join().unwrap());
    let share = short / (long + short);
    // The short one needs a hop for each slice; half less a fifth is stated.
    assert!((0.4..0.6).contains(&share), "{short} of {}", long + short);
}

#[test]
fn a_killed_owner_is_replaced_and_a_hung_one_is_told_from_its_victims() {
    let running = start(BrokerConfig { hung_ms: HungMs(400), ..BrokerConfig::default() });
    let first = running.first;
    let mut device = open(&running.socket, 8 << 20).unwrap();
    let expected = work(&mut device);
    device.reset();
    let pid = rustix::process::Pid::from_raw(first as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let second = running.next_owner();
    assert_ne!(first, second);
    let lost = device.alloc(DType::F32, &[4]).unwrap_err();
    assert_eq!(lost.code(), ErrorCode::DeviceLost);
    assert!(device.lost().is_some());
    assert_eq!(device.alloc(DType::F32, &[4]).unwrap_err().code(), ErrorCode::DeviceLost, "it stays lost");

    // One operation that takes longer than the device may be held.
    let mut victim = open(&running.socket, 8 << 20).unwrap();
    let quick = victim.alloc(DType::F32, &[4]).unwrap();
    let mut guilty = open(&running.socket, 1 << 30).unwrap();
    let [q, out] = [(); 2].map(|()| guilty.alloc(DType::F32, &[1, 32768, 4, 64]).unwrap());
    let [k, v] = [(); 2].map(|()| guilty.alloc(DType::F32, &[1, 32768, 1, 64]).unwrap());
    let lse = guilty.alloc(DType::F32, &[1, 4, 32768]).unwrap();
    let [q, k, v] = [q, k, v].map(Heads::from);
    let attention = Attention { q, k, v, kv_heads: 1, out, lse, window: 0, scale: 0.1 };
    let graph = guilty.prepare(vec![attention.into()]).unwrap();
    let error = guilty.run(&graph).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeviceLost);
    assert!(error.to_string().contains("this evaluation lost the device"), "{error}");
    running.next_owner();
    let graph = victim.prepare(vec![Fill { dst: quick, value: 1.0 }.into()]);
    let error = graph.unwrap_err();
    assert!(error.to_string().contains("another evaluation"), "{error}");
    assert_eq!(work(&mut open(&running.socket, 8 << 20).unwrap()), expected);
}
