"""The cost of naming a token: a unigram model of token ids.

Ids are ranked by how often they were seen, and a rank is coded as two digits, so that tables of
2^16 steps can hold a vocabulary of any size. Unseen tokens share the mass of those seen once
(Good 1953).
"""

import torch
from torch import Tensor, nn

from splitcodec.coding.entropy import PRECISION, Decoder, Encoder, Tables, quantise_tables
from splitcodec.densities.latest import Latest

DIGIT = 256
"""Values of the lower digit of a rank."""


class TokenUnigram(nn.Module):
    """Probability of each of `vocabulary` token ids, from how often it was seen."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(vocabulary, dtype=torch.int64))
        self._ranked = Latest(_ranked)

    def count(self, tokens: Tensor) -> None:
        """Add the frequencies of `tokens` (any shape, int64)."""
        self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts))

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """Of every id, (vocabulary,) float64."""
        counts = self.counts.double()
        if not counts.any():
            return torch.full_like(counts, 1 / len(counts))
        unseen = ((self.counts == 1).sum() / counts.sum()).clamp_min(1e-3)
        return (1 - unseen) * counts / counts.sum() + unseen / len(counts)

    def ranks(self) -> Tensor:
        """Of every id, 0 for the most frequent; (vocabulary,) int64."""
        return self._ranked(self.counts)[1]

    def tokens(self, ranks: Tensor) -> Tensor:
        """The ids of ranks; a rank that no id has gives the last."""
        return self._ranked(self.counts)[0][ranks.clamp(0, len(self.counts) - 1)]

    def bits(self, tokens: Tensor, tables: Tables) -> Tensor:
        """Code length of each id under integer `tables`; same shape, float32."""
        ranks = self.ranks()[tokens]
        high, low = ranks // DIGIT, ranks % DIGIT
        frequencies = tables.cumulative.diff(dim=1)
        mass = frequencies[0, high].double() * frequencies[1 + high, low]
        return (2 * PRECISION - mass.log2()).float()

    def encode(self, coder: Encoder, tokens: Tensor, mask: Tensor, tables: Tables) -> None:
        """Put ids into the coder, first the upper digits of all, then the lower.

        tokens and mask (batch, tokens); ids where the mask is false are left out.
        """
        ranks = self.ranks()[tokens]
        high, low = (ranks // DIGIT).to(torch.int32), (ranks % DIGIT).to(torch.int32)
        indexes = torch.cat([torch.zeros_like(high), 1 + high], 1)
        indexes = torch.where(torch.cat([mask, mask], 1), indexes, -1)
        coder.put(torch.cat([high, low], 1), indexes, tables)

    def decode(self, coder: Decoder, mask: Tensor, tables: Tables) -> Tensor:
        """Take ids off the coder, (batch, tokens) int64; 0 where the mask is false."""
        high = coder.pop(torch.where(mask, 0, -1).to(torch.int32), tables)
        high = high.clamp(0, len(tables.sizes) - 2)
        low = coder.pop(torch.where(mask, 1 + high, -1).to(torch.int32), tables)
        return self.tokens((DIGIT * high + low).long()) * mask

    @torch.no_grad()
    def tables(self) -> Tables:
        """First the table of the upper digit, then one of the lower digit for each upper one."""
        ranked = self.probabilities()[self._ranked(self.counts)[0]]
        digits = list(ranked.split(DIGIT))
        upper = torch.stack([digit.sum() for digit in digits])
        return quantise_tables([upper, *(d / d.sum() for d in digits)], [0] * (1 + len(digits)))

    def penalty(self) -> Tensor:
        """What the density adds to the training loss: nothing."""
        return torch.zeros(())


def _ranked(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The ids of all ranks, and the ranks of all ids."""
    by_rank = counts.argsort(descending=True, stable=True)
    return by_rank, by_rank.argsort()
