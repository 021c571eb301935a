"""Direct access: mean and scale of every symbol from all that was decoded before it.

The paper's rival to the hyper-prior (de Andrade et al. 2026; for images Minnen et al. 2018): the
prediction sees the decoded latents of earlier tokens beside the side values, which may be left out
(`side_channels: 0`). With `history` it starts from the best linear prediction from the token
before, which the closed form knows without training. Each token waits for the one before, so
coding walks through a sequence token by token; keys and values of earlier tokens are kept, so that
a step costs one token. The encoder takes the same steps as the decoder, since rounding about a mean
decides what later means are.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.hyperparameters import DirectAccessHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.transform import straight_through
from splitcodec.coding.entropy import Decoder
from splitcodec.densities.location_scale import scale_indexes


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
        self, deviation: Tensor, offsets: Tensor, latent: Tensor, side: Tensor
    ) -> tuple[Tensor | float, Tensor, Tensor]:
        """In training all tokens at once, with rounded latents as context; in evaluation token by
        token, as coding does."""
        if not self.training:
            walked = self._quantised(latent, offsets, side)[1:]
            return tuple(part.to(latent) if isinstance(part, Tensor) else part for part in walked)
        earlier = functional.pad(straight_through(latent)[:, :-1], (0, 0, 1, 0))
        inputs = torch.cat([self.normalised(earlier), side], -1)
        mean, log_scale = self.parameters_from(self.prediction(inputs))
        if self.history is None:
            return 0.0, mean, log_scale
        base = self._from_history(self._approximately_decoded(deviation, offsets) + offsets)
        return base, mean + self.latent(base), log_scale

    def quantise(self, latent: Tensor, offsets: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        symbols, _, _, log_scale = self._quantised(latent, offsets, side)
        return symbols, scale_indexes(log_scale.exp())

    def dequantise(
        self, streams: list[bytes], offsets: Tensor, side: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        decoder = Decoder(streams, self.tables("latent"))

        def decoded(token: int, mean: Tensor, log_scale: Tensor) -> Tensor:
            indexes = scale_indexes(log_scale.exp())
            return decoder.pop(torch.where(mask[:, token], indexes, -1))

        symbols, base, mean, _ = self._walk(offsets, side, decoded)
        base = base.float() if isinstance(base, Tensor) else base
        return self.decoded(base, mean.float(), symbols.float()), symbols.to(torch.int32)

    def _from_history(self, earlier: Tensor) -> Tensor:
        """The linear prediction of each token from the one before.

        `earlier` (batch, tokens, channels): decoded, less the mean of all tokens; the first token
        has none before.
        """
        usable = earlier.square().sum(-1, keepdim=True) < self.sink_energy
        return functional.pad((earlier * usable)[:, :-1] @ self.history.T, (0, 0, 1, 0))

    def _approximately_decoded(self, deviation: Tensor, offsets: Tensor) -> Tensor:
        """What decoding will give, had every token been predicted from the exact one before.

        The error that a true walk would make has the same statistics, and all tokens are computed
        at once.
        """
        with torch.no_grad():
            base = self._from_history(deviation + offsets)
            symbols = self.latent(deviation - base).round()
            return base + self.reconstruct(self.gain * symbols)

    def _quantised(self, latent: Tensor, offsets: Tensor, side: Tensor) -> tuple[Tensor, ...]:
        """Symbols, base, mean and logarithm of the scale, as the decoder will find them."""
        latent = latent.double()

        def rounded(token: int, mean: Tensor, log_scale: Tensor) -> Tensor:
            return (latent[:, token] - mean).round()

        return self._walk(offsets, side, rounded)

    @torch.no_grad()
    def _walk(
        self,
        offsets: Tensor,
        side: Tensor,
        symbols_of: Callable[[int, Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor | float, Tensor, Tensor]:
        """Symbols, base, mean and logarithm of the scale of every latent; all float64.

        `symbols_of` finds the symbols of a token from its number and their mean and log scale.
        """
        batch, tokens, _ = side.shape
        exact = copy.deepcopy(self).double()
        memories = exact.prediction.memories(batch, tokens)
        earlier = torch.zeros(batch, self.kept, dtype=torch.float64, device=side.device)
        decoded = torch.zeros(batch, self.channels, dtype=torch.float64, device=side.device)
        steps = []
        for token, values in enumerate(side.double().unbind(1)):
            inputs = torch.cat([exact.normalised(earlier), values], -1)
            mean, log_scale = exact.parameters_from(exact.prediction.step(inputs, memories))
            base = decoded.new_zeros(batch, 0)
            if self.history is not None:
                base = exact._from_history(torch.stack([decoded, decoded], 1))[:, 1]
                mean = mean + exact.latent(base)
            symbols = symbols_of(token, mean, log_scale).double()
            earlier = mean + symbols
            if self.history is not None:
                decoded = exact.decoded(base, mean, symbols) + offsets[..., token, :].double()
            steps.append((symbols, base, mean, log_scale))
        symbols, base, mean, log_scale = (torch.stack(p, 1) for p in zip(*steps, strict=True))
        return symbols, 0.0 if self.history is None else base, mean, log_scale
