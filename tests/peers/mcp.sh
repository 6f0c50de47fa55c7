#!/usr/bin/env bash
# The MCP server before the public tools: the conformance suite over streamable
# HTTP, and the inspector over HTTP and over standard input and output. Installs
# them, and a Node that they run on, into target/peers once. Needs npm.
#
# tests/peers/mcp-not-applicable.yml lists the suite's scenarios that do not
# apply, with the reason; the suite fails if one of the others fails, and also if
# one of these passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
terrarium=$PWD/target/release/terrarium
npm=target/peers/npm
work=$(mktemp -d)
server=
end() {
    if [ -n "$server" ]; then kill -INT "$server" 2>/dev/null && wait "$server" || true; fi
    rm -rf "$work"
}
trap end EXIT

if ! command -v npm >/dev/null; then
    echo "skipped: there is no npm"
    exit 0
fi
if [ ! -x "$npm/node_modules/.bin/conformance" ] || [ ! -x "$npm/node_modules/.bin/mcp-inspector" ]; then
    mkdir -p "$npm"
    if ! npm install --prefix "$npm" --silent --no-audit --no-fund node@22 \
        @modelcontextprotocol/conformance@0.1.16 @modelcontextprotocol/inspector@0.15.0; then
        echo "skipped: the tools cannot be installed here"
        exit 0
    fi
fi
PATH=$PWD/$npm/node_modules/node/bin:$PWD/$npm/node_modules/.bin:$PATH

"$terrarium" mcp "$work/run" --task circles --http 0 2>"$work/server" &
server=$!
url=
for _ in $(seq 300); do
    url=$(grep -ao 'http://[0-9.:]*/mcp' "$work/server" | head -1 || true)
    if [ -n "$url" ]; then break; fi
    kill -0 "$server" 2>/dev/null || { cat "$work/server"; exit 1; }
    sleep 0.2
done

echo "conformance, streamable HTTP:"
conformance server --url "$url" --expected-failures tests/peers/mcp-not-applicable.yml \
    >"$work/conformance" 2>&1 || { cat "$work/conformance"; exit 1; }
sed -n '/SUMMARY/,$p' "$work/conformance"

inspect() {
    mcp-inspector --cli "$@" >"$work/answer" 2>"$work/trouble" || { cat "$work/trouble" "$work/answer"; exit 1; }
}
over() { # over NAME PLACE…: the same questions, wherever the server is
    local name=$1 tools
    shift
    inspect "$@" --method tools/list
    tools=$(python3 -c 'import json,sys; print(len(json.load(open(sys.argv[1]))["tools"]))' "$work/answer")
    [ "$tools" = 7 ]
    inspect "$@" --method tools/call --tool-name read_task
    grep -q '"direction": "maximize"' "$work/answer" || grep -q 'maximize' "$work/answer"
    inspect "$@" --method tools/call --tool-name leaderboard --tool-arg limit=1 --tool-arg order=latest
    grep -q candidates "$work/answer"
    inspect "$@" --method tools/call --tool-name read_candidate --tool-arg candidate=none
    grep -q '"isError": true' "$work/answer"
    echo "inspector, $name: $tools tools listed; read_task, leaderboard and a refused read_candidate answered"
}
over "streamable HTTP" "$url" --transport http
over "standard input and output" "$terrarium" mcp "$work/run"
