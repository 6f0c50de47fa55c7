//! The examples as a user starts them: real processes, good and hostile input.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The executable of an example, which `cargo test` has built beside this one.
fn example(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("this executable has a path");
    let path =
        me.parent().and_then(|deps| deps.parent()).expect("it lies in deps").join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built; `cargo build --release --workspace --examples` builds it",
        path.display()
    );
    path
}

fn run(name: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(example(name))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example starts");
    // One that ends early closes its input: that is for the test to see.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{name}: {said}");
    output
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).expect("UTF-8").lines().map(str::to_owned).collect()
}

fn json(output: &Output) -> Vec<serde_json::Value> {
    lines(output).iter().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn function(body: &str) -> String {
    format!(
        "use terrarium_sdk::{{Error, Function, Result, export_function, host_call}};
#[derive(Default)]
struct F {{ calls: u32 }}
impl Function for F {{
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {{ self.calls += 1; {body} }}
}}
export_function!(F);
"
    )
}

#[test]
fn embed_reverses_and_tells_of_a_bad_end() {
    assert_eq!(lines(&run("embed", &[], "")), ["muirarret"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.rs");
    std::fs::write(&file, function("loop { std::hint::black_box(&input); }")).expect("written");
    let output = run("embed", &[file.to_str().expect("UTF-8")], "");
    assert!(lines(&output)[0].starts_with("out-of-fuel"), "{output:?}");
}

#[test]
fn plugin_host_keeps_state_gives_its_functions_and_survives_its_plug_in() {
    let output = run("plugin_host", &[], "two words\n\u{1b}[2J\nand three more\n");
    assert_eq!(
        lines(&output),
        [
            "ok: 2 words; last: two words",
            "ok: 3 words; last: \\u{1b}[2J",
            "ok: 6 words; last: and three more"
        ]
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("plug-in: counted a line").count(), 3);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hostile.rs");
    let body = "match self.calls {
        1 => Err(Error::invalid(format!(\"{:?}\", host_call(\"files.read\", b\"/etc/passwd\")))),
        2 => Err(host_call(\"store.put\", b\"no value\").unwrap_err().into()),
        _ => loop { std::hint::black_box(&input); },
    }";
    std::fs::write(&file, function(body)).expect("written");
    let output = run("plugin_host", &[file.to_str().expect("UTF-8")], "a\nb\nc\nd\n");
    let lines = lines(&output);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains("NotRegistered"), "{lines:?}");
    assert_eq!(lines[1], "error: store.put takes KEY=VALUE");
    assert!(lines[2].starts_with("ended: out-of-fuel"), "{lines:?}");
}

#[test]
fn evaluator_scores_right_answers_alike_and_wrong_ones_not_at_all() {
    let sort = "let mut n: Vec<u32> = input.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        n.sort_unstable();
        Ok(n.iter().flat_map(|n| n.to_le_bytes()).collect())";
    let good = json(&run("evaluator", &[], &function(sort)));
    assert_eq!(good.len(), 1);
    let score = good[0]["score"].as_f64().expect("a score");
    assert!(score > 0.001 && score < 1.0, "{score}");
    assert_eq!(good[0]["outcome"]["code"], "finished");
    assert_eq!(json(&run("evaluator", &[], &function(sort)))[0]["score"].as_f64(), Some(score));
    for (body, code) in [
        ("Ok(input.to_vec())", "invalid-output"),
        ("panic!(\"\\u{1b}[31m\")", "trap"),
        ("loop { std::hint::black_box(&input); }", "out-of-fuel"),
        ("Ok(include_bytes!(\"/etc/passwd\").to_vec())", "compile-error"),
        ("Ok(vec![0; 2 << 20])", "output-too-large"),
    ] {
        let said = json(&run("evaluator", &[], &function(body)));
        assert_eq!(said.len(), 1, "{body}");
        assert_eq!(said[0]["outcome"]["code"], code, "{said:?}");
        assert!(said[0]["score"].is_null() && !said[0]["hint"].as_str().expect("text").is_empty());
    }
}

#[test]
fn function_tool_answers_each_line_whatever_it_says() {
    let request = |code: &str, input: &str| serde_json::json!({ "code": code, "input": input }).to_string();
    let input = [
        request("fn run(s: &str) -> String { s.to_uppercase() }", "hello"),
        "not json".to_owned(),
        request(
            "fn run(s: &str) -> String { std::fs::read_to_string(s).unwrap_or_default() }",
            "/etc/passwd",
        ),
        request("fn run(_: &str) -> String { loop {} }", ""),
        request("fn run(_: &str) -> u32 { 7 }", ""),
        request("fn run(_: &str) -> String { \"\\u{1b}[2Jx\".to_owned() }", ""),
        request("fn run(_: &str) -> String { String::new() }", &"x".repeat(200 << 10)),
        request("fn run(s: &str) -> String { s.chars().rev().collect() }", "olleh"),
    ]
    .join("\n");
    let answers = json(&run("function_tool", &[], &input));
    assert_eq!(answers.len(), 8, "{answers:?}");
    assert_eq!((&answers[0]["ok"], &answers[0]["output"]), (&true.into(), &"HELLO".into()));
    let refused = |n: usize, with: &str| {
        assert_eq!(answers[n]["ok"], false, "{:?}", answers[n]);
        let error = answers[n]["error"].as_str().expect("text");
        assert!(error.contains(with) && error.len() <= 4_000, "{error}");
    };
    refused(1, "expected");
    // There are no files in there.
    assert_eq!((&answers[2]["ok"], &answers[2]["output"]), (&true.into(), &"".into()));
    refused(3, "out-of-fuel");
    refused(4, "mismatched types");
    assert_eq!(answers[5]["output"], "\u{fffd}[2Jx");
    refused(6, "too long");
    assert_eq!(answers[7]["output"], "hello");
}
