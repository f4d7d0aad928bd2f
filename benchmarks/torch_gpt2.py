"""GPT-2 and its training step in plain PyTorch, as one would write it: what ours is timed against.

Knows nothing of this package but the names in its exported weights.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self, C: int, H: int) -> None:
        super().__init__()
        self.H = H
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.c_fc, self.c_out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.H, -1).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, n_layer: int, n_head: int, n_embd: int, n_positions: int, V: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, n_embd), nn.Embedding(n_positions, n_embd)
        self.h = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)

    def load(self, path: str) -> None:
        """Weights in Hugging Face's names and Conv1D layout."""
        names = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj"}
        names |= {"mlp.c_fc": "c_fc", "mlp.c_proj": "c_out"}
        state = {}
        for name, value in load_file(path).items():
            linear = next((theirs for theirs in names if theirs in name), None)
            ours = name.replace(linear, names[linear]) if linear else name
            state[ours] = value.T if linear and name.endswith("weight") else value
        self.load_state_dict(state)


class Step:
    """Forward, backward, clipping and AdamW: eager, in float32 or with bfloat16 autocast."""

    def __init__(self, model: GPT, betas: tuple[float, float], limit: float, low: bool) -> None:
        self.model, self.limit, self.low = model, limit, low
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=betas, eps=1e-8, weight_decay=0.0
        )

    def __call__(self, inputs, targets, weights, lr: float) -> float:
        """One step over numpy (B, T) arrays; `weights` says how much each target counts."""
        inputs, targets, weights = map(torch.from_numpy, (inputs, targets, weights))
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            logits = self.model(inputs)
            nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), reduction="none")
        loss = (nll * weights.flatten()).sum() / weights.sum()
        loss.backward()
        if self.limit:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        self.optimizer.step()
        return loss.item()
