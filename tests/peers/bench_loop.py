"""The whole loop of this engine, of OpenEvolve and of ShinkaEvolve, on this
machine: proposals a second with a proposer that answers at once, a trivial
evaluator and two evaluations at a time.

Usage: python3 tests/peers/bench_loop.py [--only NAME] [--json FILE]

OpenEvolve evaluates in its own process, without any isolation; ShinkaEvolve
in a process for each candidate; this engine in a locked-down worker with a
fresh store each. The others are installed once, into target/peers; one that
cannot be is left out, and a line says so. `--only` measures one of the three;
its rows replace those in FILE.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TERRARIUM = ROOT / "target/release/terrarium"
# Name, what pip installs, its module, and how many candidates.
PEERS = [
    ("openevolve", "openevolve==0.4.0", "openevolve", [100, 1000]),
    ("shinka", "shinka-evolve==0.0.7", "shinka", [100, 300]),
]
OURS = [100, 1000, 10_000, 100_000]


def install(name, package, module):
    venv = ROOT / "target/peers" / name
    python = venv / "bin/python"
    if python.exists() and subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    except (OSError, subprocess.CalledProcessError) as why:
        print(f"skipped: {package} cannot be installed here ({why})")
        return None
    return python


def ours(candidates):
    command = [TERRARIUM, "bench", "loop", "--candidates", str(candidates), "--json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["figures"]
    rate = {figure["name"]: figure["median"] for figure in figures}
    return rate["first_tenth"], rate["last_tenth"], rate["loop"]


def peer(python, name, candidates):
    """Rates of the first and the last tenth, and of all, by the times at
    which its database took the programs in."""
    command = [python, ROOT / "tests/peers/loop_peer.py", name, str(candidates)]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{child.stderr[-2000:]}")
    times = json.loads(child.stdout.splitlines()[-1])[1:]
    tenth = max(len(times) // 10, 20)
    rate = lambda part: (len(part) - 1) / (part[-1] - part[0])
    return rate(times[:tenth]), rate(times[-tenth:]), rate(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["terrarium", *(name for name, *_ in PEERS)])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []

    def measured(name, candidates, rates):
        keys = ("first_tenth", "last_tenth", "all")
        rows.append({"engine": name, "candidates": candidates, **dict(zip(keys, (round(rate, 1) for rate in rates)))})
        print(f"{name:<22} {candidates:>10,} " + " ".join(f"{rate:>12,.1f}" for rate in rates), flush=True)

    print(f"{'':<22} {'candidates':>10} {'first tenth':>12} {'last tenth':>12} {'all':>12}   proposals/s")
    for name, package, module, sizes in PEERS:
        python = install(name, package, module) if args.only in (None, name) else None
        for size in sizes if python else []:
            measured(package.replace("==", " "), size, peer(python, name, size))
    for size in OURS if args.only in (None, "terrarium") else []:
        measured("terrarium", size, ours(size))
    if args.json:
        old = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
        again = {row["engine"] for row in rows}
        table = {
            "bench": "loop, with peers",
            "unit": "proposals/s",
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "rows": [row for row in old if row["engine"] not in again] + rows,
        }
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
