#!/bin/sh
# Checks and measures everything on this machine, in under eight minutes, and
# writes one JSON. See README.md beside this file.
#
#   ./check.sh [--device cuda:0] [--seconds 460] [--out FILE] [--only a,b] [--small]
case $0 in
*/*) here=$(cd "${0%/*}" && pwd) || exit 1 ;;
*) here=$(pwd) ;;
esac
for python in ${PYTHON:-} python3 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        exec "$python" "$here/check/run.py" "$@"
    fi
done
# Nothing can be measured without it, but what was asked for is still written.
out=$here/results.json
while [ $# -gt 0 ]; do
    [ "$1" = --out ] && [ $# -gt 1 ] && out=$2
    shift
done
why="no Python 3.8 or newer on this machine; set PYTHON"
printf '{"schema": "terrarium-cuda-results/1", "machine": {}, "sections": [{"name": "machine", "status": "skipped", "why": "%s", "seconds": 0}], "figures": []}\n' "$why" >"$out"
echo "skipped everything: $why" >&2
echo "written: $out"
