//! `[search.models.NAME]`: a language model as a proposer.
//!
//! One call is one question. It is repeated, with growing pauses, while the
//! server is busy or the answer is broken, and ends at its deadline whatever
//! the server does. Before each request the most that it may cost is set
//! aside; a request that would not fit the budget is not sent.

pub mod prompt;
mod question;
mod wire;
mod words;

use super::agent::{Agent, Brief, Budget, Desk, Refusal, Reply};
use crate::candidate::Cost;
use crate::error::EngineError;
use crate::seeds::SplitMix64;
use crate::task::{ModelConfig, Prices};
use futures_util::StreamExt as _;
use question::Question;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wire::{Answer, Events};

/// First pause before a repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Longest pause that a server may ask for is the rest of the deadline; of
/// our own choice, this.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Largest answer, in bytes, beyond what its tokens can hold.
const SLACK_BYTES: usize = 1 << 20;
/// What a server adds to the text of a request, in tokens.
const OVERHEAD_TOKENS: u64 = 512;
/// Smallest prompt to which a server's small context makes us fall back, in
/// tokens (estimated).
const LEAST_TOKENS: usize = 256;
/// Longest message of a server that is shown.
const MAX_MESSAGE: usize = 300;

/// A model as a proposer.
pub struct Model {
    name: String,
    config: ModelConfig,
    client: reqwest::Client,
    key: Option<String>,
    /// Whether the server refused to be told the answer's structure.
    plain: AtomicBool,
    /// Longest prompt that it is sent, in tokens (estimated).
    prompt_tokens: AtomicUsize,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("model", &self.config.model)
            .finish_non_exhaustive()
    }
}

/// Why a request gave no answer.
enum Failure {
    /// It may go better next time, not before so long.
    Passing(String, Option<Duration>),
    /// The server does not take such a request: too long, or a way of asking
    /// for structure that it does not know.
    Refused(String),
    /// It will not.
    Lasting(String),
}

impl Failure {
    fn message(&self) -> &str {
        match self {
            Self::Passing(what, _) | Self::Refused(what) | Self::Lasting(what) => what,
        }
    }
}

fn trouble(message: String, hint: &str) -> EngineError {
    EngineError::Host { message, hint: hint.into() }
}

/// The thread that waits for servers.
pub(crate) fn runtime() -> Result<&'static Runtime, EngineError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        // Fails only where there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("network").enable_all().build().map_err(|e| e.to_string())
    });
    made.as_ref()
        .map_err(|e| trouble(format!("cannot start the network thread: {e}"), "check the limits on threads"))
}

