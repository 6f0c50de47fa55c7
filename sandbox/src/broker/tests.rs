//! The decoder and one connection, without processes.

use std::sync::Arc;

use proptest::prelude::*;
use terrarium_kernels::remote::Call;
use terrarium_kernels::{CpuConfig, DType, Device, Error, ErrorCode, Fill, MatMul, Op, TensorId};

use super::config::Quota;
use super::protocol::{Answer, Request, SHARED_WORDS, VERSION};
use super::shared::Shared;
use super::tenant::Served;
use super::turns::{Tenant, Turns};
use crate::wire::{self, tests::altered};

fn served(quota: Quota) -> Served {
    let device = Device::cpu(CpuConfig { threads: 1, max_bytes: 1 << 20, max_tensors: 64 }).unwrap();
    let (shared, _file) = Shared::make().unwrap();
    Served::new(Tenant { uid: 1, number: 1 }, quota, Arc::new(Turns::new(100)), device, shared, 100)
}

fn alloc(served: &mut Served, shape: &[u32]) -> TensorId {
    let call = Call::Alloc { dtype: DType::F32, shape: shape.to_vec() };
    match served.answer(Request::Call(call)) {
        Answer::Done(bits) => TensorId::from_bits(bits),
        other => panic!("{other:?}"),
    }
}

fn code(answer: Answer) -> Option<ErrorCode> {
    match answer {
        Answer::Failed(error) => Some(error.code()),
        Answer::Done(_) | Answer::Welcome { .. } => None,
    }
}

fn some_requests() -> Vec<Request> {
    let id = TensorId::from_bits(1 << 32);
    let ops: Vec<Op> = vec![
        Fill { dst: id, value: f32::NAN }.into(),
        MatMul { a: id, b: id, out: id, trans_a: true, trans_b: false, alpha: 1.0, accumulate: true }.into(),
    ];
    vec![
        Request::Hello { version: VERSION, max_bytes: u64::MAX, max_tensors: 5 },
        Request::Call(Call::Alloc { dtype: DType::Bf16, shape: vec![4, u32::MAX] }),
        Request::Call(Call::View { of: id, offset: u64::MAX, shape: vec![1] }),
        Request::Call(Call::Record { ops }),
        Request::Call(Call::Run { graph: 1 }),
        Request::Call(Call::Reset),
        Request::Upload { id, ints: true, offset: 3, words: u32::MAX },
        Request::Download { id, ints: false, offset: u64::MAX, words: 1 },
    ]
}

proptest! {
    /// Whatever bytes come, they are a request or an error; and whatever
    /// request comes, it has an answer.
    #[test]
    fn altered_messages_are_refused_or_answered(
        which in 0usize..8,
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        cut in any::<u16>(),
    ) {
        let bytes = altered(wire::frame(&some_requests()[which]).unwrap(), &changes, cut);
        if let Ok(request) = wire::receive::<Request>(&mut bytes.as_slice(), 1 << 20) {
            let mut served = served(Quota::default());
            alloc(&mut served, &[8, 8]);
            served.answer(request);
        }
    }

    #[test]
    fn noise_is_refused_or_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = rmp_serde::from_slice::<Request>(&bytes) {
            served(Quota::default()).answer(request);
        }
    }
}

