//! `[search.models]` and `[search.commands]`: who may be asked, and for how
//! much. Keys are never here: only where they are found.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which protocol a model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiKind {
    /// OpenAI's Chat Completions, which most servers offer.
    Chat,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
}

/// Prices, in a currency of the user's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Of a million tokens read.
    pub input: f64,
    /// Of a million tokens written.
    pub output: f64,
}

/// `[search.models.NAME]`: a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The protocol.
    pub api: ApiKind,
    /// Where it is served, up to and without the protocol's own path, such as
    /// `https://api.openai.com/v1` or `http://127.0.0.1:8080/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Environment variable that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// File that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Longest answer, in tokens.
    #[serde(default = "default_output")]
    pub max_output_tokens: u32,
    /// Longest prompt, in tokens (estimated at three bytes each).
    #[serde(default = "default_prompt")]
    pub max_prompt_tokens: u32,
    /// Longest time for one call, repetitions included, in seconds.
    #[serde(default = "default_deadline")]
    pub deadline_s: f64,
    /// Requests for one call at most: the first and its repetitions.
    #[serde(default = "default_tries")]
    pub tries: u32,
    /// Sampling temperature; the server's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Ask for knob values only: weak models write poor code.
    #[serde(default)]
    pub knobs_only: bool,
    /// Requests in a run at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Tokens in a run at most, read and written together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money in a run at most. Needs prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// What tokens cost.
    #[serde(default)]
    pub prices: Prices,
}

fn default_output() -> u32 {
    4096
}

fn default_prompt() -> u32 {
    24_000
}

fn default_deadline() -> f64 {
    180.0
}

fn default_tries() -> u32 {
    4
}

fn positive(value: f64, most: f64) -> bool {
    value > 0.0 && value <= most
}

impl ModelConfig {
    /// Whether it is served on this machine.
    pub fn is_local(&self) -> bool {
        let after = ["http://127.0.0.1", "http://localhost", "http://[::1]"]
            .into_iter()
            .find_map(|local| self.url.strip_prefix(local));
        after.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<String> {
        let price = |p: f64| (0.0..=1e9).contains(&p);
        if !self.url.starts_with("https://") && !self.is_local() {
            return Some(format!("url `{}` is neither https nor on this machine", self.url));
        }
        if self.model.is_empty() || self.model.len() > 200 {
            return Some("it needs the name of a model".into());
        }
        if self.key_env.is_some() && self.key_file.is_some() {
            return Some("give key_env or key_file, not both".into());
        }
        if !positive(self.deadline_s, 86_400.0) {
            return Some(format!("deadline_s = {} is out of range: above 0 to 86400", self.deadline_s));
        }
        if !(1..=16).contains(&self.tries) {
            return Some(format!("tries = {} is out of range: 1..=16", self.tries));
        }
        let (output, prompt) = (16..=1 << 20, 256..=1 << 22);
        if !output.contains(&self.max_output_tokens) || !prompt.contains(&self.max_prompt_tokens) {
            return Some("max_output_tokens must be 16 to 1048576, max_prompt_tokens 256 to 4194304".into());
        }
        if !price(self.prices.input) || !price(self.prices.output) {
            return Some("prices must be 0 to 1e9".into());
        }
        if let Some(money) = self.money {
            if !positive(money, 1e9) {
                return Some(format!("money = {money} is out of range: above 0 to 1e9"));
            }
            if self.prices.input == 0.0 && self.prices.output == 0.0 {
                return Some("a limit on money needs prices = { input = …, output = … }".into());
            }
        }
        self.temperature
            .filter(|t| !(0.0..=10.0).contains(t))
            .map(|t| format!("temperature = {t} is out of range: 0 to 10"))
    }
}

/// `[search.commands.NAME]`: a command-line agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// A known agent's headless mode; see `docs/proposers.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Program and arguments, instead of a preset. `{prompt}` stands for the
    /// text of PROMPT.md, `{file}` for the name of the file to change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Longest time for one proposal, in seconds.
    #[serde(default = "default_agent_deadline")]
    pub deadline_s: f64,
    /// Environment variables that are handed on, beside `PATH`, `HOME`,
    /// `LANG` and `TERM`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Calls in a run at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

fn default_agent_deadline() -> f64 {
    600.0
}

impl CommandConfig {
    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<String> {
        let known = crate::proposer::command::PRESETS.map(|(name, _)| name);
        match &self.preset {
            Some(name) if !known.contains(&name.as_str()) => {
                return Some(format!("there is no preset `{name}`; there are {}", known.join(", ")));
            }
            None if self.command.is_empty() => return Some("it needs a preset or a command".into()),
            Some(_) if !self.command.is_empty() => return Some("give preset or command, not both".into()),
            _ => {}
        }
        (!positive(self.deadline_s, 86_400.0))
            .then(|| format!("deadline_s = {} is out of range: above 0 to 86400", self.deadline_s))
    }
}
