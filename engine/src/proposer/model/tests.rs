//! The three protocols against a peer that also drops, lies and dawdles.

use super::*;
use crate::ids::BlobId;
use crate::proposer::HistoryEntry;
use crate::proposer::mutate::tests::{SOURCE, entry, history};
use crate::task::{ApiKind, Task};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const ANSWER: &str =
    r#"{"note":"a bigger step","knobs":[],"edits":[{"search":"v * 0.7","replace":"v * 0.8"}],"blocks":[]}"#;

/// What the peer does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Good,
    Whole,
    BadChange,
    Malformed,
    Drop,
    Busy(&'static str),
    Broken,
    Forbidden,
    Slow(u64),
    Endless,
    /// Refuses a request that asks for structure.
    NoStructure,
    /// Refuses prompts of more than so many bytes.
    Small(usize),
    /// Answers, and says that it cost nothing.
    Free,
}

#[derive(Default)]
struct Seen {
    bodies: Vec<(String, HeaderMap, Value)>,
}

/// A peer on the loopback interface.
struct Peer {
    url: String,
    seen: Arc<Mutex<Seen>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// The answer in the pieces that the protocol has for it.
fn pieces(path: &str, text: &str) -> Vec<Bytes> {
    let (a, b) = text.split_at(text.len() / 2);
    match path {
        "/v1/chat/completions" => vec![
            event(&json!({ "choices": [{ "delta": { "role": "assistant", "content": a } }] })),
            event(&json!({ "choices": [{ "delta": { "content": b }, "finish_reason": "stop" }] })),
            event(&json!({ "choices": [], "usage": { "prompt_tokens": 900, "completion_tokens": 40 } })),
            "data: [DONE]\n\n".into(),
        ],
        "/v1/responses" => vec![
            event(&json!({ "type": "response.created" })),
            event(&json!({ "type": "response.output_text.delta", "delta": a })),
            event(&json!({ "type": "response.output_text.delta", "delta": b })),
            event(
                &json!({ "type": "response.completed", "response": { "usage": { "input_tokens": 900, "output_tokens": 40 } } }),
            ),
        ],
        "/v1/messages" => vec![
            event(
                &json!({ "type": "message_start", "message": { "usage": { "input_tokens": 900, "output_tokens": 1 } } }),
            ),
            event(
                &json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": a } }),
            ),
            event(
                &json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": b } }),
            ),
            event(&json!({ "type": "message_delta", "delta": {}, "usage": { "output_tokens": 40 } })),
            event(&json!({ "type": "message_stop" })),
        ],
        other => panic!("no such path: {other}"),
    }
}

fn refused(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, json!({ "error": { "message": message } }).to_string()).into_response()
}

async fn respond(act: Act, path: &str, body: &Value) -> Response {
    let streamed = |pieces: Vec<Result<Bytes, std::io::Error>>| {
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(Body::from_stream(stream::iter(pieces)))
            .unwrap()
    };
    let good = |text: &str| pieces(path, text).into_iter().map(Ok).collect::<Vec<_>>();
    match act {
        Act::Good => streamed(good(ANSWER)),
        Act::BadChange => streamed(good(r#"{"note":"","edits":[{"search":"nowhere","replace":""}]}"#)),
        Act::Malformed => streamed(vec![Ok("data: {\"choices\": [{\n\n".into())]),
        Act::Drop => {
            let mut some = good(ANSWER);
            some.truncate(1);
            some.push(Err(std::io::Error::other("the peer hangs up")));
            streamed(some)
        }
        Act::Busy(after) => {
            let body = json!({ "error": { "message": "slow down" } }).to_string();
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", after)], body).into_response()
        }
        Act::Broken => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        Act::Forbidden => {
            let body = json!({ "error": { "message": "wrong key sk-secret" } }).to_string();
            (StatusCode::UNAUTHORIZED, body).into_response()
        }
        Act::Slow(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            streamed(good(ANSWER))
        }
        Act::Endless => {
            let drip = stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Ok::<Bytes, std::io::Error>(": ping\n\n".into()), ()))
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(drip))
                .unwrap()
        }
        Act::NoStructure
            if ["response_format", "text", "tools"].iter().any(|name| body.get(name).is_some()) =>
        {
            refused("unknown field")
        }
        Act::Small(most) if body.to_string().len() > most => refused("the context size is exceeded"),
        Act::NoStructure | Act::Small(_) => streamed(good(ANSWER)),
        Act::Free => {
            let text = String::from_utf8(good(ANSWER).into_iter().flatten().flatten().collect()).unwrap();
            streamed(vec![Ok(text.replace("900", "0").replace(":40", ":0").into())])
        }
        Act::Whole => {
            let body = json!({ "choices": [{ "message": { "content": ANSWER } }], "usage": { "prompt_tokens": 900, "completion_tokens": 40 } });
            ([("content-type", "application/json")], body.to_string()).into_response()
        }
    }
}