impl Model {
    /// With the key that the configuration points to, read once.
    pub fn new(name: &str, config: &ModelConfig) -> Result<Self, EngineError> {
        runtime()?;
        let key = key(name, config)?;
        let client = reqwest::Client::builder()
            // A redirect would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .user_agent(concat!("terrarium/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| trouble(format!("model `{name}`: {e}"), "check the machine's certificates"))?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            client,
            key,
            plain: AtomicBool::new(false),
            prompt_tokens: AtomicUsize::new(config.max_prompt_tokens as usize),
        })
    }

    /// The most that a request with this body may cost: every byte a token.
    fn most(&self, body: &str) -> Cost {
        let input_tokens = body.len() as u64 + OVERHEAD_TOKENS;
        let output_tokens = u64::from(self.config.max_output_tokens);
        cost(input_tokens, output_tokens, &self.config.prices)
    }

    /// Words of a server, fit to be shown: short, clean, and without the key.
    fn shown(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        };
        text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
    }

    async fn request(&self, body: String) -> Result<Answer, Failure> {
        let url = format!("{}{}", self.config.url.trim_end_matches('/'), wire::path(self.config.api));
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        let messages = self.config.api == crate::task::ApiKind::Messages;
        if messages {
            request = request.header("anthropic-version", "2023-06-01");
        }
        if let Some(key) = &self.key {
            let (name, value) = match messages {
                true => (HeaderName::from_static("x-api-key"), key.clone()),
                false => (AUTHORIZATION, format!("Bearer {key}")),
            };
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Failure::Lasting("the key holds characters that a header cannot".into()))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let response = request.send().await.map_err(|e| Failure::Passing(self.shown(&chain(&e)), None))?;
        let status = response.status();
        if !status.is_success() {
            let pause = pause_asked(response.headers().get(RETRY_AFTER));
            let body = limited(response, 64 << 10).await.unwrap_or_default();
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let said = said["error"]["message"]
                .as_str()
                .map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
            let message = format!("HTTP {}: {}", status.as_u16(), self.shown(&said));
            return Err(match status.as_u16() {
                408 | 409 | 425 | 429 | 500..=599 => Failure::Passing(message, pause),
                400 | 413 | 422 => Failure::Refused(message),
                _ => Failure::Lasting(message),
            });
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let streams = kind.contains("event-stream");
        self.read(response, streams).await
    }

    async fn read(&self, response: reqwest::Response, streams: bool) -> Result<Answer, Failure> {
        let most = self.config.max_output_tokens as usize * 16 + SLACK_BYTES;
        let passing = |what: String| Failure::Passing(what, None);
        let mut answer = Answer::default();
        if streams {
            let (mut events, mut seen) = (Events::default(), 0);
            let mut body = response.bytes_stream();
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|e| passing(self.shown(&chain(&e))))?;
                seen += piece.len();
                // An event repeats names around each token: allow for it.
                if answer.text.len() > most || seen > 64 * most || events.waiting() > most {
                    return Err(Failure::Lasting("the answer is longer than was asked for".into()));
                }
                for data in events.take(&piece) {
                    answer.hear(self.config.api, &data).map_err(|e| passing(self.shown(&e)))?;
                }
                if answer.error.is_some() {
                    break;
                }
            }
        } else {
            let body = limited(response, most).await.map_err(passing)?;
            let whole =
                serde_json::from_slice(&body).map_err(|e| passing(format!("the answer is not JSON: {e}")))?;
            answer.hear_whole(self.config.api, &whole);
        }
        if let Some(error) = &answer.error {
            return Err(passing(self.shown(error)));
        }
        if !answer.complete {
            return Err(passing("the answer ended before it was complete".into()));
        }
        Ok(answer)
    }

    /// A request that ends at `end`, or when the run is to stop.
    fn send(
        &self,
        body: String,
        end: Instant,
        desk: &dyn Desk,
    ) -> Result<Result<Answer, Failure>, EngineError> {
        Ok(runtime()?.block_on(async {
            let mut look = tokio::time::interval(Duration::from_millis(50));
            let request = self.request(body);
            tokio::pin!(request);
            let deadline = tokio::time::sleep_until(end.into());
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    answer = &mut request => return answer,
                    () = &mut deadline => return Err(Failure::Lasting("no answer before the deadline".into())),
                    _ = look.tick() => if desk.stopped() {
                        return Err(Failure::Lasting("the run was stopped".into()));
                    }
                }
            }
        }))
    }
}

impl Model {
    /// After a refusal, another way of asking if there is one: half as long
    /// where the context is too small, else without the schema. It is kept
    /// for later questions.
    fn other_way(&self, failure: Failure, plain: bool, tokens: usize) -> Failure {
        let Failure::Refused(what) = failure else {
            return failure;
        };
        let lower = what.to_lowercase();
        let too_long =
            what.starts_with("HTTP 413") || lower.contains("context") || lower.contains("too long");
        if too_long && tokens / 2 >= LEAST_TOKENS {
            self.prompt_tokens.fetch_min(tokens / 2, Ordering::Relaxed);
        } else if !too_long && !plain {
            self.plain.store(true, Ordering::Relaxed);
        } else {
            return Failure::Refused(what);
        }
        Failure::Passing(what, Some(Duration::ZERO))
    }
}

