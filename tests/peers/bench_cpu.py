"""This device and CPU PyTorch, interleaved in one run: matrix products at the
shapes of training, and the training step of a GPT of 10.84 million parameters.

Usage: python3 tests/peers/bench_cpu.py [ROUNDS] [JSON FILE]

PyTorch runs as it comes and with MKL made to take its fast path on any
processor (`mkl_serv_intel_cpu_true` interposed), which a fair comparison on an
AMD machine needs; the step eager and compiled, in f32 and with bf16 autocast.
Every contestant is a process that stays; each round asks each of them once, so
that noise meets all alike. Medians count, and the ratio is against the best
contestant of the same type. Beside them: the share of the peak measured in the
same run, and where the time of our step goes.
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
STEPS, WARM_UP = 4, 2
# Where bf16 has no instructions PyTorch multiplies element by element: then a
# few products show it, and where the products of a step take longer than this
# (in seconds) one contestant in bf16 is asked for one step a round, cold.
BF16_PRODUCTS = [PRODUCTS[0], PRODUCTS[4], PRODUCTS[5]]
LONGEST_STEP = 5.0
# Between two contestants: the threads of the one before spin for a while
# (OpenMP for up to 0.2 s), which the next one would pay for.
PAUSE = 0.3


class Contestant:
    def __init__(self, name, command, preload=None, dtype="f32", slow=False):
        env = dict(os.environ, **({"LD_PRELOAD": preload} if preload else {}))
        self.name, self.dtype, self.steps, self.slow = name, dtype, [], slow
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


def share_of(peaks, dtype, gflops):
    """Of what multiply-adds in registers reach: those that the machine has for
    this type, else those of f32."""
    peak = peaks.get(dtype) or peaks.get("f32")
    return gflops / peak if peak else None


def products(contestants, rounds, peaks, bf16_shapes):
    figures = []
    print(f"\n{'product, GFLOP/s':<26}" + "".join(f"{c.name:>18}" for c in contestants) + "  ratio of peak")
    for dtype, shapes in (("f32", PRODUCTS), ("bf16", bf16_shapes)):
        for way, m, k, n in shapes:
            question, times = f"product {dtype} {way} {m} {k} {n}", {c.name: [] for c in contestants}
            for _ in range(rounds):
                for c in contestants:
                    times[c.name].append(statistics.median(c.ask(question)))
            speed = {name: spread([2e-9 * m * k * n / t for t in ts]) for name, ts in times.items()}
            ours, *theirs = [speed[c.name]["median"] for c in contestants]
            ratio, share = ours / max(theirs), share_of(peaks, dtype, ours)
            figures.append({"product": question, "gflops": speed, "ratio": ratio, "share_of_peak": share})
            print(
                f"{f'{dtype} {way} {m}x{k}x{n}':<26}"
                + "".join(f"{s:>18.1f}" for s in [ours, *theirs])
                + f"{ratio:>7.2f}{share or 0:>8.0%}",
                flush=True,
            )
    return figures


def steps(contestants, rounds, peaks):
    print(f"\n{'training step':<30}{'median s':>10}{'min':>8}{'max':>8}{'tok/s':>8}{'of peak':>9}")
    alive = []
    for c in contestants:
        try:
            if not c.slow:
                c.ask(f"step {c.dtype} {WARM_UP}")
            alive.append(c)
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
    for _ in range(rounds):
        for c in alive:
            c.steps += c.ask(f"step {c.dtype} {1 if c.slow else STEPS}")
    figures = {}
    for c in alive:
        found = spread(c.steps)
        rate = STEP_TOKENS / found["median"]
        share = share_of(peaks, c.dtype, rate * STEP_FLOPS_PER_TOKEN / 1e9)
        figures[c.name] = {"seconds": found, "tokens_per_second": rate, "share_of_peak": share, **c.ask("loss")}
        print(
            f"{c.name:<30}{found['median']:>10.3f}{found['min']:>8.3f}{found['max']:>8.3f}{rate:>8.0f}{share or 0:>9.0%}"
        )
    ratios = {}
    for dtype in ("f32", "bf16"):
        rates = {c.name: figures[c.name]["tokens_per_second"] for c in alive if c.dtype == dtype}
        ours = rates.pop(f"ours {dtype}")
        if rates:
            best = max(rates, key=rates.get)
            ratios[dtype] = {"best_peer": best, "ratio": ours / rates[best]}
            print(f"ours against the best peer in {dtype} ({best}): {ours / rates[best]:.2f}")
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
        ours = Contestant("ours f32", [program])
        peers = [Contestant(f"torch{fix}", peer, library) for fix, library in fixes.items()]
        found = [peaks for peaks in (ours.ask("peak") for _ in range(3)) if peaks]
        peaks = {dtype: max(peaks[dtype] for peaks in found) for dtype in found[0] if found[0][dtype]} if found else {}
        for dtype, peak in peaks.items():
            print(f"peak of {dtype} multiply-adds, all threads: {peak:.1f} GFLOP/s", flush=True)
        multiplied = products([ours, *peers], rounds, peaks, PRODUCTS if "bf16" in peaks else BF16_PRODUCTS)
        for c in peers:
            c.close()
        speed = [f["gflops"][c.name]["median"] for f in multiplied if " bf16 " in f["product"] for c in peers]
        bf16_step = STEP_FLOPS_PER_TOKEN * STEP_TOKENS / 1e9 / max(speed)
        trained = [ours, Contestant("ours bf16", [program], dtype="bf16")]
        slow = bf16_step > LONGEST_STEP
        if slow:
            print(f"\nbf16 autocast once, cold: its products alone take {bf16_step:.0f} s a step here")
            trained.append(Contestant("torch eager bf16", [*peer, "--bf16"], dtype="bf16", slow=True))
        for fix, library in fixes.items():
            for kind, flags in (("eager", []), ("compiled", ["--compile"])):
                for dtype, more in (("f32", []), ("bf16", ["--bf16"])):
                    if dtype == "f32" or not slow:
                        name = f"torch {kind} {dtype}{fix}"
                        trained.append(Contestant(name, [*peer, *flags, *more], library, dtype))
        stepped, ratios = steps(trained, rounds, peaks)
        profiles = {}
        for c in trained[:2]:
            profile = c.ask(f"profile {c.dtype} {rounds}")
            total = sum(seconds for _, seconds in profile.values())
            profiles[c.dtype] = {n: {"count": k // rounds, "seconds": s / rounds} for n, (k, s) in profile.items()}
            print(f"\nwhere a step of {c.name} goes ({total / rounds:.3f} s)")
            for name, (count, seconds) in sorted(profile.items(), key=lambda item: -item[1][1]):
                print(f"{name:<30}{count // rounds:>6}{seconds / rounds * 1e3:>10.1f} ms{seconds / total:>7.1%}")
        for c in trained:
            c.close()
    report = {
        "schema": "terrarium.bench-cpu.v2",
        "rounds": rounds,
        "threads": os.cpu_count(),
        "peak_gflops": peaks,
        "products": multiplied,
        "step": {"contestants": stepped, "ratios": ratios},
        "profiles": profiles,
    }
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {target}")


main()
