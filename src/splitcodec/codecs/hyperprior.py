"""The paper's simplest codec: a hyper-prior alone predicts mean and scale of every symbol.

24 side values a token, and nothing else, tell mean and scale of the latent (de Andrade et al. 2026,
after Ballé et al. 2018 and Minnen et al. 2018), so all symbols of a sequence decode at once. In
frozen mode the quantiser sits behind a transform, which starts as the KLT's.
"""

from torch import Tensor

from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.guard import Signals
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.codecs.transform import Past
from splitcodec.coding.entropy import Decoder
from splitcodec.errors import BitstreamError


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
        self._single_precision = False

    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """See Codec; in float32, three times as fast, and if its checks fail in float64.

        float32 moves positions among the tables by some 1e-6, for which the guard band has room.
        """
        self._single_precision = True
        try:
            return super().decompress(streams, lengths)
        except BitstreamError:
            self._single_precision = False
            return super().decompress(streams, lengths)
        finally:
            self._single_precision = False

    def predict(
        self, deviation: Tensor, offsets: Tensor, latent: Tensor, side: Tensor
    ) -> tuple[float, Tensor, Tensor]:
        """See ConditionalCodec."""
        return 0.0, *self.parameters_from(self.prediction(side))

    def quantise(
        self, deviation: Tensor, latent: Tensor, offsets: Tensor, side: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        mean, positions = self._from_side(side, past)
        return self.rounded(deviation, latent, mean), positions

    def dequantise(
        self,
        coder: Decoder,
        signals: Signals,
        offsets: Tensor,
        side: Tensor,
        mask: Tensor,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        mean, positions = self._from_side(side, past)
        indexes = signals.indexes(positions).masked_fill_(~mask, -1)
        symbols = coder.pop(indexes, self.tables("latent"))
        return self.decoded(0.0, mean.float(), symbols), symbols

    def _from_side(self, side: Tensor, past: Past | None) -> tuple[Tensor, Tensor]:
        """Mean of each latent and where its scale lies among the tables, which is float64."""
        exact = self.exact()
        if self._single_precision:
            return exact.positions_from(self.prediction(side.float()))
        memories = past.memories["prediction"] if past else None
        return exact.positions_from(exact.prediction(side.double(), memories))
