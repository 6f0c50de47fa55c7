#!/usr/bin/env bash
# Does the search beat its controls? The gpt task with the search, with random
# proposals and with best-of-n, at equal device fuel and on the same seeds; then
# the comparison. Runs that are there already are taken as they are.
# Usage: tests/peers/controls.sh [FOLDER] [EVALUATIONS PER RUN] [SEEDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-runs/controls} evaluations=${2:-130} seeds=${3:-5}
terrarium=${TERRARIUM:-target/release/terrarium}
setting() { sed -n "s/^$1 = \([0-9_]*\).*/\1/p" guest-templates/gpt/task.toml | tr -d _; }
per_evaluation=$(setting device_fuel) size=$(setting generation_size)
fuel=$((evaluations * per_evaluation))
mkdir -p "$folder"
for seed in $(seq "$seeds"); do
    for arm in search random best-of-n; do
        run=$folder/$arm-$seed
        if [ -e "$run/report.html" ]; then continue; fi
        rm -rf "$run"
        # As many generations as the fuel can last for: a control evaluates most
        # candidates once, and the gate is the stricter the more may be tried.
        arguments=(--generations 8)
        if [ "$arm" != search ]; then arguments=(--control "$arm" --generations $((evaluations / size + 1))); fi
        "$terrarium" run gpt --seed "$seed" --fuel "$fuel" "${arguments[@]}" --out "$run" --json >"$run.jsonl"
    done
done
"$terrarium" compare "$folder"/{search,random,best-of-n}-*/
