"""What the codecs share that predict mean and scale of every symbol.

Side values: a causal transformer maps the latent to a few values a token, W, which are rounded and
coded first, under a density with a shape a channel. Prediction: a second causal transformer maps W,
and whatever context the codec has, to mean and scale of each latent, which is rounded about its
mean and coded under a location-scale family (Ballé et al. 2018; Minnen et al. 2018).

Decoding must find the encoder's tables again: the encoder takes those that float64 finds, and
signals the tables of scales that lie near a boundary between two (`codecs.guard`). In the stream
the side values of all tokens come first, where there are any, then the signals, then the latents.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.codecs.guard import Signals
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import UNIT, Known, in_steps
from splitcodec.codecs.networks import CausalNetwork, Memory, Past
from splitcodec.codecs.rounding import distances, near_half, straight_through
from splitcodec.codecs.transform import CHANNELWISE, TransformCodec
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.channelwise import ChannelwiseDensity
from splitcodec.densities.location_scale import (
    FAMILIES,
    HIGHEST_SCALE,
    LOWEST_SCALE,
    LocationScale,
    positions_of,
    table_positions,
)

_CLIP = 8.0
_LEVELS_AN_INPUT = 4.0
"""Levels to a unit of a network's input."""
NETWORK_ERROR = 2.0**-15
"""Bound on what float32 does to means and, in units of a table, positions: up to 7e-6 on the
embedded model. The encoder's alone, which turns to float64 where half of it is exceeded."""
_SIDE_ERROR = 2.0**-18
"""The same for side values, relative to a token's largest where that exceeds one. Smaller, since
less rests on it: what is sent decodes however it was rounded."""
_PROBED = 32
"""First tokens of each sequence, which always show what float32 does."""
_UNUSUAL = 8.0
"""Times the median length of a sequence's deviations: float32's errors grow with it."""


