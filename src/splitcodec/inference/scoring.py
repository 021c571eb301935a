"""Log-likelihoods of continuations by a model with a codec inside, and tasks made of them.

An item is right when each token of its continuation is the likeliest one, given those before:
what LAMBADA counts (Paperno et al. 2016). Intervals are 95 % percentile bootstraps over items.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from splitcodec.errors import InputError
from splitcodec.evaluation.measures import interval
from splitcodec.files import matching
from splitcodec.inference.generation import Receiver, Sender, Stopwatch
from splitcodec.inference.wrapped import CodedModel
from splitcodec.progress import progress


@dataclass(frozen=True)
class Score:
    """Of one continuation: log-likelihood in nats, and whether greedy decoding gives it."""

    log_likelihood: float
    greedy: bool


class Scorer:
    """Scores token sequences by a coded model, or by a plain one of transformers.

    Counts the bits and tokens that went through the codec: bits stay zero with a plain model. A
    coded model whose codec did not code every token of a batch is an error, not a result.
    """

    def __init__(
        self, model: nn.Module, tokeniser: Any, batch_sequences: int, start_token: bool = True
    ) -> None:
        self.model, self.tokeniser, self.batch_sequences = model, tokeniser, batch_sequences
        end, begin = tokeniser.eos_token_id, tokeniser.bos_token_id
        self.start = end if begin is None else begin
        if self.start is None:
            raise InputError("the tokeniser has no start token, which tasks need")
        self.prefix = [self.start] if start_token else []
        self.bits, self.tokens = 0.0, 0

    @property
    def longest(self) -> int:
        """Tokens the model can read at once."""
        return getattr(self.model.config, "max_position_embeddings", None) or 2048

    @property
    def bits_per_token(self) -> float | None:
        """Of everything scored; None for a plain model."""
        return self.bits / self.tokens if isinstance(self.model, CodedModel) else None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without a start token."""
        return self.tokeniser(text, add_special_tokens=False)["input_ids"]

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both, cut where the context alone ends; white space at its end goes to the latter."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        whole, first = self.encode(kept + continuation), self.encode(kept)
        return first, whole[len(first) :]

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
        """One score for each (context ids, continuation ids), in order.

        Long contexts lose their beginning. Raises InputError where a continuation has no token or
        does not fit, or the codec was not applied.
        """
        found: dict[int, Score] = {}
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        for start in progress(range(0, len(order), self.batch_sequences), "scoring"):
            numbers = order[start : start + self.batch_sequences]
            scores = self._score_batch([pairs[i] for i in numbers])
            found |= dict(zip(numbers, scores, strict=True))
        return [found[i] for i in range(len(pairs))]

    @torch.no_grad()
    def logits(self, rows: list[list[int]], kept: int = 0) -> torch.Tensor:
        """Float32 logits (batch, tokens, vocabulary) of sequences, padded on the right.

        Of the last `kept` places only, if it is not 0.
        """
        sequences = [torch.tensor(row) for row in rows]
        tokens = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        tokens = tokens.to(self.model.device)
        if not isinstance(self.model, CodedModel):
            # No mask: what follows a sequence does not change its logits, and a mask would pick
            # other kernels than the split model's.
            return self.model(tokens, logits_to_keep=kept).logits.float().cpu()
        output = self.model(tokens, mask, logits_to_keep=kept)
        self._count(output, lengths)
        return output.logits.float().cpu()

    @torch.no_grad()
    def continued(self, prompt: list[int]) -> Iterator[int]:
        """What greedy decoding adds to a prompt, id by id, without end.

        A coded model sends a packet a token, as `generation` does, and those are counted.
        """
        following = torch.tensor([*self.prefix, *prompt] or [self.start])
        step = self._coded_step() if isinstance(self.model, CodedModel) else self._plain_step()
        while True:
            following = step(following).argmax()[None]
            yield int(following)

    def _coded_step(self) -> Callable[[torch.Tensor], torch.Tensor]:
        parts = self.model.model, self.model.split, self.model.codec, Stopwatch()
        sender, receiver = Sender(*parts), Receiver(*parts)

        def step(tokens: torch.Tensor) -> torch.Tensor:
            packet = sender.send(tokens)
            self.bits += 8 * len(packet)
            self.tokens += len(tokens)
            return receiver.receive(packet, len(tokens))

        return step

    def _plain_step(self) -> Callable[[torch.Tensor], torch.Tensor]:
        past = None

        def step(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal past
            output = self.model(
                tokens[None].to(self.model.device),
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past = output.past_key_values
            return output.logits[0, -1].cpu()

        return step

    def _count(self, output: Any, lengths: torch.Tensor) -> None:
        bits, tokens = getattr(output, "bits", None), getattr(output, "tokens", None)
        if bits is None or not (bits > 0).all() or not torch.equal(tokens, lengths):
            raise InputError("the codec was not applied to every token; the task is not measured")
        self.bits += float(bits.sum())
        self.tokens += int(lengths.sum())

    def _score_batch(self, pairs: list[tuple[list[int], list[int]]]) -> list[Score]:
        room = self.longest - len(self.prefix)
        rows = []
        for context, continuation in pairs:
            if not continuation or len(continuation) >= self.longest:
                raise InputError(
                    f"a continuation of {len(continuation)} tokens cannot be scored by a model "
                    f"that reads {self.longest}; correct the task's items"
                )
            kept = (context + continuation)[-room:]
            # Something must come before what is predicted.
            rows.append([*(self.prefix or [self.start][len(context) > 0 :]), *kept])
        # Logits of a whole batch would be its largest tensor by far.
        first = min(len(row) - len(pair[1]) - 1 for row, pair in zip(rows, pairs, strict=True))
        logits = self.logits(rows, max(map(len, rows)) - first)
        scores = []
        for row, values, (_, continuation) in zip(rows, logits, pairs, strict=True):
            end, count = len(row) - first, len(continuation)
            wanted = torch.tensor(continuation)
            predicted = values[end - count - 1 : end - 1].log_softmax(-1)
            nats = predicted.gather(-1, wanted[:, None]).sum().item()
            scores.append(Score(nats, bool((predicted.argmax(-1) == wanted).all())))
        return scores


def read_items(pattern: str, wanted: int | None) -> list[tuple[str, str]]:
    """(context, continuation) of the first `wanted` JSON lines of the files that match.

    Raises InputError where no file matches or a line lacks one of the two.
    """
    files = matching(pattern)
    items = []
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                items.append((record["context"], record["continuation"]))
                if not all(isinstance(part, str) for part in items[-1]) or not items[-1][1].strip():
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(
                    f'{file}, line {number}: needs text in "context" and "continuation"; correct it'
                ) from None
    if not items:
        raise InputError(f"no item in {pattern!r}; correct the task's path")
    return items[:wanted]


def accuracies(scorer: Scorer, items: Sequence[tuple[str, str]]) -> np.ndarray:
    """(items,): 1 where the continuation is what greedy decoding gives, else 0."""
    pairs = [scorer.encode_pair(*item) for item in items]
    return np.array([float(score.greedy) for score in scorer.score(pairs)])


def summarise(values: np.ndarray, resamples: int) -> dict[str, Any]:
    """Mean of the items' figures (items,) with its interval."""
    low, high = interval(np.stack([values, np.ones_like(values)], 1), 0, resamples, by=1)
    return {"accuracy": float(values.mean()), "low": low, "high": high, "items": len(values)}