fn peer(acts: Vec<Act>) -> Peer {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let shared = seen.clone();
    let handle = move |uri: Uri, headers: HeaderMap, body: String| {
        let (shared, acts) = (shared.clone(), acts.clone());
        async move {
            let act = {
                let mut seen = shared.lock().unwrap();
                let body: Value = serde_json::from_str(&body).unwrap();
                seen.bodies.push((uri.path().to_owned(), headers, body.clone()));
                // The last act goes on for ever.
                (acts[(seen.bodies.len() - 1).min(acts.len() - 1)], body)
            };
            respond(act.0, uri.path(), &act.1).await
        }
    };
    let server = runtime().unwrap().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, axum::Router::new().fallback(handle)).await.unwrap();
    });
    Peer { url, seen, server }
}

/// A desk with a budget, as the search has one.
#[derive(Default)]
struct Counter {
    budget: Budget,
    spent: Mutex<Cost>,
    most: Mutex<Cost>,
}

impl Desk for Counter {
    fn reserve(&self, most: Cost) -> Result<(), Refusal> {
        let mut spent = self.spent.lock().unwrap();
        if let Some(what) = self.budget.exceeded(&spent, &most) {
            return Err(Refusal::Budget(what));
        }
        *spent += most;
        let mut highest = self.most.lock().unwrap();
        if spent.tokens() > highest.tokens() {
            *highest = *spent;
        }
        Ok(())
    }

    fn settle(&self, most: Cost, actual: Cost) {
        let mut spent = self.spent.lock().unwrap();
        spent.requests -= most.requests;
        spent.input_tokens -= most.input_tokens;
        spent.output_tokens -= most.output_tokens;
        spent.micros -= most.micros;
        *spent += actual;
    }

    fn stopped(&self) -> bool {
        false
    }

    fn keep(&self, text: &str) -> Result<BlobId, EngineError> {
        Ok(BlobId::of(text.as_bytes()))
    }
}

fn config(api: ApiKind, url: &str) -> ModelConfig {
    toml::from_str(&format!(
        "api = \"{}\"\nurl = \"{url}\"\nmodel = \"tiny\"\nmax_output_tokens = 256\ndeadline_s = 3\n\
         prices = {{ input = 1.0, output = 4.0 }}",
        match api {
            ApiKind::Chat => "chat",
            ApiKind::Responses => "responses",
            ApiKind::Messages => "messages",
        }
    ))
    .unwrap()
}

fn ask(model: &Model, desk: &Counter, seed: u64) -> (Reply, Duration) {
    let task: Task = crate::fake::task(crate::fake::small_search());
    let entries: Vec<HistoryEntry> = vec![entry(SOURCE)];
    let brief = Brief {
        header: &task.header,
        guide: "Do well.",
        history: history(&entries),
        parent: &entries[0],
        relatives: &[],
        generation: 1,
        place: 0,
        seed,
    };
    let begun = Instant::now();
    let reply = model.ask(&brief, desk).unwrap().unwrap();
    (reply, begun.elapsed())
}

