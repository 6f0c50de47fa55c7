"""Parity with PyTorch: the same initial weights and batches, float32, fifty
steps of the whole small GPT with Muon; the losses agree within 1e-3 relative
at every step.

Usage: python3 tests/peers/parity.py [PROGRAM]
PROGRAM is the example `parity` of the tests crate (default: the release build);
it trains on this project's device and leaves what is needed in a folder.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pytorch

pytorch.ensure()

import numpy
import torch

from gpt import AdamW, Gpt, Muon

TOLERANCE = 1e-3


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else pytorch.ROOT / "target/release/examples/parity"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(program), folder], check=True)
        run = json.loads((Path(folder) / "run.json").read_text())
        floats = numpy.fromfile(Path(folder) / "weights.f32", dtype="<f4")
        batches = numpy.fromfile(Path(folder) / "batches.i32", dtype="<i4")
    params, at = [], 0
    for shape in run["shapes"]:
        size = int(numpy.prod(shape))
        params.append(torch.tensor(floats[at : at + size].reshape(shape)).requires_grad_())
        at += size
    assert at == len(floats), "the weights' shapes do not add up"
    model = Gpt(run["model"], params)
    o, p = run["optimizers"], model.p
    banks = [p[name] for name in "query key value project expand contract".split()]
    muon = Muon(banks, o["momentum"], o["weight_decay"], o["second_moment"])
    scalars = [p["residual"], p["first"]] + ([p["gates"]] if model.tables else [])
    adams = [
        AdamW([p["embedding"], *model.tables], o["embedding_rate"], o["beta1"], o["beta2"]),
        AdamW([p["head"]], o["head_rate"], o["beta1"], o["beta2"]),
        AdamW(scalars, o["scalar_rate"], o["beta1"], o["beta2"]),
    ]
    rows, time = run["rows"], run["model"]["time"]
    batches = torch.tensor(batches.reshape(-1, 2, rows, time), dtype=torch.long)
    worst = 0.0
    for step, (ours, factor) in enumerate(zip(run["losses"], run["factors"])):
        loss = model.loss(batches[step, 0], batches[step, 1])
        loss.backward()
        theirs = loss.item()
        error = abs(ours - theirs) / abs(theirs)
        worst = max(worst, error)
        if error > TOLERANCE:
            sys.exit(f"step {step + 1}: loss {ours} here and {theirs} in PyTorch, {error:.2e} apart")
        muon.step(o["matrix_rate"] * factor)
        for adam in adams:
            adam.step(factor)
    first, last = run["losses"][0], run["losses"][-1]
    if not last < first:
        sys.exit(f"nothing was learnt: the loss went from {first} to {last}")
    count = len(run["losses"])
    print(f"parity: {count} steps, loss {first:.4f} to {last:.4f}, at most {worst:.1e} from PyTorch {torch.__version__}")


main()