#[test]
fn what_exceeds_a_quota_or_forges_a_handle_is_refused() {
    let quota =
        Quota { graphs: 1, graph_ops: 2, launch_fuel: 100_000, evaluation_fuel: 50_000, ..Quota::default() };
    let mut served = served(quota);
    let small = alloc(&mut served, &[8, 8]);
    let fill = |dst| Op::from(Fill { dst, value: 1.0 });
    let record = |served: &mut Served, ops| served.answer(Request::Call(Call::Record { ops }));
    let run = |served: &mut Served, graph| served.answer(Request::Call(Call::Run { graph }));

    assert_eq!(code(record(&mut served, vec![fill(small); 3])), Some(ErrorCode::Quota));
    let forged = TensorId::from_bits(small.to_bits() + 1);
    assert_eq!(code(record(&mut served, vec![fill(forged)])), Some(ErrorCode::BadHandle));
    let [a, b, out] = [(); 3].map(|()| alloc(&mut served, &[128, 128]));
    let long: Op = MatMul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false }.into();
    assert_eq!(code(record(&mut served, vec![long])), Some(ErrorCode::Quota));

    assert_eq!(record(&mut served, vec![fill(small)]), Answer::Done(1));
    assert_eq!(code(record(&mut served, vec![fill(small)])), Some(ErrorCode::Quota));
    assert_eq!(code(run(&mut served, 2)), Some(ErrorCode::BadHandle));
    let mut ran = 0;
    while code(run(&mut served, 1)).is_none() {
        ran += 1;
        assert!(ran < 1000, "the fuel of an evaluation has an end");
    }
    assert_eq!(code(run(&mut served, 1)), Some(ErrorCode::Quota));
    // A new evaluation has its own, and none of the old handles.
    assert_eq!(served.answer(Request::Call(Call::Reset)), Answer::Done(0));
    assert_eq!(code(run(&mut served, 1)), Some(ErrorCode::BadHandle));
    assert_eq!(code(served.answer(Request::Call(Call::Free { id: small }))), Some(ErrorCode::BadHandle));

    let id = alloc(&mut served, &[4]);
    for words in [5, SHARED_WORDS as u32 + 1, u32::MAX] {
        let upload = Request::Upload { id, ints: false, offset: 0, words };
        assert_eq!(code(served.answer(upload)), Some(ErrorCode::InvalidArgument));
    }
    let hello = Request::Hello { version: VERSION, max_bytes: 1, max_tensors: 1 };
    assert_eq!(code(served.answer(hello)), Some(ErrorCode::InvalidArgument));
}

/// A worker may drop a graph after the reset that took it: that is no failure of
/// its next call.
#[test]
fn a_graph_may_be_forgotten_after_a_reset() {
    let mut served = served(Quota { graphs: 1, ..Quota::default() });
    let mut record = || {
        let dst = alloc(&mut served, &[2]);
        let ops = vec![Fill { dst, value: 1.0 }.into()];
        let Answer::Done(graph) = served.answer(Request::Call(Call::Record { ops })) else {
            panic!("a graph is within its quota")
        };
        assert_eq!(code(served.answer(Request::Call(Call::Run { graph }))), None);
        assert_eq!(code(served.answer(Request::Call(Call::Reset))), None);
        assert_eq!(code(served.answer(Request::Call(Call::Forget { graph }))), None);
        assert_eq!(code(served.answer(Request::Call(Call::Run { graph }))), Some(ErrorCode::BadHandle));
        graph
    };
    assert_ne!(record(), record(), "a late word must not hit a newer graph");
}

#[test]
fn an_error_keeps_its_place_over_the_wire() {
    let error = Error::IndexRange { op: Some(7), detail: "3 indices".into() };
    let frame = wire::frame(&Answer::Failed(error.clone())).unwrap();
    assert_eq!(wire::receive::<Answer>(&mut frame.as_slice(), 1000).unwrap(), Answer::Failed(error));
}

#[test]
fn shared_memory_cannot_be_cut_and_unsealed_memory_is_refused() {
    let (_shared, file) = Shared::make().unwrap();
    assert!(rustix::fs::ftruncate(&file, 0).is_err());
    assert!(Shared::open(&file).is_ok());
    let open = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&open, 1 << 20).unwrap();
    assert!(Shared::open(&open).is_err());
}

#[test]
fn memory_that_the_other_side_writes_meanwhile_is_read_word_by_word() {
    let (ours, file) = Shared::make().unwrap();
    let theirs = Shared::open(&file).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                theirs.write(&[u32::MAX; 4096]);
                theirs.write(&[0; 4096]);
            }
        });
        let mut words = [7; 4096];
        let mut seen = [false; 2];
        for _ in 0..10_000 {
            ours.read(&mut words);
            assert!(words.iter().all(|word| [0, u32::MAX].contains(word)), "a torn word");
            // What was read is private: it stays as it was.
            let copy = words;
            std::thread::yield_now();
            assert_eq!(copy, words);
            seen[0] |= words.contains(&0);
            seen[1] |= words.contains(&u32::MAX);
            if seen == [true; 2] {
                break;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(seen, [true; 2], "the other side never wrote");
    });
}