#[test]
fn each_protocol_gets_a_change_and_says_what_it_cost() {
    for api in [ApiKind::Chat, ApiKind::Responses, ApiKind::Messages] {
        let peer = peer(vec![Act::Good]);
        let model =
            Model { key: Some("sk-secret".into()), ..Model::new("m", &config(api, &peer.url)).unwrap() };
        let desk = Counter::default();
        let (reply, _) = ask(&model, &desk, 1);
        let draft = reply.draft.unwrap_or_else(|| panic!("{api:?}: {}", reply.problem));
        assert_eq!(draft.source.as_deref(), Some(&*SOURCE.replace("v * 0.7", "v * 0.8")));
        assert_eq!(draft.note, "a bigger step");
        let spent = *desk.spent.lock().unwrap();
        assert_eq!(spent, Cost { requests: 1, input_tokens: 900, output_tokens: 40, micros: 900 + 160 });
        let seen = peer.seen.lock().unwrap();
        let (_, headers, body) = &seen.bodies[0];
        let key = if api == ApiKind::Messages { &headers["x-api-key"] } else { &headers["authorization"] };
        assert!(key.to_str().unwrap().ends_with("sk-secret"));
        assert_eq!(body["stream"], true);
        assert!(!body.to_string().contains("sk-secret"));
        assert!(!format!("{model:?}").contains("sk-secret"));
    }
    let peer = peer(vec![Act::Whole]);
    let model = Model::new("m", &config(ApiKind::Chat, &peer.url)).unwrap();
    assert!(ask(&model, &Counter::default(), 1).0.draft.is_some(), "an answer that is not streamed");
}

#[test]
fn passing_trouble_is_met_with_patience_and_lasting_trouble_is_not() {
    for acts in [
        vec![Act::Malformed, Act::Good],
        vec![Act::Drop, Act::Good],
        vec![Act::Broken, Act::BadChange, Act::Good],
        vec![Act::Busy("1"), Act::Good],
    ] {
        let (peer, count) = (peer(acts.clone()), acts.len());
        let model = Model::new("m", &config(ApiKind::Chat, &peer.url)).unwrap();
        let (reply, took) = ask(&model, &Counter::default(), 3);
        assert!(reply.draft.is_some(), "{acts:?}: {}", reply.problem);
        assert_eq!(peer.seen.lock().unwrap().bodies.len(), count);
        if let Act::Busy(_) = acts[0] {
            assert!(took >= Duration::from_secs(1), "Retry-After was not kept: {took:?}");
        }
    }
    let peer = peer(vec![Act::Forbidden]);
    let model = Model {
        key: Some("sk-secret".into()),
        ..Model::new("m", &config(ApiKind::Chat, &peer.url)).unwrap()
    };
    let (reply, _) = ask(&model, &Counter::default(), 3);
    assert_eq!(reply.problem, "HTTP 401: wrong key [key]");
    assert_eq!(peer.seen.lock().unwrap().bodies.len(), 1);
}

#[test]
fn no_peer_holds_a_call_beyond_its_deadline() {
    for act in [Act::Slow(60_000), Act::Endless, Act::Busy("3600"), Act::Malformed, Act::Drop] {
        let peer = peer(vec![act]);
        let mut config = config(ApiKind::Chat, &peer.url);
        config.deadline_s = 0.4;
        config.tries = 16;
        let (reply, took) = ask(&Model::new("m", &config).unwrap(), &Counter::default(), 5);
        assert_eq!(reply.draft, None, "{act:?}");
        assert!(!reply.problem.is_empty());
        assert!(took < Duration::from_millis(1400), "{act:?} held it for {took:?}");
    }
    // Nobody listens there.
    let mut config = config(ApiKind::Chat, "http://127.0.0.1:1/v1");
    config.deadline_s = 0.3;
    let (reply, _) = ask(&Model::new("m", &config).unwrap(), &Counter::default(), 5);
    assert!(reply.problem.contains("connect"), "{}", reply.problem);
}

