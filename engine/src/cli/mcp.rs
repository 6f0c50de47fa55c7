//! `terrarium mcp RUN`.

use super::args::Mcp;
use super::failure::Failure;
use super::{Ended, agents, exit, run, workshop};
use crate::error::EngineError;
use crate::evaluate::{Evaluate as _, Sandboxed};
use crate::mcp::{self, Desk};
use crate::observer::Unobserved;
use crate::proposer::Mutate;
use crate::proposer::agent::Agent;
use crate::run::{NewRun, RunFolder};
use crate::search::Search;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use terrarium_sandbox::Sandbox;

/// Serves a run to an agent. If no other process works on it, this one does.
pub fn mcp(args: &Mcp) -> Ended {
    let sandbox = Arc::new(workshop::sandbox(args.isolation, args.workers.clamp(1, 1024))?);
    if let Some(task) = &args.task
        && !args.run.join("run.toml").exists()
    {
        create(args, task, &sandbox)?;
    }
    let desk = Arc::new(Desk::new(&args.run, Some(sandbox.clone())));
    let runtime = crate::proposer::model::runtime()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let engine = match RunFolder::open(&args.run) {
            Ok(folder) => Some(scope.spawn(|| go_on(folder, &sandbox, args.workers, &stop))),
            // Another process is at it: it takes what is submitted here.
            Err(EngineError::Locked { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let served = match args.http {
            None => runtime.block_on(mcp::serve_stdio(desk)),
            Some(port) => runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
                let listener = listener.map_err(|e| format!("cannot listen on port {port}: {e}"))?;
                let address = listener.local_addr().map_err(|e| e.to_string())?;
                eprintln!("serving http://{address}/mcp");
                mcp::serve_http(desk, listener, async {
                    let _ = tokio::signal::ctrl_c().await;
                })
                .await
            }),
        };
        stop.store(true, Ordering::SeqCst);
        if let Some(engine) = engine {
            match engine.join() {
                Ok(ended) => ended?,
                Err(_) => return Err(Failure::new("the engine panicked", "`terrarium resume` goes on")),
            }
        }
        served.map_err(|what| Failure::new(what, "is the other side an MCP client?"))?;
        Ok(exit::OK)
    })
}

/// A run that only takes submissions: one is judged at a time.
fn create(args: &Mcp, task: &str, sandbox: &Sandbox) -> Result<(), Failure> {
    let mut loaded = workshop::load(task, None)?;
    let search = &mut loaded.task.search;
    search.proposers = [("person".to_owned(), 1.0)].into();
    (search.generation_size, search.generations) = (1, args.submissions);
    let corpus = workshop::data(&loaded.task, None)?;
    let data = workshop::snapshot(corpus.as_ref())?;
    let identity = sandbox.identity()?;
    let new =
        NewRun { task: &loaded.task, source: &loaded.source, seed: args.seed, identity: &identity, data };
    let folder = RunFolder::create(&args.run, &new)?;
    Ok(folder.write_guide(loaded.guide.as_deref().unwrap_or_default())?)
}

fn go_on(folder: RunFolder, sandbox: &Sandbox, workers: usize, stop: &AtomicBool) -> Result<(), Failure> {
    if let Some(data) = &folder.config().data {
        data.verify()?;
    }
    let data = folder.config().data.as_ref();
    let evaluator = Sandboxed::new(sandbox, folder.task(), data, folder.probe_secret()?)?;
    folder.check_identity(&evaluator.identity())?;
    let mutate = Mutate::default();
    let own = agents::of_run(&folder)?;
    let asked: Vec<&dyn Agent> = own.iter().map(|agent| &**agent).collect();
    let guide = folder.guide();
    let search = Search {
        folder: &folder,
        evaluator: &evaluator,
        proposers: &agents::pure(&mutate),
        agents: &asked,
        guide: &guide,
        strategy: None,
        admit: &run::admit,
        observer: &Unobserved,
        workers,
        stop,
        wall: None,
    };
    search.run()?;
    Ok(())
}
