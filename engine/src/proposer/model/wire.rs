//! The three protocols: what is sent, and what comes back piece by piece.

use crate::task::{ApiKind, ModelConfig};
use serde_json::{Value, json};

/// The path of the protocol, after the configured URL.
pub fn path(api: ApiKind) -> &'static str {
    match api {
        ApiKind::Chat => "/chat/completions",
        ApiKind::Responses => "/responses",
        ApiKind::Messages => "/messages",
    }
}

/// The body of a request for one answer of this structure; none where the
/// server is not to be told.
pub fn body(config: &ModelConfig, system: &str, prompt: &str, schema: Option<&Value>) -> Value {
    let mut body = match config.api {
        ApiKind::Chat => {
            // OpenAI's own models take no other name, others often only the old one.
            let limit = match config.url.starts_with("https://api.openai.com") {
                true => "max_completion_tokens",
                false => "max_tokens",
            };
            json!({
                "messages": [
                    { "role": "system", "content": system },
                    { "role": "user", "content": prompt },
                ],
                limit: config.max_output_tokens,
                "stream_options": { "include_usage": true },
            })
        }
        ApiKind::Responses => json!({
            "instructions": system,
            "input": [{ "role": "user", "content": prompt }],
            "max_output_tokens": config.max_output_tokens,
            "store": false,
        }),
        ApiKind::Messages => json!({
            "system": system,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": config.max_output_tokens,
        }),
    };
    if let Some(schema) = schema {
        structure(&mut body, config, schema);
    }
    body["model"] = config.model.clone().into();
    body["stream"] = true.into();
    if let Some(temperature) = config.temperature {
        body["temperature"] = temperature.into();
    }
    body
}

/// Says that the answer is to be of this structure, as the protocol does.
fn structure(body: &mut Value, config: &ModelConfig, schema: &Value) {
    let wrapped = json!({ "name": "change", "strict": true, "schema": schema });
    let format = json!({ "type": "json_schema", "json_schema": wrapped });
    match config.api {
        ApiKind::Chat => body["response_format"] = format,
        ApiKind::Responses => {
            body["text"] = json!({
                "format": { "type": "json_schema", "name": "change", "strict": true, "schema": schema }
            });
            // llama.cpp's server reads only Chat's field, here too; OpenAI's refuses it.
            if config.is_local() {
                body["response_format"] = format;
            }
        }
        ApiKind::Messages => {
            body["tools"] =
                json!([{ "name": "change", "description": "Make the change.", "input_schema": schema }]);
            body["tool_choice"] = json!({ "type": "tool", "name": "change" });
        }
    }
}

/// An answer as it comes in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text so far.
    pub text: String,
    /// Tokens read, once the server has said.
    pub input_tokens: Option<u64>,
    /// Tokens written, once the server has said.
    pub output_tokens: Option<u64>,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether it ended because it reached its longest length.
    pub cut_off: bool,
    /// The error that the server sent within the stream.
    pub error: Option<String>,
}

