"""Runs against a peer that drops, garbles, hangs up, refuses and dawdles (npm
@copilotkit/aimock), over all three protocols: no call may last longer than its
deadline, and no budget may be exceeded.

Usage: python3 tests/peers/chaos.py    (installs aimock into target/peers once)
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NPM = ROOT / "target/peers/npm"
AIMOCK = NPM / "node_modules/.bin/llmock"
TERRARIUM = ROOT / "target/release/terrarium"
DEADLINE, REQUESTS, TOKENS = 3.0, 40, 60_000
CHAOS = {
    "none": [],
    "drop": ["--chaos-drop", "0.5"],
    "malformed": ["--chaos-malformed", "0.5"],
    "disconnect": ["--chaos-disconnect", "0.5"],
    "ratelimit": ["--chaos-ratelimit", "0.5"],
    "latency": ["--chaos-latency", "2000"],
    "stall": ["--latency", "5000"],
    "all": [
        *("--chaos-drop", "0.2", "--chaos-malformed", "0.2", "--chaos-disconnect", "0.2"),
        *("--chaos-ratelimit", "0.2", "--chaos-latency", "100"),
    ],
}
# A source whose score depends on its one knob, and a run in which the models are waited for.
CANDIDATE = """use terrarium_sdk::{Function, Result, export_function, knobs};
#[derive(Default)]
struct Circle;
impl Function for Circle {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        // EVOLVE-BLOCK-START: radius
        let radius = knobs::number("radius", 0.1, 0.01, 0.5, knobs::Linear);
        // EVOLVE-BLOCK-END
        Ok([0.5, 0.5, radius].iter().flat_map(|v: &f64| v.to_le_bytes()).collect())
    }
}
export_function!(Circle);
"""
TASK = """[task]
name = "circle"
title = "One circle"
world = "function"
metric = { name = "radius", direction = "maximize" }
candidate = "candidate.rs"
[evaluator]
builtin = "circles"
n = 1
[search]
generation_size = 6
generations = 2
noise_seeds = 2
race_seeds = 3
final_seeds = 2
"""
MODEL = """[search.models.{api}]
api = "{api}"
url = "http://127.0.0.1:{port}/v1"
model = "gpt-4o"
knobs_only = true
deadline_s = {deadline}
tries = 16
requests = {requests}
tokens = {tokens}
max_output_tokens = 64
max_prompt_tokens = 400
"""


def install():
    if AIMOCK.exists():
        return True
    if not shutil.which("npm"):
        print("skipped: there is no npm")
        return False
    NPM.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", NPM, "--silent", "--no-audit", "--no-fund", "@copilotkit/aimock@1.43.0"]
    if subprocess.run(command).returncode != 0:
        print("skipped: aimock cannot be installed here")
        return False
    return True


def serve(home, chaos):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = [
        {"match": {"sequenceIndex": n}, "response": {"content": json.dumps({"knobs": {"radius": 0.11 + n / 200}})}}
        for n in range(60)
    ]
    fixtures = home / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": [*answers, {"match": {}, "response": {"content": "I cannot."}}]}))
    command = [AIMOCK, "-p", str(port), "-f", fixtures, "--log-level", "silent", *chaos]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        time.sleep(0.1)
    server.kill()
    sys.exit("aimock does not listen")


def trial(home, name, api):
    server, port = serve(home, CHAOS[name])
    try:
        task = home / "circle"
        task.mkdir(exist_ok=True)
        (task / "candidate.rs").write_text(CANDIDATE)
        model = MODEL.format(api=api, port=port, deadline=DEADLINE, requests=REQUESTS, tokens=TOKENS)
        (task / "task.toml").write_text(TASK + model)
        run = home / f"{name}-{api}"
        begun = time.monotonic()
        command = [TERRARIUM, "run", task, "--proposer", api, "--out", run, "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
        took = time.monotonic() - begun
    finally:
        server.kill()
        server.wait()
    archive = sqlite3.connect(run / "terrarium.db")
    spent = [json.loads(text) for (text,) in archive.execute("SELECT spent FROM answers")]
    requests = sum(cost.get("requests", 0) for cost in spent)
    tokens = sum(cost.get("input_tokens", 0) + cost.get("output_tokens", 0) for cost in spent)
    (accepted,) = archive.execute("SELECT count(*) FROM candidates WHERE proposer = ?", (api,)).fetchone()
    # Calls of a generation are out side by side, so each generation waits for one
    # deadline at most; the rest is starting, compiling once and evaluating.
    most = 2 * (DEADLINE + 1) + 60
    faults = []
    if took > most:
        faults.append(f"lasted {took:.1f} s of {most:.0f}")
    if requests > REQUESTS or tokens > TOKENS:
        faults.append("exceeded its budget")
    if name in ("none", "malformed", "drop", "disconnect", "ratelimit") and not accepted:
        faults.append("nothing was accepted")
    print(
        f"{name:<11} {api:<10} asked {len(spent):>3}  accepted {accepted:>3}  requests {requests:>3}/{REQUESTS}"
        f"  tokens {tokens:>6,}/{TOKENS:,}  {took:>5.1f} s  {'; '.join(faults) or 'ok'}",
        flush=True,
    )
    return faults


def main():
    if not install():
        return 0
    os.environ["PATH"] = f"{NPM}/node_modules/node/bin:{os.environ['PATH']}"
    only = sys.argv[1:] or list(CHAOS)
    with tempfile.TemporaryDirectory() as home:
        faults = [trial(Path(home), name, api) for name in only for api in ("chat", "responses", "messages")]
    return int(any(faults))


if __name__ == "__main__":
    sys.exit(main())
