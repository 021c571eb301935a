"""The small causal transformers inside learned codecs."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalBlock(nn.Module):
    """Pre-norm attention over earlier tokens and a feed-forward layer; (batch, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: Tensor) -> Tensor:
        """States of the same shape; token t sees tokens ≤ t."""
        parts = self.query_key_value(self.attention_norm(states)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.mixed(attended.transpose(1, 2).flatten(-2))
        return states + self.feed(self.feed_norm(states))


class CausalNetwork(nn.Sequential):
    """inputs → width → blocks → outputs, causal throughout; outputs start at zero if asked."""

    def __init__(
        self, inputs: int, outputs: int, width: int, layers: int, heads: int, zero: bool = False
    ) -> None:
        last = nn.Linear(width, outputs)
        if zero:
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
        blocks = [CausalBlock(width, heads) for _ in range(layers)]
        super().__init__(nn.Linear(inputs, width), *blocks, nn.LayerNorm(width), last)
