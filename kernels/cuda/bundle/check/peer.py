"""PyTorch's side: the questions of `bench_device`, answered by cuBLAS, by the
attention that is fastest among those installed, and by compiled PyTorch.

One question a line on standard input, one JSON a line on standard output.
`peer.py DEVICE`, which is `cpu` or `cuda:0`.
"""

import json
import os
import statistics
import sys
import time

REAL = os.fdopen(os.dup(1), "w")
# What libraries print must not look like an answer.
os.dup2(2, 1)

import torch
import torch.nn.functional as F

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cpu"
CUDA = DEVICE.startswith("cuda")
SAMPLES, SAMPLE_SECONDS, MOST_COPIES = 5, 0.02, 200
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def wait():
    if CUDA:
        torch.cuda.synchronize()


def seconds_of(task):
    """Samples of the seconds of one `task`, each over many of them."""

    def once(copies):
        wait()
        if CUDA:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(copies):
                task()
            last.record()
            last.synchronize()
            return first.elapsed_time(last) / 1e3 / copies
        start = time.perf_counter()
        for _ in range(copies):
            task()
        return (time.perf_counter() - start) / copies

    for _ in range(3):
        task()
    copies = int(min(max(SAMPLE_SECONDS / max(once(1), 1e-7), 1), MOST_COPIES))
    once(copies)
    return [once(copies) for _ in range(SAMPLES)]


def random(shape, dtype=torch.float32):
    return torch.rand(shape, device=DEVICE, dtype=torch.float32).mul_(2).sub_(1).to(dtype)


def compiled(function):
    return torch.compile(function, dynamic=False) if CUDA else function


def product(of, way, m, k, n, to):
    dtype = TYPES[of]
    a = random((k, m), dtype).t() if way == "tn" else random((m, k), dtype)
    b = random((n, k), dtype).t() if way == "nt" else random((k, n), dtype)
    if of == to:
        out = torch.empty((m, n), device=DEVICE, dtype=dtype)
        return lambda: torch.matmul(a, b, out=out)
    return lambda: torch.matmul(a, b).to(TYPES[to])


def attentions(time_, window):
    """Ways to compute causal attention of q, k, v [B,T,H,D], by name."""
    found = {}

    def dot_product(q, k, v):
        grouped = {"enable_gqa": True} if q.shape[2] != k.shape[2] else {}
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, **grouped
        )
        return y.transpose(1, 2)

    def masked(q, k, v):
        t = torch.arange(q.shape[1], device=q.device)
        behind = t[:, None] - t[None, :]
        mask = (behind >= 0) & (behind < window)
        grouped = {"enable_gqa": True} if q.shape[2] != k.shape[2] else {}
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, **grouped
        )
        return y.transpose(1, 2)

    sides = (window - 1, 0) if window else (-1, -1)
    if CUDA:
        try:
            import flash_attn_interface

            def third(q, k, v):
                y = flash_attn_interface.flash_attn_func(q, k, v, causal=True, window_size=sides)
                return y[0] if isinstance(y, tuple) else y

            found["FlashAttention 3"] = third
        except Exception as error:
            print("no FlashAttention 3:", error, file=sys.stderr)
        try:
            import flash_attn

            found["FlashAttention " + flash_attn.__version__] = lambda q, k, v: flash_attn.flash_attn_func(
                q, k, v, causal=True, window_size=sides
            )
        except Exception as error:
            print("no flash_attn:", error, file=sys.stderr)
        try:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            def through(backend):
                def call(q, k, v):
                    with sdpa_kernel(backend):
                        return dot_product(q, k, v)

                return call

            if not window:
                found["SDPA flash"] = through(SDPBackend.FLASH_ATTENTION)
                found["SDPA cuDNN"] = through(SDPBackend.CUDNN_ATTENTION)
        except Exception as error:
            print("no choice of SDPA backends:", error, file=sys.stderr)
        if window:
            try:
                from torch.nn.attention.flex_attention import create_block_mask, flex_attention

                def visible(b, h, q, k):
                    return (q >= k) & (q - k < window)

                mask = create_block_mask(visible, None, None, time_, time_, device=DEVICE)
                flexible = torch.compile(flex_attention, dynamic=False)

                def flex(q, k, v):
                    y = flexible(
                        q.transpose(1, 2),
                        k.transpose(1, 2),
                        v.transpose(1, 2),
                        block_mask=mask,
                        enable_gqa=q.shape[2] != k.shape[2],
                    )
                    return y.transpose(1, 2)

                found["flex attention"] = flex
            except Exception as error:
                print("no flex attention:", error, file=sys.stderr)
    found["SDPA"] = masked if window else dot_product
    return found


