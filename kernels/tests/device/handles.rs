//! Handles, storage and quotas.

use proptest::prelude::*;
use terrarium_kernels::*;

fn open(max_bytes: u64, max_tensors: u32) -> Device {
    Device::cpu(CpuConfig { threads: 1, max_bytes, max_tensors }).unwrap()
}

fn code<T>(result: Result<T, Error>) -> ErrorCode {
    match result {
        Ok(_) => panic!("was accepted"),
        Err(error) => error.code(),
    }
}

#[test]
fn a_device_can_move_between_threads() {
    fn check<T: Send>(_: T) {}
    check(open(0, 0));
}

#[test]
fn shapes_are_checked() {
    let mut d = open(1 << 20, 10);
    for shape in [&[][..], &[1, 2, 3, 4, 5], &[0], &[3, 0], &[u32::MAX; 4]] {
        assert_eq!(code(d.alloc(DType::F32, shape)), ErrorCode::InvalidArgument, "{shape:?}");
    }
    assert_eq!(code(d.alloc(DType::F32, &[u32::MAX, u32::MAX])), ErrorCode::OutOfMemory);
    assert_eq!(d.usage().bytes, 0);
}

#[test]
fn storage_lives_as_long_as_its_last_view() {
    let mut d = open(4096, 10);
    let a = d.alloc(DType::F32, &[1024]).unwrap();
    let view = d.view(a, 1000, &[4, 6]).unwrap();
    d.upload_f32(a, 1023, &[7.0]).unwrap();
    d.free(a).unwrap();
    assert_eq!(code(d.free(a)), ErrorCode::BadHandle);
    assert_eq!(code(d.alloc(DType::F32, &[1])), ErrorCode::OutOfMemory);
    let mut out = [0.0];
    d.download_f32(view, 23, &mut out).unwrap();
    assert_eq!(out, [7.0]);
    assert_eq!(code(d.download_f32(view, 24, &mut out)), ErrorCode::InvalidArgument);
    assert_eq!(code(d.download_f32(view, u64::MAX, &mut out)), ErrorCode::InvalidArgument);
    d.free(view).unwrap();
    assert_eq!(d.usage(), DeviceUsage { bytes: 0, peak_bytes: 4096, tensors: 0 });
    // What is handed out again is zero.
    let b = d.alloc(DType::F32, &[1024]).unwrap();
    let mut all = vec![1.0; 1024];
    d.download_f32(b, 0, &mut all).unwrap();
    assert!(all.iter().all(|&x| x == 0.0));
}

#[test]
fn views_stay_inside() {
    let mut d = open(1 << 20, 4);
    let a = d.alloc(DType::I32, &[8]).unwrap();
    for (offset, shape) in [(0, [9]), (8, [1]), (u64::MAX, [1]), (1, [8])] {
        assert_eq!(code(d.view(a, offset, &shape)), ErrorCode::InvalidArgument);
    }
    let b = d.view(a, 4, &[4]).unwrap();
    assert_eq!(d.dtype(b).unwrap(), DType::I32);
    assert_eq!(d.shape(b).unwrap(), [4]);
    assert_eq!(code(d.upload_f32(b, 0, &[1.0])), ErrorCode::ShapeMismatch);
    let c = d.view(b, 1, &[1, 3]).unwrap();
    d.upload_i32(c, 0, &[5, 6, 7]).unwrap();
    let mut out = [0; 8];
    d.download_i32(a, 0, &mut out).unwrap();
    assert_eq!(out, [0, 0, 0, 0, 0, 5, 6, 7]);
    d.alloc(DType::F32, &[1]).unwrap();
    assert_eq!(code(d.alloc(DType::F32, &[1])), ErrorCode::Quota);
    assert_eq!(code(d.view(a, 0, &[1])), ErrorCode::Quota);
}

#[test]
fn old_handles_never_come_back() {
    let mut d = open(1 << 20, 4);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        let id = d.alloc(DType::F32, &[1]).unwrap();
        assert!(seen.insert(id));
        d.free(id).unwrap();
    }
}

#[test]
fn a_reset_leaves_nothing_that_a_guest_could_see() {
    let mut fresh = open(1 << 20, 4);
    let mut used = open(1 << 20, 4);
    let ids = [(); 3].map(|()| used.alloc(DType::F32, &[2]).unwrap());
    used.upload_f32(ids[0], 0, &[1.0, 2.0]).unwrap();
    let fill = |dst| Op::Fill(Fill { dst, value: 3.0 });
    let graph = used.prepare(vec![fill(ids[0])]).unwrap();
    used.free(ids[1]).unwrap();
    used.reset();
    let empty = DeviceUsage { bytes: 0, peak_bytes: 0, tensors: 0 };
    assert_eq!(used.usage(), empty);
    assert_eq!(code(used.shape(ids[0])), ErrorCode::BadHandle);
    for _ in 0..4 {
        // Handles decide what a guest does with them, such as their order in a map.
        let id = used.alloc(DType::F32, &[2]).unwrap();
        assert_eq!(id, fresh.alloc(DType::F32, &[2]).unwrap());
        let mut out = [9.0; 2];
        used.download_f32(id, 0, &mut out).unwrap();
        assert_eq!(out, [0.0; 2]);
    }
    // The graph's handles exist again, but they are other tensors.
    assert_eq!(code(used.run(&graph)), ErrorCode::BadHandle);
}

#[test]
fn graphs_are_bound_to_their_device_and_tensors() {
    let (mut d, mut other) = (open(1 << 20, 4), open(1 << 20, 4));
    let id = d.alloc(DType::F32, &[2]).unwrap();
    assert_eq!(other.alloc(DType::F32, &[1]).unwrap(), id);
    let graph = d.prepare(vec![Fill { dst: id, value: 2.0 }.into()]).unwrap();
    assert_eq!(graph.ops(), 1);
    assert_eq!(graph.profile()[0].name, "Fill");
    assert_eq!(graph.profile()[0].cost, graph.cost());
    let timed = d.run_timed(&graph).unwrap();
    assert_eq!((timed.len(), timed[0].name, timed[0].count), (1, "Fill", 1));
    d.run(&graph).unwrap();
    assert_eq!(code(other.run(&graph)), ErrorCode::BadHandle);
    d.free(id).unwrap();
    d.alloc(DType::F32, &[1]).unwrap();
    assert_eq!(code(d.run(&graph)), ErrorCode::BadHandle);
}

proptest! {
    /// Whatever bits a guest holds, they are looked up and never followed.
    #[test]
    fn forged_handles_are_refused(bits: u64, offset: u64, slot in 0u64..4) {
        let mut d = open(1 << 10, 4);
        let real = d.alloc(DType::F32, &[2]).unwrap();
        for bits in [bits, bits << 32, slot, (bits << 32) | slot] {
            let id = TensorId::from_bits(bits);
            if id != real {
                prop_assert_eq!(code(d.shape(id)), ErrorCode::BadHandle);
                prop_assert_eq!(code(d.view(id, offset, &[1])), ErrorCode::BadHandle);
                prop_assert_eq!(code(d.free(id)), ErrorCode::BadHandle);
                prop_assert_eq!(code(d.prepare(vec![Fill { dst: id, value: 0.0 }.into()])), ErrorCode::BadHandle);
            }
        }
    }
}
