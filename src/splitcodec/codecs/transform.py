"""What the codecs that quantise in a transformed space share: mean, transform, sinks.

latent u = A (y − μ), in units of the quantiser's step; reconstruction ŷ = B û + μ. A keeps only
the channels that carry bits, so A is (kept, channels) and B (channels, kept).

Massive activations. From the middle of a model on, the first token of a sequence (and rarely
another) is a *sink* thousands of times larger than the rest. The first position therefore has a
mean of its own, which with a constant start token leaves nothing to code; any other sink simply
falls outside the coding tables, where the coder escapes: its symbols stay exact.

A sequence's payload is a u32, little-endian, the CRC-32C of its symbols, and one rANS stream of
them: token ids where they are sent, levels where there are some, then what the codec adds.

All that decides a symbol is as float64 computes it, so that symbols do not depend on threads,
batch, padding or device, nor on whether tokens come at once or one by one. The reconstruction is
float32: it is the same up to the order of summation, about 1e-6 of its size.
"""

import copy
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.activations.store import mask_of
from splitcodec.codecs.base import Estimate, check_count
from splitcodec.codecs.checksum import seal, trim, unseal
from splitcodec.codecs.guard import plain_arithmetic
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.levels import Known, Levels, in_steps
from splitcodec.codecs.networks import Past
from splitcodec.codecs.rounding import distances, doubtful, product
from splitcodec.codecs.streaming import CheckedStream
from splitcodec.codecs.tables import CodecWithTables
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.channelwise import ChannelwiseDensity
from splitcodec.densities.factorised import DeepFactorised
from splitcodec.densities.fourier import FourierBasis
from splitcodec.densities.location_scale import SCALES
from splitcodec.densities.tokens import TokenUnigram
from splitcodec.errors import BitstreamError, InputError

CHANNELWISE: dict[str, type[ChannelwiseDensity]] = {
    "factorised": DeepFactorised,
    "fourier": FourierBasis,
}
"""Densities with a shape a channel, by the names of the hyper-parameters."""
_FLOAT32_ERROR = 2.0**-20
"""Bound on a float32 dot product's error, relative to its vectors' lengths: sixteen roundings; for
vectors of more than `_FLOAT32_CHANNELS` it grows with them."""
_FLOAT32_CHANNELS = 2048
_LARGEST_LATENT = 2.0**25
"""In the finest steps of a codec: symbols have 32 bits, tables may start 2²⁸ away, escapes double
what they code, and a trellis knows sixteenths, of deviations that may be somewhat longer."""
_MOST_BYTES = 12
"""That a symbol can need: an escape takes six and a half, a signal of its table four."""
_FEW = 1 / 4
"""Places a token that cost less one by one than all values of all tokens together."""


