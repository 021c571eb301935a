"""Greedy generation with the front on one side and the back on the other.

Each side keeps keys and values of its own blocks and its end of the codec's stream, so a token
costs each side one step. The sender turns tokens into packets; the receiver turns packets into the
next token, whose id returns to the sender. The prompt is one packet, each later token another.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitcodec.codecs.base import Codec
from splitcodec.errors import SettingsError
from splitcodec.splitting.model import SplitModel


@dataclass
class Stopwatch:
    """Seconds spent in each part."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Count the time of the block for `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent


class Sender:
    """Front and encoder."""

    def __init__(self, model: SplitModel, split: int, codec: Codec, watch: Stopwatch) -> None:
        self._model, self._split, self._watch = model, split, watch
        self._cache, self._stream = model.cache(), codec.stream()

    def send(self, tokens: Tensor) -> bytes:
        """The packet of the next tokens, ids (tokens,)."""
        with self._watch.running("front"):
            states = self._model.front(tokens[None], self._split, self._cache)[0].float().cpu()
        with self._watch.running("codec"):
            return self._stream.encode(states, tokens)


class Receiver:
    """Decoder and back."""

    def __init__(self, model: SplitModel, split: int, codec: Codec, watch: Stopwatch) -> None:
        self._model, self._split, self._watch = model, split, watch
        self._cache, self._stream = model.cache(split), codec.stream()

    def receive(self, packet: bytes, count: int) -> Tensor:
        """Logits (vocabulary,) after the last of the `count` tokens in the packet.

        They lie on the processor. Raises BitstreamError for a damaged packet, or one out of order.
        """
        with self._watch.running("codec"):
            states = self._stream.decode(packet, count)
        with self._watch.running("back"):
            final = self._model.final_states(states[None], self._split, self._cache)
            return self._model.head(final[0, -1]).cpu()  # which waits for what a GPU has queued


@dataclass(frozen=True)
class Generation:
    """Generated ids; bytes of every packet; how many tokens were sent; seconds of each part."""

    tokens: list[int]
    packets: list[int]
    sent: int
    seconds: dict[str, float]

    @property
    def bits_per_token(self) -> float:
        """Of all packets together, over all tokens in them, those of the prompt included."""
        return 8 * sum(self.packets) / self.sent

    @property
    def milliseconds_per_token(self) -> dict[str, float]:
        """Of front, codec (both ends) and back, the prompt included."""
        return {part: 1000 * seconds / self.sent for part, seconds in self.seconds.items()}


@torch.inference_mode()
def generate(
    model: SplitModel,
    split: int,
    codec: Codec,
    prompt: Tensor,
    tokens: int,
    stop: frozenset[int] = frozenset(),
) -> Generation:
    """Up to `tokens` ids after `prompt` (tokens,), the likeliest each time, or until one of `stop`.

    Raises SettingsError for an empty prompt, or if all together exceed the model's context.
    """
    _check(model, len(prompt), tokens)
    watch = Stopwatch()
    sender, receiver = (side(model, split, codec, watch) for side in (Sender, Receiver))
    generated, packets = [], []
    following = prompt
    while len(generated) < tokens and not stop.intersection(generated[-1:]):
        packet = sender.send(following)
        packets.append(len(packet))
        logits = receiver.receive(packet, len(following))
        following = logits.argmax()[None]
        generated.append(int(following))
    sent = len(prompt) + len(packets) - 1
    return Generation(generated, packets, sent, watch.seconds)


def _check(model: SplitModel, prompt: int, tokens: int) -> None:
    if not prompt:
        raise SettingsError("the prompt has no tokens; give some text")
    if model.context is not None and prompt + tokens > model.context:
        raise SettingsError(
            f"a prompt of {prompt} tokens and {tokens} more exceed the model's context of "
            f"{model.context}; ask for fewer"
        )
