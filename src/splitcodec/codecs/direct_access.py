"""Direct access: mean and scale of every symbol from all that was decoded before it.

The paper's rival to the hyper-prior (de Andrade et al. 2026; for images Minnen et al. 2018): the
prediction sees the decoded latents of earlier tokens beside the side values, which may be left out
(`side_channels: 0`). With `history` it starts from the best linear prediction from the token
before, which the closed form knows without training. Each token waits for the one before, so
coding walks through a sequence token by token; keys and values of earlier tokens are kept, so that
a step costs one token. The encoder takes the same steps as the decoder, since rounding about a mean
decides what later means are. With `trellis` the channels of a token are quantised together
(`codecs.search`), once all else is trained.

Means that differ a little between machines do not change symbols, which only the encoder rounds;
what they change are the inputs of the next tokens, and so positions among the coding tables, which
`codecs.guard` settles. The networks see latents relative to their scales, clipped and normalised,
so that differences die away rather than grow with the number of tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.guard import Signals
from splitcodec.codecs.hyperparameters import DirectAccessHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known, in_steps
from splitcodec.codecs.networks import Past
from splitcodec.codecs.rounding import straight_through
from splitcodec.codecs.search import (
    GRID,
    LEAST_WEIGHT,
    ROUNDS,
    STEP,
    cheapest_symbols,
    error_weights,
    lengthening,
    pop_symbols,
)
from splitcodec.coding.entropy import Decoder
from splitcodec.densities.location_scale import (
    SCALES,
    TABLE_STEP,
    LocationScale,
    log_scales_at,
    table_positions,
)
from splitcodec.densities.two_quantisers import TwoQuantisers, values_of
from splitcodec.errors import InputError


@dataclass(frozen=True)
class _Walk:
    """What a walk finds of each token, (batch, tokens, kept), `base` (batch, tokens, channels).

    symbols and their tables int32, in float64 the values that they stand for, base, mean, and
    position of the scale among the tables.
    """

    symbols: Tensor
    values: Tensor
    tables: Tensor
    base: Tensor | float
    mean: Tensor
    positions: Tensor


class DirectAccess(ConditionalCodec):
    """Mean and scale of each symbol from latents of tokens < t and side values of tokens ≤ t."""

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: DirectAccessHyperparameters,
        kept: int = 0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary, context=kept)
        self.history = None
        if hyperparameters.history:
            self.history = nn.Parameter(torch.zeros(channels, channels))
            self.register_buffer("sink_energy", torch.tensor(torch.inf))
        if hyperparameters.trellis:
            weights = torch.full((kept,), LEAST_WEIGHT, dtype=torch.int32)
            self.register_buffer("error_weight", weights)
            if self.table_gain is None:
                self.table_gain = nn.Parameter(torch.ones(SCALES))

    @property
    def has_trellis(self) -> bool:
        """See TransformCodec."""
        return self.hyperparameters.trellis

    def family(self) -> LocationScale | TwoQuantisers:
        """See ConditionalCodec."""
        return TwoQuantisers() if self.hyperparameters.trellis else super().family()

    def start_from(self, klt: Klt) -> None:
        """Also the linear prediction of the closed form."""
        super().start_from(klt)
        if klt.history is not None:
            with torch.no_grad():
                self.history.copy_(klt.history)
                self.sink_energy.copy_(klt.sink_energy)

    def linear_maps(self) -> list[nn.Parameter]:
        """Also that of history, once it is there."""
        history = getattr(self, "history", None)
        return [*super().linear_maps(), *([] if history is None else [history])]

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """See TransformCodec; of a trellis the rate is that of the integer tables.

        In training only of one whose density has been replaced by one that has a derivative.
        """
        if self.training and isinstance(self.latent_density, TwoQuantisers):
            raise InputError("a trellis does not learn: call eval() first, or train without it")
        if self.training or not self.has_trellis:
            return super().estimate(deviation, known)
        finite = deviation.isfinite().all(-1)  # integers know of nothing else
        deviation = deviation.where(finite[..., None], 0)
        side = self.side(self.latent(deviation), known).round()
        walk = self._quantised(self.exact().latent(deviation.double()), known, side)
        tables = self.tables("latent")
        bits = self.latent_density.bits(walk.symbols, walk.tables, tables).sum(-1)
        if self.side_density:
            bits = bits + self.side_density.bits(side).sum(-1)
        return self._decoded(walk, known), bits.where(finite, torch.nan)

    def predict(
        self, deviation: Tensor, known: Known, latent: Tensor, side: Tensor
    ) -> tuple[Tensor | float, Tensor, Tensor]:
        """In training all tokens at once, with rounded latents as context; in evaluation token by
        token, as coding does."""
        if not self.training:
            walk = self._quantised(latent.double(), known, side)
            base = walk.base.to(latent) if isinstance(walk.base, Tensor) else walk.base
            return base, walk.mean.to(latent), log_scales_at(walk.positions).to(latent)
        rounded = self._rounded(latent, known)
        earlier = functional.pad(rounded[:, :-1], (0, 0, 1, 0))
        inputs = self.with_level(torch.cat([self.normalised(earlier), side], -1), known)
        mean, log_scale = self.parameters_from(self.prediction(inputs), known)
        if self.history is None:
            return 0.0, mean, log_scale
        base = self._from_history(self._approximately_decoded(deviation, known) + known.offsets)
        return base, mean + self.latent(base), log_scale

    def start(self, batch: int = 1, tokens: int = 64) -> Past:
        """See TransformCodec."""
        past = super().start(batch, tokens)
        past.latent, past.deviation = (
            torch.zeros(batch, width, dtype=torch.float64, device=self.mean.device)
            for width in (self.kept, self.channels)
        )
        return past

    def quantise(
        self, deviation: Tensor, latent: Tensor, known: Known, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """See ConditionalCodec."""
        exact = self.exact().latent(deviation.double())
        walk = self._quantised(exact, known, side, past)
        return walk.symbols, walk.tables, Signals.everywhere(walk.positions)

    def dequantise(
        self,
        coder: Decoder,
        signals: Signals,
        known: Known,
        side: Tensor,
        mask: Tensor,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        tables = self.tables("latent").cpu()

        def popped(token: int, mean: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | int]:
            indexes, there = signals.indexes(positions[:, None], token)[:, 0], mask[:, token]
            if not self.has_trellis:
                return coder.pop(indexes.masked_fill_(~there, -1), tables), 0
            found = pop_symbols(coder, indexes.T[..., None].cpu(), there.cpu(), tables)
            return tuple(part[..., 0].T.to(mask.device) for part in found)

        walk = self._walk(known, side, popped, past)
        return self._decoded(walk, known), walk.symbols

    @torch.no_grad()
    def put_trellis(
        self,
        deviation: Tensor,
        known: Known,
        where: Tensor,
        sensitivity: Tensor,
        rate_weight: float,
    ) -> Tensor:
        """Quantise with a trellis from now on, at λ = `rate_weight` (nats a bit).

        Steps become longer, and weights, tables and gains are found on `deviation` (batch, tokens,
        channels), of which tokens `where` (batch, tokens) count, at the levels of `known`;
        `sensitivity` (channels, channels). The codec has been trained without. Returns by how much
        the gains are larger for it, (tables,).
        """
        self._lengthen_steps(STEP)
        weights = error_weights(self.squared_steps(sensitivity), rate_weight)
        self.error_weight.copy_(weights)
        learned = self.table_gain.clone()
        side = self.side(self.latent(deviation), known).round()
        latent = self.exact().latent(deviation.double())
        for _ in range(ROUNDS):
            walk = self._quantised(latent, known, side)
            self.latent_density.count(walk.symbols[where].abs(), walk.tables[where])
            wanted = in_steps(latent - walk.mean, known.steps)[where].flatten()
            values, rows = walk.values[where].flatten(), walk.positions[where].round().flatten()
            sums = wanted.new_zeros(2, SCALES)
            sums.index_add_(1, rows.long(), torch.stack([wanted.square(), wanted * values]))
            longer = lengthening(*sums).to(learned)
            self.table_gain.copy_(learned * longer)
            self.update()
        return longer

    def _lengthen_steps(self, ratio: float) -> None:
        """What is coded stays as it is, at steps that are `ratio` times as long."""
        self.analysis /= ratio
        self.synthesis *= ratio
        self.log_scale -= math.log(ratio)
        for parameter in self.prediction[-1].parameters():
            parameter[: self.kept] /= ratio
        # Scales lie as many tables lower.
        tables = torch.arange(SCALES) + math.log(ratio) / TABLE_STEP
        lower = tables.long().clamp(max=SCALES - 2)
        share = (tables - lower).clamp(max=1).to(self.table_gain)
        gain = self.table_gain
        gain.copy_((1 - share) * gain[lower] + share * gain[lower + 1])

    def _decoded(self, walk: _Walk, known: Known) -> Tensor:
        """The deviation that a walk leads to, float32."""
        base = walk.base.float() if isinstance(walk.base, Tensor) else walk.base
        increment = self.increment(walk.values.float(), walk.positions, known).float()
        return self.decoded(base, walk.mean.float(), increment)

    def _from_history(self, earlier: Tensor) -> Tensor:
        """The linear prediction of each token from the one before.

        `earlier` (batch, tokens, channels): decoded, less the mean of all tokens; the first token
        has none before.
        """
        usable = earlier.square().sum(-1, keepdim=True) < self.sink_energy
        return functional.pad((earlier * usable)[:, :-1] @ self.history.T, (0, 0, 1, 0))

    def _rounded(self, latent: Tensor, known: Known) -> Tensor:
        """A latent rounded to steps of its tokens, with the gradient of the latent."""
        if known.levels is None:
            return straight_through(latent)
        return straight_through(in_steps(latent, known.steps)) * known.steps.to(latent)

    def _approximately_decoded(self, deviation: Tensor, known: Known) -> Tensor:
        """What decoding will give, had every token been predicted from the exact one before.

        The error that a true walk would make has the same statistics, and all tokens are computed
        at once.
        """
        with torch.no_grad():
            base = self._from_history(deviation + known.offsets)
            symbols = in_steps(self.latent(deviation - base), known.steps).round()
            positions = table_positions(self.log_scale, 0.0 * symbols, known.shift)
            return base + self.reconstruct(self.increment(symbols, positions, known).to(base))

    def _quantised(
        self, latent: Tensor, known: Known, side: Tensor, past: Past | None = None
    ) -> _Walk:
        """The walk that the decoder will take."""
        costs = self.latent_density.costs(self.tables("latent")) if self.has_trellis else None

        def chosen(token: int, mean: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | int]:
            residual = in_steps(latent[:, token] - mean, known.at(token).steps)
            if costs is None:
                return residual.round(), 0
            latents = (GRID * residual).round()
            return cheapest_symbols(latents, self.error_weight, positions.round(), costs)

        return self._walk(known, side, chosen, past)

    @torch.no_grad()
    def _walk(
        self,
        known: Known,
        side: Tensor,
        symbols_of: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor | int]],
        past: Past | None,
    ) -> _Walk:
        """From token to token, in float64.

        `symbols_of` finds a token's symbols, and which quantisers they are of, from its number and
        their mean and position.
        """
        batch, tokens, _ = side.shape
        exact = self.exact()
        past = past or self.start(batch, tokens)
        steps = []
        for token, values in enumerate(side.double().unbind(1)):
            own = known.at(token)
            inputs = torch.cat([exact.normalised(past.latent), values], -1)
            inputs = exact.with_level(inputs, own)
            outputs = exact.prediction.step(inputs, past.memories["prediction"])
            mean, positions = exact.positions_from(outputs, own)
            base = past.deviation[:, :0]
            if exact.history is not None:
                base = exact._from_history(past.deviation[:, None].expand(-1, 2, -1))[:, 1]
                mean = mean + exact.latent(base)
            symbols, shifted = symbols_of(token, mean, positions)
            values = symbols.double()
            if self.has_trellis:
                values = values_of(symbols, shifted, torch.float64)
            past.latent = mean + own.steps * values
            if exact.history is not None:
                decoded = exact.decoded(base, mean, exact.increment(values, positions, own))
                past.deviation = decoded + own.offsets.double()
            tables = positions.round().to(torch.int32)
            tables = torch.add(tables, shifted, alpha=SCALES)
            steps.append((symbols.to(torch.int32), values, tables, base, mean, positions))
        walk = _Walk(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
        return replace(walk, base=0.0) if self.history is None else walk