def attention(backward, of, batch, time_, heads, groups, dim, window):
    """The fastest way, by trying each once; its name and task."""
    q = random((batch, time_, heads, dim), TYPES[of])
    k, v = (random((batch, time_, groups, dim), TYPES[of]) for _ in range(2))
    best = None
    for name, way in attentions(time_, window).items():
        try:
            if backward:
                parts = [x.clone().requires_grad_() for x in (q, k, v)]
                y = way(*parts)
                dout = random(y.shape, y.dtype)

                def task(y=y, parts=parts, dout=dout):
                    torch.autograd.grad(y, parts, dout, retain_graph=True)
            else:

                def task(way=way):
                    with torch.no_grad():
                        way(q, k, v)

            took = statistics.median(seconds_of(task))
            print("%s: %.6f s" % (name, took), file=sys.stderr)
        except Exception as error:
            print("%s: %s" % (name, str(error)[:500]), file=sys.stderr)
            continue
        if best is None or took < best[0]:
            best = (took, name, task)
    if best is None:
        raise RuntimeError("no attention works here")
    return best[1], best[2]


def cross_entropy(backward, of, rows, channels, vocabulary):
    x = random((rows, channels), TYPES[of]).requires_grad_(backward)
    w = random((vocabulary, channels), TYPES[of]).requires_grad_(backward)
    targets = torch.arange(rows, device=DEVICE) * 2654435761 // 128 % vocabulary

    @compiled
    def losses(x, w):
        z = F.linear(x, w).float()
        z = 15.0 * torch.tanh(z / 15.0)
        return F.cross_entropy(z, targets, reduction="sum")

    if not backward:

        def forward():
            with torch.no_grad():
                losses(x, w)

        return forward

    def both():
        # Ours makes the logits again in the gradient and keeps none; here
        # they are made and kept, so both passes count.
        losses(x, w).backward()
        x.grad = w.grad = None

    return both


def simple(words, numbers):
    """(peer's name, task) of the operations that move data."""
    name = words[0]
    if name == "rms_norm":
        x = random(numbers)
        f = compiled(lambda x: F.rms_norm(x, (x.shape[-1],), eps=1e-6))
        return "torch, compiled", lambda: f(x)
    if name == "rms_norm_backward":
        x = random(numbers).requires_grad_()
        f = compiled(lambda x: F.rms_norm(x, (x.shape[-1],), eps=1e-6))
        y, dout = f(x), random(numbers)
        return "torch, compiled", lambda: torch.autograd.grad(y, x, dout, retain_graph=True)
    if name == "layer_norm":
        x = random(numbers)
        return "torch", lambda: F.layer_norm(x, (x.shape[-1],))
    if name == "rope_norm":
        batch, time_, heads, dim = numbers
        x = random(numbers)
        half = dim // 2
        frequency = 10000.0 ** (-torch.arange(half, device=DEVICE, dtype=torch.float32) / half)
        angle = torch.arange(time_, device=DEVICE, dtype=torch.float32)[:, None] * frequency
        cos, sin = angle.cos()[None, :, None, :], angle.sin()[None, :, None, :]

        @compiled
        def turned(x):
            a, b = x.chunk(2, -1)
            y = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
            return F.rms_norm(y, (dim,), eps=1e-6)

        return "torch, compiled", lambda: turned(x)
    if name in ("gather", "scatter_add"):
        count, entries, cols = numbers
        index = torch.arange(count, device=DEVICE) * 2654435761 // 128 % entries
        if name == "gather":
            table = random((entries, cols))
            return "torch", lambda: F.embedding(index, table)
        src, table = random((count, cols)), torch.zeros((entries, cols), device=DEVICE)
        return "torch (not deterministic)", lambda: table.zero_().index_add_(0, index, src)
    if name in ("relu_squared", "softmax"):
        x = random(numbers)
        f = compiled((lambda x: F.relu(x).square()) if name == "relu_squared" else (lambda x: F.softmax(x, -1)))
        return "torch, compiled", lambda: f(x)
    if name == "reduce_rows":
        x = random(numbers)
        return "torch", lambda: x.mean(0)
    if name == "transpose":
        x = random(numbers)
        return "torch", lambda: x.t().contiguous()
    if name == "adamw":
        p = torch.nn.Parameter(random(numbers))
        p.grad = random(numbers)
        adam = torch.optim.AdamW([p], lr=1e-3, betas=(0.9, 0.95), eps=1e-10, fused=CUDA)
        return "torch, fused" if CUDA else "torch", adam.step
    if name in ("copy", "cast"):
        src = random(numbers)
        dst = torch.empty_like(src, dtype=torch.float32 if name == "copy" else torch.bfloat16)
        return "torch", lambda: dst.copy_(src)
    raise ValueError("no case %r" % (words,))


