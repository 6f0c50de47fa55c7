//! `terrarium compare` and `terrarium proposals`.

use super::args::{Compare, Proposals};
use super::{Ended, exit, say};
use crate::compare::{Verdict, compare as compared};
use crate::error::EngineError;
use crate::proposer::replay;
use crate::run::RunFolder;
use comfy_table::{Table, presets};
use serde_json::json;

/// Name and version of the object.
pub const SCHEMA: &str = "terrarium-compare/1";

/// Compares runs.
pub fn compare(args: &Compare) -> Ended {
    let folders: Vec<RunFolder> =
        args.runs.iter().map(|path| RunFolder::open_to_read(path)).collect::<Result<_, EngineError>>()?;
    let found = compared(&folders)?;
    if args.json {
        say(json!({ "schema": SCHEMA, "comparison": found }));
        return Ok(exit::OK);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let score = format!("final {}", found.metric);
    table.set_header(["method", "runs", &score, "sd", "gain over baseline", "fuel"]);
    for method in &found.methods {
        table.add_row([
            method.name.clone(),
            method.runs.to_string(),
            format!("{:.6}", method.mean),
            format!("{:.6}", method.sd),
            format!("{:+.6}", method.gain),
            format!("{:.3e}", method.fuel),
        ]);
    }
    say(table);
    for pairing in &found.pairings {
        let interval = pairing.gain.as_ref().map_or(String::new(), |gain| {
            format!(
                ": {:+.6} (95 % interval {:+.6} to {:+.6}, {} {})",
                gain.mean,
                gain.low,
                gain.high,
                gain.pairs,
                if pairing.paired { "pairs of runs" } else { "runs each, not paired" }
            )
        });
        let verdict = match pairing.verdict {
            Verdict::Better => "is better than",
            Verdict::Worse => "is worse than",
            Verdict::Undecided => "cannot be told from",
            Verdict::TooFew => "has too few runs to be compared with",
            Verdict::UnequalBudgets => "had another budget, so nothing follows about",
        };
        say(format_args!("{} {verdict} {}{interval}", pairing.method, pairing.against));
    }
    Ok(exit::OK)
}

/// Prints a run's proposals.
pub fn proposals(args: &Proposals) -> Ended {
    for one in replay::of_run(&RunFolder::open_to_read(&args.run)?)? {
        say(json!(one));
    }
    Ok(exit::OK)
}
