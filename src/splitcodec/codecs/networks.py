"""The small causal transformers inside learned codecs, and what they remember between steps."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Memory:
    """Keys and values of the tokens so far; each (batch, heads, room, width / heads)."""

    keys: Tensor
    values: Tensor
    tokens: int = 0

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of some tokens more; returns all so far."""
        start, self.tokens = self.tokens, self.tokens + key.shape[2]
        if self.tokens > self.keys.shape[2]:
            self.keys, self.values = self._with_room(self.keys), self._with_room(self.values)
        self.keys[:, :, start : self.tokens] = key
        self.values[:, :, start : self.tokens] = value
        return self.keys[:, :, : self.tokens], self.values[:, :, : self.tokens]

    def _with_room(self, kept: Tensor) -> Tensor:
        """At least twice as much, so that a token costs the same however many there are."""
        return functional.pad(kept, (0, 0, 0, max(kept.shape[2], self.tokens)))


@dataclass
class Past:
    """What one end of a stream remembers of the `tokens` so far.

    `memories` of each network by its name; `latent` (batch, kept) and `deviation` (batch, channels)
    float64: as decoded, of the last token.
    """

    tokens: int = 0
    memories: dict[str, list[Memory]] = field(default_factory=dict)
    latent: Tensor | None = None
    deviation: Tensor | None = None

    def copy(self) -> Self:
        """A past that goes on by itself; what is remembered is shared, and only added to."""
        memories = {name: list(map(replace, own)) for name, own in self.memories.items()}
        return replace(self, memories=memories)


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

    def forward(self, states: Tensor, memory: Memory | None = None) -> Tensor:
        """States of the same shape; token t sees tokens ≤ t, those of an earlier call by memory."""
        parts = self.query_key_value(self.attention_norm(states)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        earlier = memory.tokens if memory else 0
        if memory:
            key, value = memory.extend(key, value)
        several = query.shape[2] > 1
        visible = None
        if several and earlier:
            visible = states.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(earlier)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, is_causal=several and not earlier
        )
        states = states + self.mixed(attended.transpose(1, 2).flatten(-2))
        return states + self.feed(self.feed_norm(states))

    def at(self, states: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """What `forward` gives at some places only, (places, width); all are needed as context."""
        normed, width = self.attention_norm(states), states.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        parts = functional.linear(normed, weight[width:], bias[width:])
        keys, values = parts.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries = functional.linear(normed[rows, tokens], weight[:width], bias[:width])
        queries = queries.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        attended = torch.empty_like(queries)
        for row in rows.unique().tolist():
            own = rows == row
            visible = torch.arange(states.shape[1], device=tokens.device) <= tokens[own, None]
            attended[:, own] = functional.scaled_dot_product_attention(
                queries[None, :, own], keys[row, None], values[row, None], attn_mask=visible
            )[0]
        chosen = states[rows, tokens] + self.mixed(attended.transpose(0, 1).flatten(-2))
        return chosen + self.feed(self.feed_norm(chosen))


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

    def memories(self, batch: int, tokens: int) -> list[Memory]:
        """Room for `tokens` tokens of `batch` sequences, one memory a block; it grows."""
        blocks = list(self)[1:-2]
        shapes = [(batch, b.heads, tokens, b.mixed.in_features // b.heads) for b in blocks]
        like = self[0].weight
        return [Memory(like.new_empty(shape), like.new_empty(shape)) for shape in shapes]

    def forward(self, inputs: Tensor, memories: list[Memory] | None = None) -> Tensor:
        """Outputs (batch, tokens, outputs); with memories, of the tokens that come next.

        In pieces as on whole sequences, up to rounding, and each token at its own cost.
        """
        return self.outputs(self.states(inputs, memories))

    def states(self, inputs: Tensor, memories: list[Memory] | None = None) -> Tensor:
        """What `outputs` are computed of, (batch, tokens, width)."""
        first, *blocks, _, _ = self
        states = first(inputs)
        for block, memory in zip(blocks, memories or [None] * len(blocks), strict=True):
            states = block(states, memory)
        return states

    def outputs(self, states: Tensor) -> Tensor:
        """Of states (…, width), each token by itself."""
        *_, norm, last = self
        return last(norm(states))

    def at(self, inputs: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """Outputs at some places only, (places, outputs); the last block works for them alone."""
        first, *blocks, _, _ = self
        states = first(inputs)
        for block in blocks[:-1]:
            states = block(states)
        chosen = blocks[-1].at(states, rows, tokens) if blocks else states[rows, tokens]
        return self.outputs(chosen)

    def step(self, inputs: Tensor, memories: list[Memory]) -> Tensor:
        """Outputs (batch, outputs) of the next token from its inputs (batch, inputs)."""
        return self(inputs[:, None], memories)[:, 0]