#[test]
fn no_budget_is_exceeded_whatever_the_peer_does() {
    let chaos =
        [Act::Drop, Act::Good, Act::Malformed, Act::Busy("0"), Act::BadChange, Act::Broken, Act::Good];
    for (requests, tokens, money) in
        [(Some(5), None, None), (None, Some(30_000), None), (None, None, Some(0.02))]
    {
        let peer = peer(chaos.repeat(6));
        let mut config = config(ApiKind::Responses, &peer.url);
        (config.requests, config.tokens, config.money) = (requests, tokens, money);
        config.deadline_s = 1.5;
        let model = Model::new("m", &config).unwrap();
        let desk = Counter { budget: model.budget(), ..Counter::default() };
        let mut refused = false;
        for seed in 0..12 {
            refused |= ask(&model, &desk, seed).0.problem.starts_with("the budget is used up");
            if refused {
                break;
            }
        }
        let (sent, most) = (peer.seen.lock().unwrap().bodies.len() as u64, *desk.most.lock().unwrap());
        assert!(refused, "{requests:?} {tokens:?} {money:?}: {most:?} after {sent} requests");
        assert!(sent >= 2 && requests.is_none_or(|limit| sent <= limit), "{sent}");
        assert!(tokens.is_none_or(|limit| most.tokens() <= limit), "{most:?}");
        assert!(money.is_none_or(|limit| most.micros as f64 <= limit * 1e6), "{most:?}");
    }
}

#[test]
fn pauses_grow_and_follow_from_the_seed() {
    let pauses = |seed| {
        let mut rng = SplitMix64::new(seed);
        (0..4).map(|attempt| own_pause(attempt, &mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(pauses(1), pauses(1));
    assert_ne!(pauses(1), pauses(2));
    assert!(pauses(1)[3] > pauses(1)[0] * 2);
}

#[test]
fn a_server_that_knows_no_structure_or_has_little_room_is_asked_another_way_from_then_on() {
    for api in [ApiKind::Chat, ApiKind::Responses, ApiKind::Messages] {
        let peer = peer(vec![Act::NoStructure]);
        let model = Model::new("m", &config(api, &peer.url)).unwrap();
        for requests in [2, 3] {
            let (reply, _) = ask(&model, &Counter::default(), 1);
            assert!(reply.draft.is_some(), "{api:?}: {}", reply.problem);
            assert_eq!(peer.seen.lock().unwrap().bodies.len(), requests, "{api:?}");
        }
    }
    let peer = peer(vec![Act::Small(5000)]);
    let mut config = config(ApiKind::Chat, &peer.url);
    config.max_prompt_tokens = 2000;
    let model = Model::new("m", &config).unwrap();
    let mut lengths = Vec::new();
    for seed in 0..2 {
        let (reply, _) = ask(&model, &Counter::default(), seed);
        assert!(reply.draft.is_some() || lengths.is_empty(), "{}", reply.problem);
        lengths = peer.seen.lock().unwrap().bodies.iter().map(|(.., b)| b.to_string().len()).collect();
    }
    assert!(*lengths.last().unwrap() <= 5000, "{lengths:?}");
}

#[test]
fn an_answer_that_is_said_to_be_free_counts_as_the_most_that_it_may_have_cost() {
    for api in [ApiKind::Chat, ApiKind::Responses, ApiKind::Messages] {
        let peer = peer(vec![Act::Free]);
        let desk = Counter::default();
        let (reply, _) = ask(&Model::new("m", &config(api, &peer.url)).unwrap(), &desk, 1);
        assert!(reply.draft.is_some(), "{api:?}: {}", reply.problem);
        let spent = *desk.spent.lock().unwrap();
        assert!(spent.input_tokens > 500 && spent.output_tokens == 256, "{api:?}: {spent:?}");
    }
}
