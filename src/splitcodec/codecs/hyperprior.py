"""The paper's simplest codec: a hyper-prior alone predicts mean and scale of every symbol.

24 side values a token, and nothing else, tell mean and scale of the latent (de Andrade et al. 2026,
after Ballé et al. 2018 and Minnen et al. 2018), so all symbols of a sequence decode at once. In
frozen mode the quantiser sits behind a transform, which starts as the KLT's.
"""

from contextvars import ContextVar

import torch
from torch import Tensor

from splitcodec.codecs.conditional import FLOAT32_ERROR, ConditionalCodec
from splitcodec.codecs.guard import BOUND, Signals
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.codecs.levels import Known, in_steps
from splitcodec.codecs.networks import Past
from splitcodec.codecs.rounding import distances, doubtful, near_half
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
        exact = self.exact()
        mean, positions = self._roughly_from_side(side, known)
        residual = in_steps(latent - mean, known.steps)
        symbols = residual.round()
        unsure = near_half(distances(positions, positions.round()), BOUND + FLOAT32_ERROR)
        steps = known.steps.flatten(0, 1) if self.levels else 1.0
        off = distances(residual, symbols).flatten(0, 1)
        bounds = self.float32_errors()
        tokens, _ = doubtful(deviation.flatten(0, 1), off, bounds, FLOAT32_ERROR, steps)
        unsure.view(-1)[tokens] = True
        unsure[:, -1] = True  # so that there are always some that show what float32 does
        inputs = exact.with_level(side.double(), known)
        outputs = exact.prediction.at(inputs, *unsure.nonzero(as_tuple=True))
        own = known.rows(unsure)
        true_mean, true_positions = exact.positions_from(outputs, own)
        errors = true_mean - mean[unsure], true_positions - positions[unsure]
        if not all((error.abs() <= FLOAT32_ERROR / 2).all() for error in errors):
            return self._quantise_exactly(deviation, known, side, past)
        true_latent = exact.latent(deviation[unsure].double())
        symbols[unsure] = in_steps(true_latent - true_mean, own.steps).round_().to(symbols)
        positions[unsure] = true_positions.round().to(positions)
        return symbols.to(torch.int32), positions, Signals.of(true_positions, unsure)

    def _quantise_exactly(
        self, deviation: Tensor, known: Known, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """The same, all in float64."""
        mean, positions = self._from_side(side, known, past)
        residual = self.exact().latent(deviation.double()) - mean
        symbols = in_steps(residual, known.steps).round_()
        return symbols.to(torch.int32), positions, Signals.everywhere(positions)

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
        increment = self.increment(symbols, positions, known)
        return self.decoded(0.0, mean.float(), increment.float()), symbols

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
        inputs = self.with_level(side.float(), known)
        return self.exact().positions_from(self.prediction(inputs), known)
