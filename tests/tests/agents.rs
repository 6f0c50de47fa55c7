//! Agents from outside: over MCP, as a command, and a program as evaluator.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};
use terrarium_tests::command::{Home, TinyTask};

const CANDIDATE: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Circle;
impl Function for Circle {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        // EVOLVE-BLOCK-START: radius
        let radius = 0.25f64;
        // EVOLVE-BLOCK-END
        Ok([0.5, 0.5, radius].iter().flat_map(|v: &f64| v.to_le_bytes()).collect())
    }
}
export_function!(Circle);
";

fn write_task(folder: &Path, rest: &str) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("candidate.rs"), CANDIDATE).unwrap();
    std::fs::write(folder.join("TASK.md"), "One circle in the unit square, as large as possible.\n").unwrap();
    let text = format!(
        "[task]\nname = \"circle\"\ntitle = \"One circle\"\nworld = \"function\"\n\
         metric = {{ name = \"radius\", direction = \"maximize\" }}\ncandidate = \"candidate.rs\"\n{rest}"
    );
    std::fs::write(folder.join("task.toml"), text).unwrap();
}

const BUILTIN: &str = "[evaluator]\nbuiltin = \"circles\"\nn = 1\n";
const SMALL: &str =
    "[search]\ngeneration_size = 1\ngenerations = 1\nnoise_seeds = 2\nrace_seeds = 3\nfinal_seeds = 2\n";

/// An MCP client of one server process.
struct Client {
    server: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Client {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = home.command(arguments);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (server.stdin.take(), BufReader::new(server.stdout.take().unwrap()));
        let mut client = Self { server, input, output, next: 0 };
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        let answer = client.request("initialize", hello);
        assert_eq!(answer["result"]["serverInfo"]["name"], "terrarium", "{answer}");
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        client
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the server went away during {method}");
            let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if answer["id"] == id {
                return answer;
            }
        }
    }

    /// Calls a tool: its structured answer, or the problem that it told.
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Value, String> {
        let answer = self.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        let result = &answer["result"];
        match result["isError"] == true {
            true => Err(result["content"][0]["text"].as_str().unwrap().to_owned()),
            false => Ok(result["structuredContent"].clone()),
        }
    }

    fn close(mut self) {
        self.input = None;
        assert!(self.server.wait().unwrap().success());
    }
}

