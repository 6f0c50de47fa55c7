"""This device and CPU PyTorch, interleaved in one run: matrix products at the
shapes of training, and the training step of a GPT of 10.84 million parameters.

Usage: python3 tests/peers/bench_cpu.py [ROUNDS] [JSON FILE]

PyTorch runs as it comes and with MKL made to take its fast path on any
processor (`mkl_serv_intel_cpu_true` interposed), which a fair comparison on an
AMD machine needs; the step eager and compiled, in f32 and with bf16 autocast.
Every contestant is a process that stays; each round asks each of them once, so
that noise meets all alike. Medians count, and the ratio is against the best
contestant. Beside them: the share of the peak measured in the same run, and
where the time of our step goes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pytorch

PRODUCTS = [
    # way: n as stored, t transposed; M, K, N
    ("nn", 512, 512, 512),
    ("nn", 2048, 384, 1536),
    ("nn", 2048, 768, 768),
    ("nn", 2048, 768, 3072),
    ("nt", 2048, 384, 384),
    ("nt", 2048, 384, 1536),
    ("nt", 2048, 1536, 384),
    ("nn", 2048, 1536, 384),
    ("tn", 1536, 2048, 384),
    ("tn", 384, 2048, 384),
]
STEP_FLOPS_PER_TOKEN, STEP_TOKENS = 71.4e6, 8 * 256
STEPS, WARM_UP = 2, 2
# Where bf16 has no instructions PyTorch multiplies element by element: then a
# few products show it, and where the products of a step take longer than this
# (in seconds) one contestant in bf16 is asked for one step a round, cold.
BF16_PRODUCTS = [PRODUCTS[0], PRODUCTS[4], PRODUCTS[5]]
LONGEST_STEP = 5.0
# Between two contestants: the threads of the one before spin for a while
# (OpenMP for up to 0.2 s), which the next one would pay for.
PAUSE = 0.3


class Contestant:
    def __init__(self, name, command, preload=None, slow=False):
        env = dict(os.environ, **({"LD_PRELOAD": preload} if preload else {}))
        self.name, self.steps, self.slow = name, [], slow
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, question):
        time.sleep(PAUSE)
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended at {question!r}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interposer(folder):
    """A library whose only function says that this is an Intel processor."""
    source, library = Path(folder) / "intel.c", Path(folder) / "intel.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "count": len(values)}


def products(contestants, rounds, peak):
    figures = []
    print(f"\n{'product, GFLOP/s':<26}" + "".join(f"{c.name:>18}" for c in contestants) + "  ratio of peak")
    for dtype, shapes in (("f32", PRODUCTS), ("bf16", BF16_PRODUCTS)):
        for way, m, k, n in shapes:
            question, times = f"product {dtype} {way} {m} {k} {n}", {c.name: [] for c in contestants}
            for _ in range(rounds):
                for c in contestants:
                    times[c.name].append(statistics.median(c.ask(question)))
            speed = {name: spread([2e-9 * m * k * n / t for t in ts]) for name, ts in times.items()}
            ours, *theirs = [speed[c.name]["median"] for c in contestants]
            ratio, share = ours / max(theirs), ours / peak if peak else None
            figures.append({"product": question, "gflops": speed, "ratio": ratio, "share_of_peak": share})
            print(
                f"{f'{dtype} {way} {m}x{k}x{n}':<26}"
                + "".join(f"{s:>18.1f}" for s in [ours, *theirs])
                + f"{ratio:>7.2f}{share or 0:>8.0%}",
                flush=True,
            )
    return figures


def steps(contestants, rounds, peak):
    print(f"\n{'training step':<30}{'median s':>10}{'min':>8}{'max':>8}{'tok/s':>8}{'of peak':>9}")
    alive = []
    for c in contestants:
        try:
            if not c.slow:
                c.ask(f"step {WARM_UP}")
            alive.append(c)
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
    for _ in range(rounds):
        for c in alive:
            c.steps += c.ask(f"step {1 if c.slow else STEPS}")
    figures = {}
    for c in alive:
        found = spread(c.steps)
        rate = STEP_TOKENS / found["median"]
        share = rate * STEP_FLOPS_PER_TOKEN / 1e9 / peak if peak else None
        figures[c.name] = {"seconds": found, "tokens_per_second": rate, "share_of_peak": share, **c.ask("loss")}
        print(
            f"{c.name:<30}{found['median']:>10.3f}{found['min']:>8.3f}{found['max']:>8.3f}{rate:>8.0f}{share or 0:>9.0%}"
        )
    ours = figures["ours"]["tokens_per_second"]
    ratios = {}
    for kind, wanted in (("f32", lambda n: "bf16" not in n), ("bf16", lambda n: "bf16" in n)):
        peers = {n: f["tokens_per_second"] for n, f in figures.items() if n != "ours" and wanted(n)}
        if peers:
            best = max(peers, key=peers.get)
            ratios[kind] = {"best_peer": best, "ratio": ours / peers[best]}
            print(f"ours (f32) against the best peer in {kind} ({best}): {ours / peers[best]:.2f}")
    return figures, ratios


def main():
    pytorch.ensure()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else pytorch.ROOT / "bench" / "cpu.json"
    program = str(pytorch.ROOT / "target/release/examples/bench_cpu")
    peer = [sys.executable, str(Path(__file__).resolve().parent / "bench_torch.py")]
    with tempfile.TemporaryDirectory() as folder:
        fixes = {"": None}
        try:
            fixes[", MKL fix"] = interposer(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"without the MKL fix: no C compiler ({error})", file=sys.stderr)
        ours = Contestant("ours", [program])
        peers = [Contestant(f"torch{fix}", peer, library) for fix, library in fixes.items()]
        peaks = [peak for peak in (ours.ask("peak") for _ in range(3)) if peak]
        peak = max(peaks, default=None)
        print(f"peak of f32 multiply-adds, all threads: {peak or 0:.1f} GFLOP/s", flush=True)
        multiplied = products([ours, *peers], rounds, peak)
        for c in peers:
            c.close()
        speed = [f["gflops"][c.name]["median"] for f in multiplied if " bf16 " in f["product"] for c in peers]
        bf16_step = STEP_FLOPS_PER_TOKEN * STEP_TOKENS / 1e9 / max(speed)
        trained = [ours]
        slow = bf16_step > LONGEST_STEP
        if slow:
            print(f"\nbf16 autocast once, cold: its products alone take {bf16_step:.0f} s a step here")
            trained.append(Contestant("torch eager bf16", [*peer, "--bf16"], slow=True))
        for fix, library in fixes.items():
            for kind, flags in (("eager", []), ("compiled", ["--compile"])):
                for dtype, more in (("f32", []), ("bf16", ["--bf16"])):
                    if dtype == "f32" or not slow:
                        name = f"torch {kind} {dtype}{fix}"
                        trained.append(Contestant(name, [*peer, *flags, *more], library))
        stepped, ratios = steps(trained, rounds, peak)
        profile = ours.ask(f"profile {rounds}")
        total = sum(seconds for _, seconds in profile.values())
        print(f"\nwhere our step goes ({total / rounds:.3f} s)")
        for name, (count, seconds) in sorted(profile.items(), key=lambda item: -item[1][1]):
            print(f"{name:<30}{count // rounds:>6}{seconds / rounds * 1e3:>10.1f} ms{seconds / total:>7.1%}")
        for c in trained:
            c.close()
    report = {
        "schema": "terrarium.bench-cpu.v1",
        "rounds": rounds,
        "threads": os.cpu_count(),
        "peak_f32_gflops": peak,
        "products": multiplied,
        "step": {"contestants": stepped, "ratios": ratios},
        "profile": {name: {"count": c // rounds, "seconds": s / rounds} for name, (c, s) in profile.items()},
    }
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {target}")


main()
