"""PyTorch's side of bench_cpu.py: the questions and answers of
tests/examples/bench_cpu.rs, and the same model.

Usage: python3 bench_torch.py [--compile] [--bf16]   (of the training step)
"""

import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

DEPTH, CHANNELS, HEADS, TIME, ROWS, VOCABULARY = 6, 384, 6, 256, 8, 256
PRODUCT_SECONDS = 0.25


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.qkv, self.project = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x):
        heads = self.qkv(self.norm1(x)).view(ROWS, TIME, 3, HEADS, CHANNELS // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(ROWS, TIME, CHANNELS))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, CHANNELS), nn.Embedding(TIME, CHANNELS)
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(CHANNELS)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.words(tokens) + self.places(torch.arange(TIME))
        logits = F.linear(self.norm(self.blocks(x)), self.words.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))


class Training:
    def __init__(self, compiled, bf16):
        torch.manual_seed(1)
        self.model, self.bf16 = Gpt(), bf16
        self.call = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
        )
        self.text = torch.randint(0, VOCABULARY, (1_000_000,))
        self.loss = None

    def step(self):
        starts = torch.randint(0, len(self.text) - TIME - 1, (ROWS,))
        tokens = torch.stack([self.text[at : at + TIME] for at in starts])
        targets = torch.stack([self.text[at + 1 : at + TIME + 1] for at in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            self.loss = self.call(tokens, targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.backward()
        self.optimizer.step()


def product(dtype, way, m, k, n):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    a = torch.randn((k, m) if way == "tn" else (m, k)).to(dtype)
    b = torch.randn((n, k) if way == "nt" else (k, n)).to(dtype)
    a, b = a.t() if way == "tn" else a, b.t() if way == "nt" else b
    out, times, begin = torch.empty(m, n, dtype=dtype), [], time.perf_counter()
    with torch.inference_mode():
        while not times or time.perf_counter() - begin < PRODUCT_SECONDS:
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            times.append(time.perf_counter() - start)
    return times


def main():
    training = None
    for line in sys.stdin:
        words = line.split()
        if words[0] == "product":
            answer = product(words[1], words[2], *map(int, words[3:]))
        elif words[0] == "step":
            training = training or Training("--compile" in sys.argv, "--bf16" in sys.argv)
            answer = []
            for _ in range(int(words[-1])):
                start = time.perf_counter()
                training.step()
                answer.append(time.perf_counter() - start)
        elif words[0] == "loss":
            parameters = sum(p.numel() for p in training.model.parameters())
            answer = {"loss": training.loss.item(), "parameters": parameters}
        else:
            sys.exit(f"unknown question {line!r}")
        print(json.dumps(answer), flush=True)


main()
