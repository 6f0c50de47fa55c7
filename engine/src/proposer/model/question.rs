//! What a model is asked, and what its answer is taken for.

use super::prompt::{self, BYTES_PER_TOKEN, KnobQuestion};
use super::wire::Answer;
use super::words;
use crate::evolve_block;
use crate::proposer::agent::{Brief, Draft};
use crate::proposer::change::{self, Change};
use crate::proposer::moves::Move;
use serde_json::Value;

/// One question.
pub struct Question<'a> {
    /// Who the model is.
    pub system: String,
    /// The prompt.
    pub text: String,
    /// What the answer has to look like.
    pub schema: Value,
    /// What a model that only sets knobs may choose from.
    moves: Option<Vec<Move<'a>>>,
}

impl<'a> Question<'a> {
    /// Of at most `tokens` (estimated), and what was wrong with the answer
    /// before. None if there is nothing that could be changed.
    pub fn new(brief: &Brief<'a>, knobs_only: bool, tokens: usize, refused: Option<&str>) -> Option<Self> {
        let system = prompt::system(knobs_only);
        let again = refused.map_or_else(String::new, |problem| {
            format!("Your last answer could not be used: {problem}. Make another.\n")
        });
        let tokens = tokens.saturating_sub((system.len() + again.len()).div_ceil(BYTES_PER_TOKEN));
        if knobs_only {
            let KnobQuestion { text, moves } = prompt::knob_question(brief, tokens);
            let schema = change::moves_schema(&moves);
            let question = Self { system, text: text + &again, schema, moves: Some(moves) };
            return question.moves.as_ref().is_some_and(|m| !m.is_empty()).then_some(question);
        }
        let text = prompt::prompt(brief, tokens) + &again;
        let blocks = evolve_block::parse(&brief.parent.source).unwrap_or_default();
        let names = (1..).zip(blocks).map(|(number, block)| block.name.unwrap_or_else(|| number.to_string()));
        let schema = change::schema(brief.history.knob_space, &names.collect::<Vec<String>>());
        Some(Self { system, text, schema, moves: None })
    }

    /// The change in an answer, applied to the parent.
    pub fn draft(&self, answer: &Answer, brief: &Brief<'_>, most_tokens: u32) -> Result<Draft, String> {
        let space = brief.history.knob_space;
        let read = Change::read(&answer.text, space).and_then(|change| change.draft(brief.parent, space));
        let read = read.or_else(|problem| {
            let said = self.moves.as_ref().and_then(|moves| words::change(&answer.text, moves));
            said.ok_or(problem)?.draft(brief.parent, space)
        });
        read.map_err(|problem| match answer.cut_off {
            true => format!("the answer was cut off at max_output_tokens = {most_tokens}: {problem}"),
            false => problem,
        })
    }
}