#[test]
fn an_agent_improves_a_task_over_mcp() {
    let home = Home::new(&TinyTask::default());
    write_task(&home.path("circle"), BUILTIN);
    let mut client = Client::start(&home, &["mcp", "run", "--task", "./circle", "--submissions", "4"]);
    let tools = client.request("tools/list", json!({}));
    let tools = tools["result"]["tools"].as_array().unwrap().clone();
    assert_eq!(tools.len(), 7);
    assert!(!json!(tools).to_string().contains("uint64"), "integers are plain");

    let begun = std::time::Instant::now();
    let task = loop {
        let task = client.call("read_task", json!({})).unwrap();
        if !task["best"]["score"].is_null() || begun.elapsed().as_secs() > 120 {
            break task;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert_eq!(task["direction"], "maximize");
    assert!((task["best"]["score"].as_f64().unwrap() - 0.25).abs() < 1e-9, "{task:#}");
    assert!(task["source"].as_str().unwrap().contains("let radius = 0.25f64;"));
    assert!(task["guide"].as_str().unwrap().contains("as large as possible"));

    // What does not fit or compile is told before anything is recorded.
    let edit = |search: &str, replace: &str| json!({ "note": "n", "edits": [{ "search": search, "replace": replace }] });
    let outside = client.call("check_draft", edit("struct Circle", "struct Square")).unwrap_err();
    assert!(outside.contains("does not occur inside an evolve block"), "{outside}");
    let broken = client.call("check_draft", edit("0.25f64", "\"wide\"")).unwrap();
    assert_eq!(broken["compiles"], false);
    assert!(broken["diagnostics"].as_str().unwrap().contains("mismatched types"), "{broken:#}");
    assert_eq!(client.call("check_draft", edit("0.25f64", "0.4f64")).unwrap()["compiles"], true);

    let mut submit = |radius: &str| {
        let ticket = client.call("submit", edit("0.25f64", radius)).unwrap()["ticket"].clone();
        loop {
            let state = client.call("wait", json!({ "ticket": ticket, "seconds": 60 })).unwrap();
            if state["state"] != "waiting" && state["state"] != "evaluating" {
                return state;
            }
        }
    };
    let too_large = submit("0.6f64");
    assert_eq!((&too_large["state"], &too_large["ruling"]), (&json!("decided"), &json!("failed")));
    let smaller = submit("0.2f64");
    assert_eq!(smaller["ruling"], "dropped", "{smaller:#}");
    let better = submit("0.49f64");
    assert_eq!(better["ruling"], "kept", "{better:#}");
    assert!((better["score"].as_f64().unwrap() - 0.49).abs() < 1e-9);

    let id = better["candidate"].as_str().unwrap();
    let diff = client.call("diff", json!({ "candidate": &id[..8] })).unwrap();
    let text = diff["diff"].as_str().unwrap();
    assert!(
        text.contains("-        let radius = 0.25f64;") && text.contains("+        let radius = 0.49f64;")
    );
    let board = client.call("leaderboard", json!({ "limit": 2 })).unwrap();
    assert_eq!((board["candidates"].as_u64(), &board["rows"][0]["candidate"]), (Some(4), &json!(id)));
    assert_eq!(board["rows"][0]["best"], true);
    let read = client.call("read_candidate", json!({ "candidate": id })).unwrap();
    assert!(read["profile"].as_str().unwrap().contains("Instructions:"));
    for (tool, arguments) in [
        ("read_candidate", json!({ "candidate": "../../etc" })),
        ("wait", json!({ "ticket": "../../etc/passwd" })),
        ("leaderboard", json!({ "limit": "many" })),
        ("submit", json!({ "note": "nothing" })),
    ] {
        client.call(tool, arguments).expect_err(tool);
    }
    client.close();
    assert_eq!(home.json(0, &["verify", "run", "--json"])[0]["sound"], true);
}

#[test]
fn a_command_proposes_and_its_proposals_are_replayed() {
    let home = Home::new(&TinyTask::default());
    // It leaves a child behind that would hold the run for an hour.
    let script = "sed -i 's/0.25f64/0.45f64/' candidate.rs; test -s sdk/lib.rs; test -z \\\"$SECRET\\\"; \
                  echo wider > NOTE.txt; sleep 3600 &";
    let agent = format!("[search.commands.sed]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ndeadline_s = 30\n");
    write_task(&home.path("circle"), &format!("{BUILTIN}{SMALL}{agent}"));
    let mut command = home.command(&["run", "./circle", "--proposer", "sed", "--out", "one", "--json"]);
    let output = command.env("SECRET", "key").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "finished", "{}", String::from_utf8_lossy(&output.stderr));
    assert!((last["best"]["score"].as_f64().unwrap() - 0.45).abs() < 1e-9, "{last:#}");
    assert!(text.contains("\"note\":\"wider\""), "{text}");

    let lines = home.run(0, &["proposals", "one"]).stdout;
    std::fs::write(home.path("proposals.jsonl"), lines).unwrap();
    let head = |out: &str, workers: &str| {
        let replay = ["run", "./circle", "--replay", "proposals.jsonl", "--json"];
        let lines = home.json(0, &[&replay[..], &["--out", out, "--workers", workers]].concat());
        assert_eq!(lines.last().unwrap()["best"]["candidate"], last["best"]["candidate"]);
        lines.last().unwrap()["ledger"].clone()
    };
    assert_eq!(head("two", "1"), head("three", "4"));
}

#[test]
fn a_program_scores_what_candidates_return() {
    let home = Home::new(&TinyTask::default());
    let evaluator = "[evaluator]\nbuiltin = \"command\"\ncommand = [\"sh\", \"score.sh\"]\ndeadline_s = 10\n";
    write_task(&home.path("circle"), &format!("{evaluator}{SMALL}"));
    let script = r#"while read line; do case "$line" in *'"op":"input"'*) echo '{"input":[]}';; *'[0,0,0,0,0,0,224,63'*) echo '{"score":2.5}';; *) echo '{"reject":"odd"}';; esac; done
"#;
    std::fs::write(home.path("circle/score.sh"), script).unwrap();
    let line = home.json(0, &["eval", "./circle", "--json"]).remove(0);
    assert_eq!(line["score"], 2.5, "{line:#}");
    std::fs::write(home.path("other.rs"), CANDIDATE.replace("[0.5, 0.5", "[0.3, 0.5")).unwrap();
    let line = home.json(3, &["eval", "./circle", "--source", "other.rs", "--json"]).remove(0);
    assert_eq!(line["outcome"]["code"], "invalid-output", "{line:#}");
}
