//! `terrarium verify`: is the record what it claims to be?

use super::args::Verify;
use super::failure::Failure;
use super::{Ended, exit, say, workshop};
use crate::evaluate::{Evaluate, Sandboxed};
use crate::run::RunFolder;
use crate::verify::{Which, verify as check};
use serde_json::json;

/// Repeats and compares.
pub fn verify(args: &Verify) -> Ended {
    let folder = RunFolder::open_to_read(&args.run)?;
    let which = match (&args.candidate, args.all) {
        (_, true) => Which::All,
        (None, false) => Which::Winner,
        (Some(id), false) => match folder.archive().find(id)? {
            Some(candidate) => Which::Candidate(candidate.id),
            None => {
                return Err(Failure::usage(
                    format!("the run has no candidate `{id}`"),
                    "`terrarium report` lists them; a unique beginning of an id is enough",
                ));
            }
        },
    };
    if let Some(data) = &folder.config().data {
        data.verify()?;
    }
    let sandbox = workshop::sandbox(args.isolation, 1)?;
    let evaluator =
        Sandboxed::new(&sandbox, folder.task(), folder.config().data.as_ref(), folder.probe_secret()?)?;
    folder.check_identity(&evaluator.identity())?;
    let found = check(&folder, &evaluator, &which, &mut |r| {
        let score = |s: Option<f64>| s.map_or("-".to_owned(), |s| format!("{s:.6}"));
        eprintln!(
            "  {} seed {} ({}): recorded {}, repeated {}: {:?}",
            r.candidate.short(),
            r.seed,
            r.split,
            score(r.recorded),
            score(r.repeated),
            r.agreement
        );
    })?;
    if args.json {
        say(json!({ "schema": "terrarium-verify/1", "sound": found.is_sound(), "found": found }));
    } else {
        say(format_args!(
            "{}: {} ledger events, {} sources, {} evaluations recorded, {} repeated",
            if found.is_sound() { "sound" } else { "NOT SOUND" },
            found.events,
            found.blobs,
            found.evaluations,
            found.repetitions.len()
        ));
        for fault in &found.faults {
            say(format_args!("  {fault}"));
        }
    }
    Ok(if found.is_sound() { exit::OK } else { exit::FAILED })
}
