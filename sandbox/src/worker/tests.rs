//! What a worker that was taken over may send: its parent must read it as a
//! reply or refuse it, whatever it is, and must not be hurt. And from whom a
//! worker takes work.

use std::borrow::Cow;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::{Called, Hello, Reply, greeting};
use crate::codegen::Artifact;
use crate::evaluation::{KnobRange, KnobScale, Metric, Product};
use crate::machine::Metering;
use crate::wire::{self, tests::altered};
use crate::{Limits, Outcome, Phase, Report, Usage, World, machine};

/// More than any of the messages here.
const LIMIT: usize = 1 << 20;

fn report(outcome: Outcome) -> Report {
    let knob = KnobRange::Number { default: 0.1, low: 0.0, high: 1.0, scale: KnobScale::Linear };
    Report {
        product: Some(Product::Outputs(vec![b"out".to_vec()])),
        knobs: vec![("rate".into(), knob)],
        metrics: vec![Metric { name: "loss".into(), step: 1, value: f64::NAN }],
        log: "said\n".into(),
        ..Report::ended(outcome)
    }
}

fn replies() -> Vec<Reply> {
    let trap = Outcome::Trap {
        phase: Phase::Call,
        trap: "unreachable".into(),
        backtrace: vec!["f".into(), "g".into()],
    };
    let called = |result| Reply::Called(Box::new(Called { result, fuel: Some(7), usage: Usage::default() }));
    vec![
        Reply::Ready,
        Reply::Entered(Phase::Train),
        Reply::Log("line".into()),
        Reply::HostCall { name: "f".into(), input: b"in".to_vec() },
        Reply::Done(Box::new(report(Outcome::Finished))),
        Reply::Done(Box::new(report(trap.clone()))),
        called(Ok(serde_bytes::ByteBuf::from(b"out".to_vec()))),
        called(Err(trap)),
    ]
}

/// As the parent treats a reply.
fn read(mut bytes: &[u8]) {
    let limits = Limits { output_bytes: 2, metrics: 1, log_bytes: 3, ..Limits::default() };
    match wire::receive::<Reply>(&mut bytes, LIMIT) {
        Ok(Reply::Done(mut report)) => {
            report.distrust(&limits);
            assert!(report.log.len() as u64 <= limits.log_bytes);
            assert!(report.metrics.len() as u64 <= limits.metrics);
        }
        Ok(Reply::Called(mut called)) => {
            called.distrust(&limits);
            assert!(called.result.is_err() || called.result.is_ok_and(|out| out.len() <= 2));
        }
        Ok(_) | Err(_) => {}
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes(), body].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_altered_reply_is_read_or_refused(
        which in 0usize..8,
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        cut in any::<u16>(),
    ) {
        read(&altered(wire::frame(&replies()[which]).unwrap(), &changes, cut));
    }

    #[test]
    fn noise_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&framed(&body));
    }
}

#[test]
fn a_reply_that_nests_deeply_is_refused() {
    // One list in another, alone and where the fields of a tagged outcome are,
    // which are read into a tree first; on a stack as small as any thread's of
    // an embedder.
    let deep = vec![0x91; 200_000];
    let done = [&[0x81, 0xa4][..], b"Done", &[0x97, 0x92, 0xa4], b"trap", &deep].concat();
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for body in [deep, done] {
                assert!(wire::receive::<Reply>(&mut framed(&body).as_slice(), LIMIT).is_err());
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn replies_come_back_as_they_were_sent() {
    for reply in replies() {
        let sent = wire::frame(&reply).unwrap();
        let read: Reply = wire::receive(&mut sent.as_slice(), LIMIT).unwrap();
        assert_eq!(wire::frame(&read).unwrap(), sent);
    }
}

#[test]
fn a_parent_of_another_build_is_refused() {
    let artifact = Artifact {
        world: World::Function,
        fuel_traps: vec![],
        depth_traps: vec![],
        metering: Metering::Module,
        wasi: false,
        starts: false,
        wasm_bytes: 0,
        memory_bytes: 0,
        table_elements: 0,
        code: vec![],
    };
    let answer = |build: &str| {
        let hello = Hello {
            build: build.into(),
            artifact: Cow::Borrowed(&artifact),
            shards: None,
            device: "cpu".into(),
            threads: 1,
            memory_bytes: 0,
            table_elements: 0,
            device_bytes: 0,
            tensors: 0,
        };
        let (mut parent, mut worker) = UnixStream::pair().unwrap();
        wire::send(&mut parent, &hello).unwrap();
        greeting(&mut worker).map(|hello| hello.device)
    };
    assert_eq!(answer(machine::build()), Ok("cpu".into()));
    let refused = answer("another").unwrap_err();
    assert!(refused.contains("of another build") && refused.contains("(another)"), "{refused}");
}
