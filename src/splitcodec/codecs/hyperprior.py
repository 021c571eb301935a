"""The paper's simplest codec: a hyper-prior alone predicts mean and scale of every symbol.

24 side values a token, and nothing else, tell mean and scale of the latent (de Andrade et al. 2026,
after Ballé et al. 2018 and Minnen et al. 2018), so all symbols of a sequence decode at once. In
frozen mode the quantiser sits behind a transform, which starts as the KLT's.
"""

from contextvars import ContextVar

import torch
from torch import Tensor

from splitcodec.codecs.conditional import NETWORK_ERROR, ConditionalCodec
from splitcodec.codecs.guard import BOUND, Signals
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.codecs.levels import Known, in_steps
from splitcodec.codecs.networks import Past
from splitcodec.codecs.rounding import blocks, distances, doubtful, near_half
from splitcodec.coding.entropy import Decoder
from splitcodec.errors import BitstreamError

_single_precision = ContextVar("single_precision", default=False)
"""Whether this thread is decoding in float32."""


class Hyperprior(ConditionalCodec):
    """Mean and scale of each symbol from the side values of tokens ≤ t."""

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: HyperpriorHyperparameters,
        kept: int = 0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary, context=0)

    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """See Codec; in float32, three times as fast, and if its checks fail in float64.

        float32 moves positions among the tables by some 1e-6, for which the guard band has room.
        """
        token = _single_precision.set(True)
        try:
            return super().decompress(streams, lengths)
        except BitstreamError:
            _single_precision.set(False)
            return super().decompress(streams, lengths)
        finally:
            _single_precision.reset(token)

    def predict(
        self, deviation: Tensor, known: Known, latent: Tensor, side: Tensor
    ) -> tuple[float, Tensor, Tensor]:
        """See ConditionalCodec."""
        return 0.0, *self.parameters_from(self.prediction(self.with_level(side, known)), known)

    def quantise(
        self, deviation: Tensor, latent: Tensor, known: Known, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """See ConditionalCodec; float64 only for tokens of which float32 leaves something open."""
        if past:
            return self._quantise_exactly(deviation, known, side, past)
        states = self.prediction.states(self.with_level(side.float(), known))
        symbols, indexes, unsure = self._quantise_roughly(deviation, latent, known, states)
        unsure[:, -1] = True  # so that there are always some that show what float32 does
        exact, own = self.exact(), known.rows(unsure)
        inputs = exact.with_level(side.double(), known)
        outputs = exact.prediction.at(inputs, *unsure.nonzero(as_tuple=True))
        found = mean, positions = exact.positions_from(outputs, own)
        rough = self.positions_from(self.prediction.outputs(states[unsure]), own)
        errors = (true - near for true, near in zip(found, rough, strict=True))
        if not all((error.abs() <= NETWORK_ERROR / 2).all() for error in errors):
            return self._quantise_exactly(deviation, known, side, past)
        residual = exact.latent(deviation[unsure].double()) - mean
        symbols[unsure] = in_steps(residual, own.steps).round_().to(torch.int32)
        indexes[unsure] = positions.round().to(torch.int32)
        return symbols, indexes, Signals.of(positions, unsure)

    def _quantise_roughly(
        self, deviation: Tensor, latent: Tensor, known: Known, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols and tables by float32, and the tokens (batch, tokens) that it leaves open.

        `states`: of the prediction, float32.
        """
        shape, bounds = latent.shape, self.float32_errors()
        deviation, latent, states = (part.flatten(0, 1) for part in (deviation, latent, states))
        symbols, indexes = (torch.empty_like(latent, dtype=torch.int32) for _ in range(2))
        unsure = latent.new_empty(len(latent), dtype=torch.bool)
        flat = known.flat()
        for part in blocks(latent):
            own = flat.rows(part)
            mean, positions = self.positions_from(self.prediction.outputs(states[part]), own)
            residual = in_steps(latent[part] - mean, own.steps)
            rounded, nearest = residual.round(), positions.round()
            off = distances(residual, rounded)
            tokens, _ = doubtful(deviation[part], off, bounds, NETWORK_ERROR, own.steps)
            unsure[part] = near_half(distances(positions, nearest), BOUND + NETWORK_ERROR)
            unsure[part][tokens] = True
            symbols[part], indexes[part] = rounded, nearest
        return symbols.view(shape), indexes.view(shape), unsure.view(shape[:2])

    def _quantise_exactly(
        self, deviation: Tensor, known: Known, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """The same, all in float64."""
        mean, positions = self._from_side(side, known, past)
        residual = self.exact().latent(deviation.double()) - mean
        symbols = in_steps(residual, known.steps).round_().to(torch.int32)
        return symbols, positions.round().to(torch.int32), Signals.everywhere(positions)

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
        roughly = _single_precision.get()
        of = self._roughly_from_side if roughly else self._from_side
        mean, positions = of(side, known, past)
        indexes = signals.indexes(positions)
        if not mask.all():
            indexes.masked_fill_(~mask, -1)
        symbols = coder.pop(indexes, self.tables("latent"))
        latent = mean.float().add_(self.increment(symbols, positions, known))
        return self.reconstruct(latent), symbols

    def _from_side(self, side: Tensor, known: Known, past: Past | None) -> tuple[Tensor, Tensor]:
        """Mean of each latent and where its scale lies among the tables, float64."""
        exact = self.exact()
        memories = past.memories["prediction"] if past else None
        inputs = exact.with_level(side.double(), known)
        return exact.positions_from(exact.prediction(inputs, memories), known)

    def _roughly_from_side(
        self, side: Tensor, known: Known, past: Past | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same by the float32 network, float32."""
        states = self.prediction.states(self.with_level(side.float(), known)).flatten(0, 1)
        mean, positions = (states.new_empty(len(states), self.kept) for _ in range(2))
        flat = known.flat()
        for part in blocks(states):
            outputs = self.prediction.outputs(states[part])
            mean[part], positions[part] = self.positions_from(outputs, flat.rows(part))
        return mean.view(*side.shape[:2], -1), positions.view(*side.shape[:2], -1)
