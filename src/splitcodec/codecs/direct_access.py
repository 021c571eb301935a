"""Direct access: mean and scale of every symbol from all that was decoded before it.

The paper's rival to the hyper-prior (de Andrade et al. 2026; for images Minnen et al. 2018): the
prediction sees the decoded latents of earlier tokens beside the side values, which may be left out
(`side_channels: 0`). With `history` it starts from the best linear prediction from the token
before, which the closed form knows without training. Each token waits for the one before, so
coding walks through a sequence token by token; keys and values of earlier tokens are kept, so that
a step costs one token. The encoder takes the same steps as the decoder, since rounding about a mean
decides what later means are.

Means that differ a little between machines do not change symbols, which only the encoder rounds;
what they change are the inputs of the next tokens, and so positions among the coding tables, which
`codecs.guard` settles. The networks see latents relative to their scales, clipped and normalised,
so that differences die away rather than grow with the number of tokens.
"""

from collections.abc import Callable

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
from splitcodec.coding.entropy import Decoder
from splitcodec.densities.location_scale import log_scales_at, table_positions


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

    def predict(
        self, deviation: Tensor, known: Known, latent: Tensor, side: Tensor
    ) -> tuple[Tensor | float, Tensor, Tensor]:
        """In training all tokens at once, with rounded latents as context; in evaluation token by
        token, as coding does."""
        if not self.training:
            _, base, mean, positions = self._quantised(latent.double(), known, side)
            base = base.to(latent) if isinstance(base, Tensor) else base
            return base, mean.to(latent), log_scales_at(positions).to(latent)
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
        symbols, _, _, positions = self._quantised(exact, known, side, past)
        indexes = positions.round().to(torch.int32)
        return symbols.to(torch.int32), indexes, Signals.everywhere(positions)

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

        def decoded(token: int, mean: Tensor, positions: Tensor) -> Tensor:
            indexes = signals.indexes(positions[:, None], token)[:, 0]
            return coder.pop(indexes.masked_fill_(~mask[:, token], -1), self.tables("latent"))

        symbols, base, mean, positions = self._walk(known, side, decoded, past)
        base = base.float() if isinstance(base, Tensor) else base
        increment = self.increment(symbols.float(), positions, known).float()
        return self.decoded(base, mean.float(), increment), symbols.to(torch.int32)

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
    ) -> tuple[Tensor, ...]:
        """Symbols, base, mean and position among the tables, as the decoder will find them."""

        def rounded(token: int, mean: Tensor, positions: Tensor) -> Tensor:
            return in_steps(latent[:, token] - mean, known.at(token).steps).round()

        return self._walk(known, side, rounded, past)

    @torch.no_grad()
    def _walk(
        self,
        known: Known,
        side: Tensor,
        symbols_of: Callable[[int, Tensor, Tensor], Tensor],
        past: Past | None,
    ) -> tuple[Tensor, Tensor | float, Tensor, Tensor]:
        """Symbols, base, mean of every latent and its position among the tables; all float64.

        `symbols_of` finds the symbols of a token from its number and their mean and position.
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
            symbols = symbols_of(token, mean, positions).double()
            past.latent = mean + own.steps * symbols
            if exact.history is not None:
                decoded = exact.decoded(base, mean, exact.increment(symbols, positions, own))
                past.deviation = decoded + own.offsets.double()
            steps.append((symbols, base, mean, positions))
        symbols, base, mean, positions = (torch.stack(p, 1) for p in zip(*steps, strict=True))
        return symbols, 0.0 if self.history is None else base, mean, positions
