"""The whole loop of this engine and of OpenEvolve, on this machine: proposals
a second with a proposer that answers at once, a trivial evaluator and two
evaluations at a time.

Usage: python3 tests/peers/bench_loop.py [CANDIDATES]    (of OpenEvolve: 1000)

OpenEvolve evaluates in its own process, without any isolation; this engine in
a locked-down worker with a fresh store each. OpenEvolve is installed once,
into target/peers; where it cannot be, it is left out, and a line says so.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / "target/peers/loop"
VERSION = "openevolve==0.4.0"


def install():
    python = VENV / "bin/python"
    if python.exists() and subprocess.run([python, "-c", "import openevolve"], capture_output=True).returncode == 0:
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", VERSION], check=True)
    except (OSError, subprocess.CalledProcessError) as why:
        print(f"skipped: {VERSION} cannot be installed here ({why})")
        return None
    return python


def ours(candidates):
    command = [ROOT / "target/release/terrarium", "bench", "loop", "--candidates", str(candidates), "--json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["figures"]
    rate = {figure["name"]: figure["median"] for figure in figures}
    return rate["first_tenth"], rate["last_tenth"], rate["loop"]


def peer(python, candidates):
    """Rates of the first and the last hundred, and of all, by the times at
    which its database took the programs in."""
    child = subprocess.run([python, __file__, "peer", str(candidates)], capture_output=True, text=True)
    if child.returncode != 0:
        raise RuntimeError(f"OpenEvolve failed:\n{child.stderr[-2000:]}")
    times = json.loads(child.stdout.splitlines()[-1])
    rate = lambda part: (len(part) - 1) / (part[-1] - part[0])
    return rate(times[1:101]), rate(times[-100:]), rate(times[1:])


def run_peer(candidates):
    import asyncio
    import logging
    import tempfile
    import time

    sys.path.insert(0, str(ROOT / "tests/peers"))
    from instant_model import PROGRAM, Instant
    from openevolve import OpenEvolve
    from openevolve.config import Config, LLMModelConfig
    from openevolve.database import ProgramDatabase

    times, add = [], ProgramDatabase.add

    def timed(self, *args, **kwargs):
        added = add(self, *args, **kwargs)
        times.append(time.monotonic())
        return added

    ProgramDatabase.add = timed
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        program, evaluator = Path(folder, "program.py"), Path(folder, "evaluator.py")
        program.write_text(PROGRAM.format(0))
        evaluator.write_text("import random\ndef evaluate(path):\n    return {'combined_score': random.random()}\n")
        config = Config(max_iterations=candidates, diff_based_evolution=False, checkpoint_interval=10**9, random_seed=1)
        config.llm.models = [LLMModelConfig(name="instant", weight=1.0, init_client=Instant)]
        config.llm.evaluator_models = config.llm.models
        config.evaluator.parallel_evaluations = 2
        config.evaluator.cascade_evaluation = False
        engine = OpenEvolve(str(program), str(evaluator), config=config, output_dir=str(Path(folder, "out")))
        asyncio.run(engine.run(iterations=candidates))
    print(json.dumps(times))


def main():
    if sys.argv[1:2] == ["peer"]:
        return run_peer(int(sys.argv[2]))
    candidates = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rows = []
    python = install()
    if python:
        rows.append((VERSION, candidates, *peer(python, candidates)))
    rows += [("terrarium", n, *ours(n)) for n in (1000, 10_000, 100_000)]
    print(f"{'':<20} {'candidates':>10} {'at first':>10} {'at last':>10} {'all':>10}   proposals/s")
    for name, count, first, last, whole in rows:
        print(f"{name:<20} {count:>10,} {first:>10,.0f} {last:>10,.0f} {whole:>10,.0f}")


if __name__ == "__main__":
    main()