class TransformCodec(CodecWithTables):
    """A codec with an affine transform before and after the quantiser.

    Subclasses code the deviation of the representation from its mean. With the hyper-parameter
    `tokens` the mean is that of the token at hand: ids go first, and the mean is linear in the
    head's row of the id, which `attach` provides. With `levels` each token is quantised at a step
    of its own, and what is decoded has a gain for each coding table, which may learn.
    """

    hyperparameters: KltHyperparameters

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: KltHyperparameters,
        kept: int,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters)
        self.kept = kept
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("first_mean", torch.zeros(channels))
        self.analysis = nn.Parameter(torch.zeros(kept, channels), requires_grad=False)
        self.synthesis = nn.Parameter(torch.zeros(channels, kept), requires_grad=False)
        self.token_density = TokenUnigram(vocabulary) if hyperparameters.tokens else None
        self.token_map = None
        if hyperparameters.tokens:
            self.token_map = nn.Parameter(torch.zeros(channels, channels), requires_grad=False)
            self.register_buffer("row_mean", torch.zeros(channels))
        self.levels = self.table_gain = None
        if hyperparameters.levels:
            self.levels = Levels(channels, hyperparameters.levels)
            self.table_gain = nn.Parameter(torch.ones(SCALES), requires_grad=False)
        self._embedding: Tensor | None = None
        self._exact: tuple[list[tuple[int, int]], Self] | None = None

    @property
    def has_trellis(self) -> bool:
        """Whether the channels of a token are quantised together (`codecs.search`)."""
        return False

    @property
    def symbols_a_token(self) -> int:
        """How many at most, if every codec sent level and id: latents, and three for these."""
        return self.kept + 3

    @property
    def sends_tokens(self) -> bool:
        """See Codec."""
        return self.token_density is not None

    def attach(self, embedding: Tensor) -> None:
        """See Codec; raises InputError for the head of another model."""
        if self.sends_tokens:
            if embedding.shape != (len(self.token_density.counts), self.channels):
                raise InputError(f"the head is {tuple(embedding.shape)}, not of the codec's model")
            self._embedding = embedding

    def forward(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> Estimate:
        """See Codec; in training, noise stands for rounding in the rate, and the gradient passes
        rounding in the reconstruction (Minnen and Singh 2020)."""
        representation, mask, tokens = self.inputs(representation, lengths, tokens)
        means, offsets = self.means(tokens, representation.shape[1])
        known = Known(offsets, self.choose_levels(representation))
        deviation, bits = self.estimate(representation - means, known)
        if self.levels:
            bits = bits + self.levels.bits(known.levels[..., 0], self.tables("level"))
        if self.sends_tokens:
            bits = bits + self.token_density.bits(tokens, self.tables("token"))
        return Estimate((deviation + means) * mask[..., None], bits * mask)

    @torch.no_grad()
    def compress(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> list[bytes]:
        """One stream a sequence."""
        streams, symbols = self.write(representation, lengths, tokens)
        return [seal(*row) for row in zip(streams, *symbols, strict=True)]

    @torch.no_grad()
    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """The reconstruction of forward()."""
        bodies, checksums = unseal(streams)
        reconstruction, symbols = self.read(bodies, lengths)
        checksums.check(*symbols)
        return reconstruction

    def stream(self) -> CheckedStream:
        """See Codec."""
        return CheckedStream(self)

    def start(self, batch: int = 1, tokens: int = 64) -> Past:
        """The past of streams that have not begun; at first there is room for `tokens`."""
        return Past()

    @torch.no_grad()
    def write(
        self,
        representation: Tensor,
        lengths: Tensor,
        tokens: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[list[bytes], list[list[Tensor]]]:
        """One rANS stream a sequence, and its symbols as `trim` gives them.

        With a `past`, of the tokens that come next, which then are part of it.
        """
        representation, mask, tokens = self.inputs(representation, lengths, tokens)
        mask = mask[..., None]
        self._check_values(representation)
        first = past.tokens if past else 0
        with plain_arithmetic():
            means, offsets = self.means(tokens, representation.shape[1], first)
        coder = Encoder()
        if self.sends_tokens:
            self.token_density.encode(coder, tokens, mask[..., 0], self.tables("token"))
        known = Known(offsets, self.choose_levels(representation))
        if self.levels:
            levels = self.levels.symbols(known.levels).to(torch.int32)
            coder.put(levels, _first_table(mask), self.tables("level"))
        with plain_arithmetic():
            deviation = representation.to(means.dtype) - means
            symbols = self.encode(coder, deviation, known, mask, past)
        if past:
            past.tokens += representation.shape[1]
        sent = [tokens.to(torch.int32)] if self.sends_tokens else []
        sent += [levels] if self.levels else []
        return coder.finish(), trim(lengths, *sent, *symbols)

    @torch.no_grad()
    def read(
        self, streams: list[bytes], lengths: Tensor, past: Past | None = None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The reconstruction of what was written, and the symbols in the same form."""
        check_count(streams, lengths)
        for stream, count in zip(streams, lengths.tolist(), strict=True):
            # The coder takes many times a stream's memory.
            if len(stream) > _MOST_BYTES * (count * self.symbols_a_token + 2):
                raise BitstreamError(
                    f"a stream of {len(stream)} bytes is too long for {count} tokens: it is damaged"
                )
        mask = mask_of(lengths.to(self.mean.device), int(lengths.max()))[..., None]
        coder, tokens = Decoder(streams), None
        if self.sends_tokens:
            tokens = self.token_density.decode(coder, mask[..., 0], self.tables("token"))
        with plain_arithmetic():
            means, offsets = self.means(tokens, mask.shape[1], past.tokens if past else 0)
        known = Known(offsets)
        if self.levels:
            levels = coder.pop(_first_table(mask), self.tables("level"))
            known = Known(offsets, self.levels.levels(levels))
        with plain_arithmetic():
            deviation, symbols = self.decode(coder, known, mask, past)
        coder.finish()
        if past:
            past.tokens += mask.shape[1]
        sent = [tokens.to(torch.int32)] if self.sends_tokens else []
        sent += [levels] if self.levels else []
        reconstruction = deviation.add_(means)
        if not mask.all():
            reconstruction *= mask
        return reconstruction, trim(lengths, *sent, *symbols)

    def exact(self) -> Self:
        """This codec in float64, for all that decides symbols; made once and after every change."""
        tensors = [*self.parameters(), *self.buffers()]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._exact is None or self._exact[0] != state:
            self._exact = None
            shared = {id(self._embedding): self._embedding}
            with torch.inference_mode(False):  # what is made in it is of no use outside
                self._exact = state, copy.deepcopy(self, shared).double()
        return self._exact[1]

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """What is decoded of a deviation (batch, tokens, channels), and bits (batch, tokens)."""
        raise NotImplementedError

    def encode(
        self, coder: Encoder, deviation: Tensor, known: Known, mask: Tensor, past: Past | None
    ) -> list[Tensor]:
        """Put the symbols of a deviation into the coder; returns them. mask (batch, tokens, 1)."""
        raise NotImplementedError

    def decode(
        self, coder: Decoder, known: Known, mask: Tensor, past: Past | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The decoded deviation (batch, tokens, channels), and the symbols."""
        raise NotImplementedError

    def means(self, tokens: Tensor | None, count: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """The mean at each of `count` positions, and the part of it that is due to token ids.

        Both (tokens, channels), or (batch, tokens, channels) with token ids. `first`: the number of
        the first of these tokens.
        """
        opening = 0 if first else 1
        positions = torch.cat(
            [self.first_mean.expand(opening, -1), self.mean.expand(count - opening, -1)]
        )
        if self.token_map is None:
            return positions, torch.zeros_like(positions)
        if self._embedding is None or tokens is None:
            raise InputError(f"{self.name} sends token ids; give it tokens and the model (--model)")
        low, high = (int(extreme) for extreme in tokens.aminmax())
        if not 0 <= low <= high < len(self._embedding):
            raise InputError(
                f"token ids go from {low} to {high}, where the codec knows 0 to "
                f"{len(self._embedding) - 1}; decode with --activations keeps them"
            )
        rows = self._embedding[tokens[:, opening:].to(self._embedding.device)].to(positions.device)
        # Rounded once to float32, so that it does not matter how many tokens come together.
        found = (rows.double() - self.row_mean.double()) @ self.token_map.double().T
        offsets = functional.pad(found.to(positions), (0, 0, opening, 0))
        return positions + offsets, offsets

    def latent(self, deviation: Tensor) -> Tensor:
        """(batch, tokens, kept), in quantiser steps of level zero."""
        return product(deviation, self.analysis)

    def float32_errors(self) -> Tensor:
        """Bound on what float32 does to each latent of a deviation of length one, (kept,)."""
        longer = max(1.0, self.channels / _FLOAT32_CHANNELS)
        return _FLOAT32_ERROR * longer * self.analysis.norm(dim=-1)

    def squared_steps(self, sensitivity: Tensor) -> Tensor:
        """Twice what an error of one step in each latent costs in nats, (kept,) float64.

        `sensitivity` (channels, channels), with the ridge that the closed form gave it.
        """
        ridge = self.hyperparameters.shrinkage * sensitivity.diagonal().mean()
        synthesis = self.synthesis.detach().double()
        return (synthesis * (sensitivity @ synthesis + ridge * synthesis)).sum(0)

    def latent_at(self, deviation: Tensor, tokens: Tensor, channels: Tensor) -> Tensor:
        """Latents of deviations (tokens, channels) at some places, (places,) float64."""
        exact = self.exact().analysis
        if len(tokens) > _FEW * len(deviation):
            return (deviation.double() @ exact.T)[tokens, channels]
        return (deviation[tokens].double() * exact[channels]).sum(-1)

    def rounded_latent(self, deviation: Tensor, steps: Tensor | float, errors: Tensor) -> Tensor:
        """Of deviations (tokens, channels); (tokens, kept) whole numbers, as float64 finds them."""
        latent = in_steps(self.latent(deviation), steps)
        symbols = latent.round()
        off = distances(latent, symbols)
        tokens, channels = doubtful(deviation, off, errors, steps=steps)
        if len(tokens):
            exact = self.latent_at(deviation, tokens, channels)
            own = steps[tokens, 0] if isinstance(steps, Tensor) else steps
            symbols[tokens, channels] = in_steps(exact, own).round_().to(symbols)
        return symbols

    def increment(self, symbols: Tensor, positions: Tensor | None, known: Known) -> Tensor:
        """What symbols add to a latent: (batch, tokens, kept), in steps of level zero.

        `positions`: of their scales among the coding tables. Gains between two tables are
        interpolated, so that what two machines decode differs as little as their positions do.
        """
        if self.table_gain is None:
            return symbols
        lower = positions.detach().floor().long().clamp(0, SCALES - 2)
        share = positions - lower
        gain = (1 - share) * self.table_gain[lower] + share * self.table_gain[lower + 1]
        return gain * known.steps * symbols

    def reconstruct(self, latent: Tensor) -> Tensor:
        """The deviation (batch, tokens, channels) of a decoded latent."""
        return product(latent, self.synthesis)

    @staticmethod
    def shape_of_state(state: dict[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments that only a saved state tells."""
        shape = {"kept": len(state["analysis"])}
        if "token_density.counts" in state:
            shape["vocabulary"] = len(state["token_density.counts"])
        return shape

    def densities(self) -> dict[str, nn.Module]:
        """What the symbols are coded under, by the name of its tables; subclasses add theirs."""
        token = {"token": self.token_density} if self.token_density else {}
        return token | ({"level": self.levels} if self.levels else {})

    def linear_maps(self) -> list[nn.Parameter]:
        """The matrices that the closed form knows, which learn slowly."""
        token_map = [] if self.token_map is None else [self.token_map]
        return [self.analysis, self.synthesis, *token_map]

    def start_from(self, klt: "TransformCodec") -> None:
        """Take the transform of the closed-form codec of the same λ."""
        with torch.no_grad():
            for name in ("mean", "first_mean", "analysis", "synthesis"):
                getattr(self, name).copy_(getattr(klt, name))
            if self.sends_tokens:
                self.token_map.copy_(klt.token_map)
                self.row_mean.copy_(klt.row_mean)
                self.token_density.counts.copy_(klt.token_density.counts)
            if self.levels:
                self.levels.load_state_dict(klt.levels.state_dict())

    def noisy(self, values: Tensor) -> Tensor:
        """Values plus uniform noise in training, rounded values otherwise."""
        return values + torch.rand_like(values) - 0.5 if self.training else values.round()

    def _check_values(self, representation: Tensor) -> None:
        """Raise InputError for values that are no number, or too large for 32 bits of symbol."""
        most = functional.pad(self.analysis.norm(dim=-1), (0, 1)).max()  # 0 if none is kept
        if self.levels:
            most = most / self.levels.finest
        # The largest value is found quickly, and bounds each latent.
        size = max(abs(float(extreme)) for extreme in representation.aminmax())
        if math.sqrt(self.channels) * size * most < _LARGEST_LATENT:
            return
        if not representation.isfinite().all():
            raise InputError("the representation has values that are infinite or no number")
        if (representation.double().norm(dim=-1) * most).max() > _LARGEST_LATENT:
            raise InputError(
                f"the representation has values up to {size:.2g}, too large to be coded; check the "
                "model, or train the codec on such values"
            )

    def choose_levels(self, representation: Tensor) -> Tensor | None:
        """(batch, tokens, 1) int64, where tokens have levels."""
        return self.levels.choose(representation)[..., None] if self.levels else None


def _first_table(mask: Tensor) -> Tensor:
    """Indexes of the only table of a part of the stream; of the mask's shape."""
    return torch.where(mask, 0, -1).to(torch.int32)
