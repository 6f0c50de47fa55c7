"""Matrix products of this device and of PyTorch, interleaved in one run.

Usage: python3 tests/peers/bench_cpu.py [ROUNDS]

PyTorch runs as it comes, and with MKL made to take its fast path on any
processor (`mkl_serv_intel_cpu_true` interposed), which a fair comparison on an
AMD machine needs. Each round runs every contestant once; the best of the rounds
counts. The ratio is against the better of the two PyTorch figures.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pytorch

SHAPES = [(2048, 384, 1536), (1024, 128, 512), (2048, 64, 256), (64, 2048, 256)]

PEER = """
import sys, time, torch
for text in sys.argv[1:]:
    m, k, n = map(int, text.split('x'))
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    flops, best = 2 * m * k * n, float('inf')
    with torch.inference_mode():
        for _ in range(max(3, min(1000, int(4e9 / flops)))):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            best = min(best, time.perf_counter() - start)
    print(f'{text} {flops / best / 1e9:.1f}')
"""


def interposer(folder):
    """A library whose only function says that this is an Intel processor."""
    source, library = Path(folder) / "intel.c", Path(folder) / "intel.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)


def ours():
    program = pytorch.ROOT / "target/release/examples/gemm"
    text = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {shape: float(speed) for shape, speed in re.findall(r"(\S+) all threads: (\S+) GFLOP/s", text)}


def theirs(preload):
    env = dict(os.environ, **({"LD_PRELOAD": preload} if preload else {}))
    shapes = ["x".join(map(str, shape)) for shape in SHAPES]
    command = [sys.executable, "-c", PEER, *shapes]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return {shape: float(speed) for shape, speed in (line.split() for line in text.splitlines())}


def main():
    pytorch.ensure()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        contestants = {"ours": ours, "torch": lambda: theirs(None)}
        try:
            library = interposer(folder)
            contestants["torch, MKL fix"] = lambda: theirs(library)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"without the MKL fix: no C compiler ({error})", file=sys.stderr)
        for _ in range(rounds):
            for name, run in contestants.items():
                for shape, speed in run().items():
                    best[name, shape] = max(speed, best.get((name, shape), 0.0))
    print(f"{'m x k x n, f32':<18}" + "".join(f"{name:>18}" for name in contestants) + f"{'ratio':>8}")
    for shape in ("x".join(map(str, shape)) for shape in SHAPES):
        speeds = [best[name, shape] for name in contestants]
        ratio = speeds[0] / max(speeds[1:])
        print(f"{shape:<18}" + "".join(f"{speed:>11.1f} GFLOP" for speed in speeds) + f"{ratio:>8.2f}")


main()