impl Agent for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn budget(&self) -> Budget {
        let micros = self.config.money.map(|money| (money * 1e6) as u64);
        Budget { requests: self.config.requests, tokens: self.config.tokens, micros }
    }

    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        let end = Instant::now() + Duration::from_secs_f64(self.config.deadline_s);
        let mut reply = Reply { model: self.config.model.clone(), ..Reply::default() };
        let mut rng = SplitMix64::new(brief.seed);
        let mut refused = None;
        for attempt in 0..self.config.tries {
            let tokens = self.prompt_tokens.load(Ordering::Relaxed);
            let Some(question) = Question::new(brief, self.config.knobs_only, tokens, refused.as_deref())
            else {
                return Ok(Some(Reply::none("the parent has no knobs that could be moved")));
            };
            if reply.prompt.is_none() {
                reply.prompt = Some(desk.keep(&format!("{}\n\n{}", question.system, question.text))?);
            }
            let plain = self.plain.load(Ordering::Relaxed);
            let schema = (!plain).then_some(&question.schema);
            let body = wire::body(&self.config, &question.system, &question.text, schema).to_string();
            let most = self.most(&body);
            match desk.reserve(most) {
                Ok(()) => {}
                Err(Refusal::Budget(what)) => {
                    reply.problem = format!("the budget is used up: {what}");
                    break;
                }
                Err(Refusal::Archive(error)) => return Err(error),
            }
            let failure = match self.send(body, end, desk)? {
                Ok(answer) => {
                    // What the server does not say, it may have cost. Nothing
                    // is not what an answer costs: some say 0 for unknown.
                    let said = |tokens: Option<u64>, most| tokens.filter(|n| *n > 0).unwrap_or(most);
                    let input = said(answer.input_tokens, most.input_tokens);
                    let output = said(answer.output_tokens, most.output_tokens);
                    desk.settle(most, cost(input, output, &self.config.prices));
                    match question.draft(&answer, brief, self.config.max_output_tokens) {
                        Ok(draft) => {
                            reply.draft = Some(draft);
                            return Ok(Some(reply));
                        }
                        Err(what) => {
                            let what = self.shown(&what);
                            refused = Some(what.clone());
                            Failure::Passing(what, Some(Duration::ZERO))
                        }
                    }
                }
                Err(failure) => {
                    // An error status costs a request; a stream that breaks
                    // off may have cost all that was set aside.
                    if failure.message().starts_with("HTTP ") {
                        desk.settle(most, Cost { requests: 1, ..Cost::default() });
                    }
                    self.other_way(failure, plain, tokens)
                }
            };
            let pause = match failure {
                Failure::Lasting(what) | Failure::Refused(what) => {
                    reply.problem = what;
                    break;
                }
                Failure::Passing(what, asked) => {
                    reply.problem = what;
                    asked.unwrap_or_else(|| own_pause(attempt, &mut rng))
                }
            };
            if attempt + 1 == self.config.tries {
                break;
            }
            if Instant::now() + pause >= end {
                reply.problem = format!("no time left to ask again: {}", reply.problem);
                break;
            }
            if !super::agent::sleep_until(Instant::now() + pause, desk) {
                break;
            }
        }
        Ok(Some(reply))
    }
}

/// The key from the environment or a file.
fn key(name: &str, config: &ModelConfig) -> Result<Option<String>, EngineError> {
    let text = match (&config.key_env, &config.key_file) {
        (Some(variable), _) => std::env::var(variable).map_err(|_| {
            trouble(
                format!("model `{name}`: the environment variable {variable} holds no key"),
                "set it, or use key_file",
            )
        })?,
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| EngineError::io("read", path, e))?,
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.is_empty() || text.len() > 4096 || text.chars().any(char::is_control) {
        return Err(trouble(format!("model `{name}`: that is no key"), "a key is one line of text"));
    }
    Ok(Some(text.to_owned()))
}

fn cost(input_tokens: u64, output_tokens: u64, prices: &Prices) -> Cost {
    // A price per million tokens is a price in millionths per token.
    let micros = input_tokens as f64 * prices.input + output_tokens as f64 * prices.output;
    Cost { requests: 1, input_tokens, output_tokens, micros: micros.ceil() as u64 }
}

/// Twice as long each time, by chance half to one and a half of it.
fn own_pause(attempt: u32, rng: &mut SplitMix64) -> Duration {
    let base = FIRST_PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    base.mul_f64(0.5 + rng.unit())
}

/// What a server asks for in `Retry-After`, in seconds.
fn pause_asked(header: Option<&HeaderValue>) -> Option<Duration> {
    let seconds: f64 = header?.to_str().ok()?.trim().parse().ok()?;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

async fn limited(response: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|e| chain(&e))?);
        if bytes.len() > most {
            return Err("the answer is longer than was asked for".into());
        }
    }
    Ok(bytes)
}

/// An error and its causes in a line, without the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut text = match error {
        e if e.is_connect() => "cannot connect".to_owned(),
        e if e.is_timeout() => "timed out".to_owned(),
        e if e.is_body() || e.is_decode() => "the answer broke off".to_owned(),
        _ => "the request failed".to_owned(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
