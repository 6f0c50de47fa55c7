"""The gpt template in PyTorch, written from its description.

Parameters come as a list in the order in which the template makes them; see
`Model.init` in guest-templates/gpt/candidate/candidate.rs.
"""

import math

import torch
import torch.nn.functional as F

POLAR_EXPRESS = [
    (8.156554, -22.483293, 15.87877),
    (4.04293, -2.8089175, 0.5000178),
    (3.8916678, -2.772484, 0.5060648),
    (3.2857537, -2.3681295, 0.46449024),
    (2.3465413, -1.7097828, 0.4232355),
]
EPS = 1e-6


def norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


class Gpt:
    def __init__(self, c, params):
        """`c`: depth, heads, kv_heads, head_dim, windows (a position count or
        0 for each layer), value_layers (bools), softcap, rope_base, time."""
        self.c = c
        names = "embedding head query key value project expand contract".split()
        self.p = dict(zip(names, params))
        rest = params[len(names) :]
        self.tables = rest[: sum(c["value_layers"])]
        self.p["gates"], self.p["residual"], self.p["first"] = rest[len(self.tables) :]
        half = c["head_dim"] // 2
        frequency = c["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(c["time"], dtype=torch.float64)[:, None] * frequency
        self.cos = angle.cos().float()[None, :, None, :]
        self.sin = angle.sin().float()[None, :, None, :]

    def rope(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)

    def attention(self, q, k, v, window):
        if not window:
            enable = k.shape[2] != q.shape[2]
            y = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=enable
            )
            return y.transpose(1, 2)
        t = torch.arange(q.shape[1])
        behind = t[:, None] - t[None, :]
        mask = (behind >= 0) & (behind < window)
        enable = k.shape[2] != q.shape[2]
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, enable_gqa=enable
        )
        return y.transpose(1, 2)

    def loss(self, tokens, targets):
        c, p = self.c, self.p
        b, time = tokens.shape
        x = x0 = norm(F.embedding(tokens, p["embedding"]))
        table = 0
        for i in range(c["depth"]):
            x = p["residual"][i] * x + p["first"][i] * x0
            h = norm(x)
            q = F.linear(h, p["query"][i]).view(b, time, c["heads"], c["head_dim"])
            k = F.linear(h, p["key"][i]).view(b, time, c["kv_heads"], c["head_dim"])
            v = F.linear(h, p["value"][i]).view(b, time, c["kv_heads"], c["head_dim"])
            if c["value_layers"][i]:
                extra = F.embedding(tokens, self.tables[table]).view_as(v)
                gates = p["gates"][table]
                gate = 2 * torch.sigmoid(F.linear(h[..., : gates.shape[1]], gates))
                v = v + gate[..., None] * extra
                table += 1
            q, k = norm(self.rope(q)), norm(self.rope(k))
            y = self.attention(q, k, v, c["windows"][i]).reshape(b, time, -1)
            x = x + F.linear(y, p["project"][i])
            h = F.relu(F.linear(norm(x), p["expand"][i])).square()
            x = x + F.linear(h, p["contract"][i])
        z = F.linear(norm(x), p["head"])
        if c["softcap"]:
            z = c["softcap"] * torch.tanh(z / c["softcap"])
        return F.cross_entropy(z.view(b * time, -1).float(), targets.view(-1))


class Muon:
    """Banks [L,m,n]; Nesterov momentum, polar express, rows scaled by their
    second moment, decay where it does not fight the step."""

    def __init__(self, params, momentum, decay, beta2):
        self.params, self.momentum, self.decay, self.beta2 = params, momentum, decay, beta2
        self.buffers = [torch.zeros_like(p) for p in params]
        self.seconds = [torch.zeros(p.shape[:2]) for p in params]

    @torch.no_grad()
    def step(self, rate):
        for p, buffer, second in zip(self.params, self.buffers, self.seconds):
            m, n = p.shape[-2:]
            buffer.mul_(self.momentum).add_(p.grad, alpha=1 - self.momentum)
            x = self.momentum * buffer + (1 - self.momentum) * p.grad
            x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() * 1.02 + 1e-6)
            for a, b, c in POLAR_EXPRESS:
                gram = x.mT @ x if m > n else x @ x.mT
                poly = b * gram + c * (gram @ gram)
                x = a * x + (x @ poly if m > n else poly @ x)
            if self.beta2 is not None:
                mean = x.square().mean(-1)
                second.mul_(self.beta2).add_(mean, alpha=1 - self.beta2)
                step = second.clamp(min=1e-10).rsqrt()
                before, after = mean.sum(-1), (mean * step.square()).sum(-1).clamp(min=1e-10)
                x = x * (step * (before / after).sqrt()[:, None])[..., None]
            factor = math.sqrt(max(1.0, m / n))
            keep = 1 - (x * p < 0).float()
            p -= rate * factor * x + rate * self.decay * factor * p * keep
            p.grad = None


class AdamW:
    def __init__(self, params, rate, beta1, beta2, eps=1e-10):
        self.params, self.rate, self.betas, self.eps = params, rate, (beta1, beta2), eps
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
        self.count = 0

    @torch.no_grad()
    def step(self, factor):
        self.count += 1
        b1, b2 = self.betas
        for p, (m, v) in zip(self.params, self.moments):
            m.mul_(b1).add_(p.grad, alpha=1 - b1)
            v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            up, down = m / (1 - b1**self.count), (v / (1 - b2**self.count)).sqrt() + self.eps
            p -= self.rate * factor * up / down
            p.grad = None