def timed(words):
    numbers = [int(word) for word in words if word.isdigit()]
    if words[0] == "product":
        name, task = ("cuBLAS" if CUDA else "torch"), product(words[1], words[2], *numbers, to=words[6])
    elif words[0].startswith("attention"):
        name, task = attention(words[0] == "attention_backward", words[1], *numbers)
    elif words[0].startswith("cross_entropy"):
        backward = words[0] == "cross_entropy_backward"
        name = "torch, compiled, forward and backward" if backward else "torch, compiled"
        task = cross_entropy(backward, words[1], *numbers)
    else:
        name, task = simple(words, numbers)
    return {"seconds": seconds_of(task), "peer": name}


TRAINING = {}


def model(rows, parts, time_, vocabulary, *sizes):
    """Makes the model and runs three steps, which compiles it."""
    from model import Training

    TRAINING.clear()
    if CUDA:
        torch.cuda.empty_cache()
        torch.set_float32_matmul_precision("high")
    size = tuple(int(word) for word in sizes) or (8, 4, 128)
    ways = {}
    for window in (0, time_ // 2):
        # Small: which is fastest does not depend on the batch.
        ways[window], _ = attention(False, "bf16", 4, time_, size[1], size[1], size[2], window)
    calls = {window: attentions(time_, window)[name] for window, name in ways.items()}
    attend = lambda q, k, v, window: calls[window](q, k, v)
    why = None
    for _ in range(4):
        try:
            training = Training(rows, parts, time_, vocabulary, attend, DEVICE, CUDA, size)
            losses = [float(training.step()) for _ in range(3)]
            TRAINING["it"] = training
            wait()
            used = torch.cuda.max_memory_allocated() if CUDA else 0
            return {"attention": ways, "parts": parts, "losses": losses, "bytes": used}
        except RuntimeError as error:
            why = str(error)
            if "out of memory" not in why.lower():
                raise
            training = None
            torch.cuda.empty_cache()
            parts *= 2
    raise RuntimeError(why)


def step(count):
    training, times = TRAINING["it"], []
    for _ in range(count):
        wait()
        start = time.perf_counter()
        training.step()
        wait()
        times.append(time.perf_counter() - start)
    return times


def kind():
    answer = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": DEVICE}
    if CUDA:
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA device")
        properties = torch.cuda.get_device_properties(DEVICE)
        answer["card"] = properties.name
        answer["cudnn"] = torch.backends.cudnn.version()
        answer["multiprocessors"] = properties.multi_processor_count
        answer["bytes"] = properties.total_memory
    for name in ("triton", "flash_attn", "flash_attn_interface"):
        try:
            module = __import__(name)
            answer[name] = getattr(module, "__version__", "installed")
        except Exception:
            answer[name] = None
    return answer


def answer(question):
    words = question.split()
    if words[0] == "kind":
        return kind()
    if words[0] == "time":
        return timed(words[1:])
    if words[0] == "model":
        return model(*[int(word) for word in words[1:5]], *words[5:])
    if words[0] == "step":
        return step(int(words[1]))
    raise ValueError("unknown question %r" % question)


def main():
    if CUDA and torch.cuda.is_available():
        torch.cuda.set_device(DEVICE)
    for line in sys.stdin:
        try:
            found = answer(line.strip())
        except Exception as error:
            found = {"error": "%s: %s" % (type(error).__name__, str(error)[:2000])}
        print(json.dumps(found), file=REAL, flush=True)


main()
