//! Who proposes in a run, besides those that need nothing.

use crate::EngineError;
use crate::proposer::agent::Agent;
use crate::proposer::{CommandAgent, Crossover, KnobSearch, Model, Mutate, Person, Proposer, Replay};
use crate::run::RunFolder;
use crate::task::SearchConfig;

/// Names that `[search.proposers]` and `--proposer` may use.
pub fn known(search: &SearchConfig) -> Vec<String> {
    let own = [KnobSearch.name(), Mutate::default().name(), Crossover.name(), "person", "replay"];
    let own = own.into_iter().map(str::to_owned);
    own.chain(search.models.keys().cloned()).chain(search.commands.keys().cloned()).collect()
}

/// The agents of a run. Keys are read here, and kept nowhere else.
pub fn of_run(folder: &RunFolder) -> Result<Vec<Box<dyn Agent>>, EngineError> {
    let search = &folder.task().search;
    let weight = |name: &str| search.proposers.get(name).copied().unwrap_or(0.0);
    let wanted = |name: &str| search.proposers.is_empty() || weight(name) > 0.0;
    let mut agents: Vec<Box<dyn Agent>> = Vec::new();
    if let Some(blob) = &search.replay {
        agents.push(Box::new(Replay::parse(&folder.blobs().text(blob)?, "the replayed file")?));
    }
    // Somebody who may come at any time is waited for, so only when asked for.
    if weight("person") > 0.0 {
        agents.push(Box::new(Person::new(folder.path())?));
    }
    for (name, config) in search.models.iter().filter(|(name, _)| wanted(name)) {
        agents.push(Box::new(Model::new(name, config)?));
    }
    for (name, config) in search.commands.iter().filter(|(name, _)| wanted(name)) {
        agents.push(Box::new(CommandAgent::new(name, config)));
    }
    Ok(agents)
}

/// The proposers of a run that can be asked again and again. Some are left
/// out where they have no weight, so that a name that is not known is told.
pub fn pure(mutate: &Mutate) -> [&dyn Proposer; 3] {
    [&KnobSearch, mutate, &Crossover]
}