class ConditionalCodec(TransformCodec):
    """u = A (y − μ); W from u; u rounded about its predicted mean, under its predicted scale.

    `context`: the values a token that the prediction sees beside W.
    """

    hyperparameters: HyperpriorHyperparameters

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: HyperpriorHyperparameters,
        kept: int,
        vocabulary: int,
        context: int,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary)
        size = hyperparameters
        side, inner = size.side_channels, (size.width, size.layers, size.heads)
        level = 1 if size.levels else 0
        for matrix in self.linear_maps():
            matrix.requires_grad_()
        self.log_scale = nn.Parameter(torch.zeros(kept))
        self.side_analysis = CausalNetwork(kept + level, side, *inner) if side else None
        self.prediction = CausalNetwork(context + side + level, 2 * kept, *inner, zero=True)
        if size.levels:
            self.table_gain.requires_grad_()
        self.side_density = CHANNELWISE[size.side_density](side, spread=1.0) if side else None
        self.latent_density = self.family()
        self.update()

    @property
    def symbols_a_token(self) -> int:
        """See TransformCodec; side values too."""
        return super().symbols_a_token + self.hyperparameters.side_channels

    def family(self) -> nn.Module:
        """What the representation's own symbols are coded under, new."""
        return FAMILIES[self.hyperparameters.family]()

    def densities(self) -> dict[str, ChannelwiseDensity | LocationScale]:
        """Of the side values, if there are any, and of the latent."""
        side = {"side": self.side_density} if self.side_density else {}
        return super().densities() | side | {"latent": self.latent_density}

    def priors(self) -> list[nn.Parameter]:
        """The densities' parameters, gains, and the scales that the prediction starts from."""
        return [self.log_scale, *([self.table_gain] if self.levels else []), *super().priors()]

    def start_from(self, klt: Klt) -> None:
        """Take transform and scales from the closed-form codec of the same λ."""
        super().start_from(klt)
        with torch.no_grad():
            self.log_scale.copy_(klt.scales().log())

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """See TransformCodec."""
        latent = self.latent(deviation)
        side = self.noisy(self.side(latent, known))
        base, mean, log_scale = self.predict(deviation, known, latent, side)
        residual = in_steps(latent - mean, known.steps)
        rate = self.latent_density.bits(self.noisy(residual), log_scale.exp()).sum(-1)
        if self.side_density:
            rate = rate + self.side_density.bits(side).sum(-1)
        positions = None if self.table_gain is None else positions_of(log_scale)
        increment = self.increment(straight_through(residual), positions, known).to(mean)
        return self.decoded(base, mean, increment), rate

    def start(self, batch: int = 1, tokens: int = 64) -> Past:
        """See TransformCodec."""
        networks = {"prediction": self.exact().prediction, "side": self.exact().side_analysis}
        return Past(
            memories={name: net.memories(batch, tokens) for name, net in networks.items() if net}
        )

    def encode(
        self, coder: Encoder, deviation: Tensor, known: Known, mask: Tensor, past: Past | None
    ) -> list[Tensor]:
        """See TransformCodec."""
        latent = self.latent(deviation)
        side = self._side_symbols(deviation, latent, known, past)
        symbols, indexes, signals = self.quantise(deviation, latent, known, side, past)
        if self.side_density:
            coder.put(side, self._side_indexes(mask), self.tables("side"))
        signals.within(mask[..., 0]).put(coder, indexes.shape)
        if not mask.all():
            indexes.masked_fill_(~mask, -1)
        coder.put(symbols, indexes, self.tables("latent"))
        return [side, symbols]

    def decode(
        self, coder: Decoder, known: Known, mask: Tensor, past: Past | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Side values, then tables from them, then the latent."""
        side = torch.zeros(*mask.shape[:2], 0, dtype=torch.int32, device=mask.device)
        if self.side_density:
            side = coder.pop(self._side_indexes(mask), self.tables("side"))
        signals = Signals.pop(coder, torch.Size((*mask.shape[:2], self.kept)), mask.device)
        deviation, symbols = self.dequantise(coder, signals, known, side, mask, past)
        return deviation.float(), [side, symbols]

    def predict(
        self, deviation: Tensor, known: Known, latent: Tensor, side: Tensor
    ) -> tuple[Tensor | float, Tensor, Tensor]:
        """What the decoder will know of each token: base, mean and logarithm of the scale.

        `base` (batch, tokens, channels) is predicted of the deviation itself, mean and scale
        (batch, tokens, kept) of the latent, base included; the scale in the token's own steps.
        """
        raise NotImplementedError

    def quantise(
        self, deviation: Tensor, latent: Tensor, known: Known, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """Symbols and the tables of their scales, and what must be signalled.

        The first two (batch, tokens, kept) int32, as float64 finds them. `latent`: of the
        deviation, in float32; `side`: integer side values.
        """
        raise NotImplementedError

    def dequantise(
        self,
        coder: Decoder,
        signals: Signals,
        known: Known,
        side: Tensor,
        mask: Tensor,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]:
        """Decoded deviation and symbols (int32), taken off the coder; mask (batch, tokens, 1)."""
        raise NotImplementedError

    def decoded(self, base: Tensor | float, mean: Tensor, increment: Tensor) -> Tensor:
        """The deviation from base, mean and what symbols add; what is predicted is kept."""
        if not isinstance(base, Tensor):
            return self.reconstruct(mean + increment)
        return base + self.reconstruct(mean - self.latent(base) + increment)

    def side(self, latent: Tensor, known: Known, memories: list[Memory] | None = None) -> Tensor:
        """Side values before rounding, (batch, tokens, side)."""
        if self.side_analysis is None:
            return latent[..., :0]
        return self.side_analysis(self.with_level(self.normalised(latent), known), memories)

    def with_level(self, inputs: Tensor, known: Known) -> Tensor:
        """A network's inputs, and the level of each token where codecs have levels."""
        if self.levels is None:
            return inputs
        levels = torch.zeros_like(inputs[..., :1]) if known.levels is None else known.levels
        return torch.cat([inputs, levels.to(inputs) / _LEVELS_AN_INPUT], -1)

    def normalised(self, latent: Tensor) -> Tensor:
        """A latent as the networks see it: in its scales, and sinks clipped."""
        return (latent / self.log_scale.to(latent).exp()).clamp(-_CLIP, _CLIP)

    def parameters_from(self, outputs: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the scale of each latent from the prediction (…, 2 · kept).

        The mean in steps of level zero, the scale in those of the token.
        """
        mean, log_ratio = outputs.chunk(2, dim=-1)
        low, high = math.log(LOWEST_SCALE), math.log(HIGHEST_SCALE)
        log_scale = self.log_scale + log_ratio
        if known.levels is not None:
            log_scale = log_scale - UNIT * known.levels
        return mean, log_scale.clamp(low, high)

    def positions_from(self, outputs: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """Mean of each latent, and where its scale lies among the tables; of the outputs' type."""
        mean, log_ratio = outputs.chunk(2, dim=-1)
        return mean, table_positions(self.log_scale, log_ratio, known.shift)

    def _side_symbols(
        self, deviation: Tensor, latent: Tensor, known: Known, past: Past | None
    ) -> Tensor:
        """Integer side values (batch, tokens, side), as float64 finds them.

        On whole sequences float32 is faster and nearly always enough.
        """
        if self.side_analysis is None:
            return latent[..., :0].to(torch.int32)
        exact = self.exact()
        if past:
            latent = exact.latent(deviation.double())
            values = exact.side(latent, known, past.memories.get("side"))
            return values.round_().to(torch.int32)
        values = self.side(latent, known)
        symbols = values.round()
        sizes = functional.pad(values.abs(), (0, 1), value=1.0).amax(-1, keepdim=True)
        errors = _SIDE_ERROR * sizes
        unsure = near_half(distances(values, symbols), errors)
        unsure |= self._doubted(deviation, values, errors, known)[:, None]
        for row in unsure.any(-1).nonzero()[:, 0].tolist():
            tokens = unsure[row].nonzero()[:, 0]
            seen = slice(int(tokens[-1]) + 1)  # later tokens have no say
            inputs = exact.normalised(exact.latent(deviation[row, seen].double()))
            inputs = exact.with_level(inputs, known.rows((row, seen)))
            found = exact.side_analysis.at(inputs[None], torch.zeros_like(tokens), tokens)
            symbols[row, tokens] = found.round_().to(symbols)
        return symbols.to(torch.int32)

    def _doubted(self, deviation: Tensor, values: Tensor, errors: Tensor, known: Known) -> Tensor:
        """Sequences (batch,) whose side `values` float32 may have wrong by more than `errors`."""
        exact, first = self.exact(), slice(_PROBED)
        latent = exact.latent(deviation[:, first].double())
        probes = exact.side(latent, known.rows((slice(None), first)))
        wrong = ((probes - values[:, first]).abs() > errors[:, first] / 2).flatten(1).any(1)
        lengths = deviation.norm(dim=-1)
        return wrong | (lengths > _UNUSUAL * lengths.median(1, keepdim=True).values).any(1)

    def _side_indexes(self, mask: Tensor) -> Tensor:
        channels = torch.arange(
            self.hyperparameters.side_channels, dtype=torch.int32, device=mask.device
        )
        return torch.where(mask, channels, -1)