impl Answer {
    /// Takes in one event's data.
    pub fn hear(&mut self, api: ApiKind, data: &str) -> Result<(), String> {
        if data == "[DONE]" {
            self.complete = true;
            return Ok(());
        }
        let event: Value =
            serde_json::from_str(data).map_err(|e| format!("an event that is not JSON: {e}"))?;
        if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
            self.error = Some(error["message"].as_str().unwrap_or("unknown").to_owned());
            return Ok(());
        }
        match api {
            ApiKind::Chat => self.hear_chat(&event),
            ApiKind::Responses => self.hear_response(&event),
            ApiKind::Messages => self.hear_message(&event),
        }
        Ok(())
    }

    /// Takes in an answer that came as a whole: not every server streams.
    pub fn hear_whole(&mut self, api: ApiKind, body: &Value) {
        if let Some(error) = body.get("error").filter(|e| !e.is_null()) {
            self.error = Some(error["message"].as_str().unwrap_or("unknown").to_owned());
            return;
        }
        let parts = |list: &Value| list.as_array().cloned().unwrap_or_default();
        match api {
            ApiKind::Chat => {
                self.push(&body["choices"][0]["message"]["content"]);
                self.usage(&body["usage"], "prompt_tokens", "completion_tokens");
            }
            ApiKind::Responses => {
                for item in parts(&body["output"]) {
                    parts(&item["content"]).iter().for_each(|part| self.push(&part["text"]));
                }
                self.usage(&body["usage"], "input_tokens", "output_tokens");
            }
            ApiKind::Messages => {
                for part in parts(&body["content"]) {
                    match part["input"].is_object() {
                        true => self.text.push_str(&part["input"].to_string()),
                        false => self.push(&part["text"]),
                    }
                }
                self.usage(&body["usage"], "input_tokens", "output_tokens");
            }
        }
        self.complete = !self.text.is_empty();
        self.cut_off = body["choices"][0]["finish_reason"] == "length"
            || body["status"] == "incomplete"
            || body["stop_reason"] == "max_tokens";
    }

    fn push(&mut self, text: &Value) {
        self.text.push_str(text.as_str().unwrap_or_default());
    }

    fn usage(&mut self, usage: &Value, input: &str, output: &str) {
        // Messages counts what came out of or went into a cache by itself.
        let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"];
        let cached: u64 = cached.iter().filter_map(|name| usage[*name].as_u64()).fold(0, u64::saturating_add);
        self.input_tokens = usage[input].as_u64().map(|n| n.saturating_add(cached)).or(self.input_tokens);
        self.output_tokens = usage[output].as_u64().or(self.output_tokens);
    }

    fn hear_chat(&mut self, event: &Value) {
        let choice = &event["choices"][0];
        self.push(&choice["delta"]["content"]);
        self.complete |= choice["finish_reason"].is_string();
        self.cut_off |= choice["finish_reason"] == "length";
        self.usage(&event["usage"], "prompt_tokens", "completion_tokens");
    }

    fn hear_response(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" => self.push(&event["delta"]),
            "response.completed" | "response.incomplete" => {
                self.complete = true;
                self.cut_off = event["type"] == "response.incomplete";
                self.usage(&event["response"]["usage"], "input_tokens", "output_tokens");
            }
            "response.failed" => {
                let message = event["response"]["error"]["message"].as_str();
                self.error = Some(message.unwrap_or("the response failed").to_owned());
            }
            _ => {}
        }
    }

    fn hear_message(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.usage(&event["message"]["usage"], "input_tokens", "output_tokens"),
            "content_block_delta" => {
                self.push(&event["delta"]["partial_json"]);
                self.push(&event["delta"]["text"]);
            }
            "message_delta" => {
                self.cut_off |= event["delta"]["stop_reason"] == "max_tokens";
                self.usage(&event["usage"], "input_tokens", "output_tokens");
            }
            "message_stop" => self.complete = true,
            _ => {}
        }
    }
}

/// Server-sent events out of pieces that end anywhere.
#[derive(Debug, Default)]
pub struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// The data of the events that are complete with this piece.
    pub fn take(&mut self, piece: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(piece);
        let mut found = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            // Each of these servers sends its data in one line.
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                found.push(data.trim_start().to_owned());
            }
        }
        found
    }

    /// Bytes that wait for the end of their line.
    pub fn waiting(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let stream = b"event: x\ndata: {\"a\":1}\r\n\r\n: ping\ndata:[DONE]\n\ndata: \xf0\x9f\x8c\xb1\n";
        for size in 1..20 {
            let mut events = Events::default();
            let found: Vec<String> = stream.chunks(size).flat_map(|piece| events.take(piece)).collect();
            assert_eq!(found, ["{\"a\":1}", "[DONE]", "\u{1f331}"], "pieces of {size}");
        }
    }
}
