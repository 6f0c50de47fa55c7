//! What the glass costs a training step, measured inside one training.
//!
//! A guest's step is everything that it asks of the device between the ends of
//! two replays: uploads, downloads, a batch, the replay of its graph. Asked by
//! [`RunOptions::native_peer`](crate::RunOptions::native_peer), the worker
//! notes these requests, and after each step of the guest it makes them once
//! more itself: the same graph with the same batch on the same device, from
//! Rust. The two take turns, so that whatever else the machine does meets both
//! alike, and each finds the caches as the other left them.
//!
//! The guest's time has everything in it that the native step has not: its own
//! instructions, the way through the component model and back, quotas, and the
//! notes that are taken here. The model sees each batch twice, so its score is
//! another one; what the guest is charged stays as it is.

use super::state::State;
use crate::StepTime;
use std::time::{Duration, Instant};
use terrarium_kernels::{Graph, TensorId};

/// Steps that are noted; more are run and not noted.
pub(crate) const MAX_STEPS: usize = 1 << 16;

/// One request of a step.
pub(super) enum Request {
    Floats { tensor: TensorId, offset: u64, values: Vec<f32> },
    Ints { tensor: TensorId, offset: u64, values: Vec<i32> },
    Read { tensor: TensorId, offset: u64, count: u32 },
    Batch { tokens: u64, targets: u64, first: u64 },
}

/// The requests of the step that the guest is in, and the times so far.
#[derive(Default)]
pub(super) struct NativePeer {
    requests: Vec<Request>,
    /// When the guest was given back the word after its last replay.
    since: Option<Instant>,
    /// The evaluation's time in kernels then.
    kernel_time: Duration,
    pub steps: Vec<StepTime>,
}

impl State {
    /// Notes a request of the training's current step, if anybody asked.
    pub(super) fn note(&mut self, request: impl FnOnce() -> Request) {
        if self.in_training()
            && let Some(peer) = &mut self.native_peer
            && peer.since.is_some()
        {
            peer.requests.push(request());
        }
    }

    /// The guest's step has ended with a replay of `graph`: drives it again.
    pub(super) fn step_beside(&mut self, graph: &Graph) {
        if !self.in_training() {
            return;
        }
        let Some(mut peer) = self.native_peer.take() else { return };
        // What came before the first replay is no step: graphs are recorded.
        if let Some(since) = peer.since {
            let guest = since.elapsed();
            let guest_kernel = self.kernel_time.saturating_sub(peer.kernel_time);
            let start = Instant::now();
            let done = self.drive(&peer.requests, graph);
            let native = start.elapsed();
            if let Ok(kernel) = done
                && peer.steps.len() < MAX_STEPS
            {
                peer.steps.push(StepTime {
                    guest_ns: nanos(guest),
                    guest_kernel_ns: nanos(guest_kernel),
                    native_ns: nanos(native),
                    native_kernel_ns: nanos(kernel),
                });
            }
        }
        peer.requests.clear();
        peer.kernel_time = self.kernel_time;
        peer.since = Some(Instant::now());
        self.native_peer = Some(peer);
    }

    /// The requests, then the graph; returns the time in its kernels.
    fn drive(&mut self, requests: &[Request], graph: &Graph) -> Result<Duration, terrarium_kernels::Error> {
        for request in requests {
            match request {
                Request::Floats { tensor, offset, values } => {
                    self.device.upload_f32(*tensor, *offset, values)?;
                }
                Request::Ints { tensor, offset, values } => {
                    self.device.upload_i32(*tensor, *offset, values)?;
                }
                Request::Read { tensor, offset, count } => {
                    let mut out = vec![0.0; *count as usize];
                    self.device.download_f32(*tensor, *offset, &mut out)?;
                }
                Request::Batch { tokens, targets, first } => {
                    if let Some(shards) = self.shards.clone() {
                        // It was drawn once without an error.
                        let _ = self.fill_batch(&shards.train, *tokens, *targets, *first);
                    }
                }
            }
        }
        let start = Instant::now();
        self.device.run(graph)?;
        Ok(start.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
