"""Direct access: mean and scale of every symbol from all that was decoded before it.

The paper's rival to the hyper-prior (de Andrade et al. 2026; for images Minnen et al. 2018): the
prediction sees the decoded latents of earlier tokens beside the side values, which may be left out
(`side_channels: 0`). Each token waits for the one before, so coding walks through a sequence token
by token; keys and values of earlier tokens are kept, so that a step costs one token. The encoder
takes the same steps as the decoder, since rounding about a mean decides what later means are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.hyperparameters import DirectAccessHyperparameters
from splitcodec.codecs.transform import straight_through
from splitcodec.coding.entropy import Decoder
from splitcodec.densities.location_scale import scale_indexes


class DirectAccess(ConditionalCodec):
    """Mean and scale of each symbol from latents of tokens < t and side values of tokens ≤ t."""

    def __init__(
        self, name: str, channels: int, hyperparameters: DirectAccessHyperparameters, kept: int = 0
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, context=kept)
        # What the token before says linearly is too much for a narrow network to pass on.
        self.regression = nn.Linear(kept, 2 * kept, bias=False)
        nn.init.zeros_(self.regression.weight)

    def predict(self, latent: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """In training all tokens at once, with rounded latents as context; in evaluation token by
        token, as coding does."""
        if not self.training:
            _, mean, log_scale = self._quantised(latent, side)
            return mean.to(latent), log_scale.to(latent)
        earlier = functional.pad(straight_through(latent)[:, :-1], (0, 0, 1, 0))
        context = self.normalised(earlier)
        outputs = self.prediction(torch.cat([context, side], -1))
        return self.parameters_from(outputs + self.regression(context))

    def quantise(self, latent: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        symbols, _, log_scale = self._quantised(latent, side)
        return symbols, scale_indexes(log_scale.exp())

    def dequantise(self, streams: list[bytes], side: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        decoder = Decoder(streams, self.tables("latent"))

        def decoded(token: int, mean: Tensor, log_scale: Tensor) -> Tensor:
            indexes = scale_indexes(log_scale.exp())
            return decoder.pop(torch.where(mask[:, token], indexes, -1))

        symbols, mean, _ = self._walk(side, decoded)
        return mean, symbols.to(torch.int32)

    def _quantised(self, latent: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, mean and logarithm of the scale, as the decoder will find them; float64."""
        latent = latent.double()
        return self._walk(side, lambda token, mean, _: (latent[:, token] - mean).round())

    @torch.no_grad()
    def _walk(
        self, side: Tensor, symbols_of: Callable[[int, Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, mean and logarithm of the scale of every latent, (batch, tokens, kept) float64.

        `symbols_of` finds the symbols of a token from its number and their mean and log scale.
        """
        batch, tokens, _ = side.shape
        network, regression = self.exact_prediction(), self.regression.weight.double().T
        memories = network.memories(batch, tokens)
        earlier = torch.zeros(batch, self.kept, dtype=torch.float64, device=side.device)
        steps = []
        for token, values in enumerate(side.double().unbind(1)):
            context = self.normalised(earlier)
            outputs = network.step(torch.cat([context, values], -1), memories)
            mean, log_scale = self.parameters_from(outputs + context @ regression)
            symbols = symbols_of(token, mean, log_scale).double()
            earlier = mean + symbols
            steps.append((symbols, mean, log_scale))
        return tuple(torch.stack(parts, 1) for parts in zip(*steps, strict=True))
