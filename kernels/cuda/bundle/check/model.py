"""The model and optimizer of the template gpt-h100 in PyTorch, written from
their description (autoresearch's baseline) the way a researcher would make
them fast: compiled, bfloat16 activations, the best attention installed.

It measures speed, so parameters start random and data is random too.
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
GATE_CHANNELS = 32


def norm(x):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


class Gpt(torch.nn.Module):
    def __init__(self, vocabulary, time, depth, heads, dim, attend, device):
        """`attend(q, k, v, window)`: causal attention of [B,T,H,D]; window 0
        is all."""
        super().__init__()
        width, self.time, self.depth, self.heads, self.dim = heads * dim, time, depth, heads, dim
        self.attend = attend

        def matrices(*shape):
            return torch.nn.Parameter(torch.randn(*shape, device=device) / math.sqrt(shape[-1]))

        self.embedding = torch.nn.Parameter(torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16))
        self.head = torch.nn.Parameter(1e-3 * torch.randn(vocabulary, width, device=device))
        self.query, self.key, self.value = [matrices(depth, width, width) for _ in range(3)]
        self.project = torch.nn.Parameter(torch.zeros(depth, width, width, device=device))
        self.expand = matrices(depth, 4 * width, width)
        self.contract = torch.nn.Parameter(torch.zeros(depth, width, 4 * width, device=device))
        self.value_layers = [i for i in range(depth) if (depth - 1 - i) % 2 == 0]
        tables = len(self.value_layers)
        self.tables = torch.nn.ParameterList(
            [torch.nn.Parameter(matrices(vocabulary, width).data.bfloat16()) for _ in range(tables)]
        )
        self.gates = torch.nn.Parameter(torch.zeros(tables, heads, min(GATE_CHANNELS, width), device=device))
        self.residual = torch.nn.Parameter(torch.ones(depth, device=device))
        self.first = torch.nn.Parameter(torch.full((depth,), 0.1, device=device))
        self.windows = [0 if i == depth - 1 or i % 4 == 3 else time // 2 for i in range(depth)]
        frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        angle = torch.arange(time, device=device, dtype=torch.float32)[:, None] * frequency
        self.register_buffer("cos", angle.cos().bfloat16()[None, :, None, :])
        self.register_buffer("sin", angle.sin().bfloat16()[None, :, None, :])

    def matrices(self):
        return [self.query, self.key, self.value, self.project, self.expand, self.contract]

    def turned(self, x):
        a, b = x.chunk(2, -1)
        return norm(torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1))

    def forward(self, tokens, targets):
        batch, time = tokens.shape
        shape = (batch, time, self.heads, self.dim)
        low = torch.bfloat16
        x = x0 = norm(F.embedding(tokens, self.embedding).to(low))
        for i in range(self.depth):
            x = self.residual[i].to(low) * x + self.first[i].to(low) * x0
            h = norm(x)
            q = F.linear(h, self.query[i].to(low)).view(shape)
            k = F.linear(h, self.key[i].to(low)).view(shape)
            v = F.linear(h, self.value[i].to(low)).view(shape)
            if i in self.value_layers:
                table = self.value_layers.index(i)
                extra = F.embedding(tokens, self.tables[table]).to(low).view(shape)
                gates = self.gates[table].to(low)
                v = v + 2 * torch.sigmoid(F.linear(h[..., : gates.shape[1]], gates))[..., None] * extra
            y = self.attend(self.turned(q), self.turned(k), v, self.windows[i])
            x = x + F.linear(y.reshape(batch, time, -1), self.project[i].to(low))
            h = F.relu(F.linear(norm(x), self.expand[i].to(low))).square()
            x = x + F.linear(h, self.contract[i].to(low))
        z = F.linear(norm(x), self.head.to(low)).float()
        z = 15.0 * torch.tanh(z / 15.0)
        return F.cross_entropy(z.view(batch * time, -1), targets.reshape(-1))


def orthogonal_step(p, grad, buffer, second, rate, momentum=0.95, beta2=0.95):
    """One step of Muon on a bank [L,m,n]."""
    m, n = p.shape[-2:]
    buffer.lerp_(grad, 1 - momentum)
    x = grad.lerp(buffer, momentum).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x.mT @ x if m > n else x @ x.mT
        poly = b * gram + c * (gram @ gram)
        x = a * x + (x @ poly if m > n else poly @ x)
    x = x.float()
    mean = x.square().mean(-1)
    second.lerp_(mean, 1 - beta2)
    scale = second.clamp_min(1e-10).rsqrt()
    after = (mean * scale.square()).sum(-1).clamp_min(1e-10)
    x = x * (scale * (mean.sum(-1) / after).sqrt()[:, None])[..., None]
    p.sub_(rate * math.sqrt(max(1.0, m / n)) * x)


class Training:
    """One step: `parts` times forward and backward, then both optimizers."""

    def __init__(self, rows, parts, time, vocabulary, attend, device, compiled, sizes=(8, 4, 128)):
        depth, heads, dim = sizes
        self.parts, self.part_rows, self.device = parts, rows // parts, device
        self.model = Gpt(vocabulary, time, depth, heads, dim, attend, device)
        self.loss = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.muon = torch.compile(orthogonal_step, dynamic=False) if compiled else orthogonal_step
        banks = self.model.matrices()
        self.state = [(torch.zeros_like(p), torch.zeros(p.shape[:2], device=device)) for p in banks]
        known = set(map(id, banks))
        rest = [p for p in self.model.parameters() if id(p) not in known]
        fused = torch.device(device).type == "cuda"
        self.adam = torch.optim.AdamW(rest, lr=0.003, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=fused)
        shape = (rows, time)
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, vocabulary, shape, generator=generator).to(device)
        self.targets = torch.randint(0, vocabulary, shape, generator=generator).to(device)

    def step(self):
        """The loss is returned as a tensor: reading it would wait."""
        total = 0.0
        for part in range(self.parts):
            rows = slice(part * self.part_rows, (part + 1) * self.part_rows)
            loss = self.loss(self.tokens[rows], self.targets[rows]) / self.parts
            loss.backward()
            total = total + loss.detach()
        with torch.no_grad():
            for p, (buffer, second) in zip(self.model.matrices(), self.state):
                self.muon(p, p.grad, buffer, second, 0.02)
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        return total
