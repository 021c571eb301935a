"""A model of lm-evaluation-harness with the codec inside.

Needs the package `lm_eval` (requirements-tasks.txt). Log-likelihoods as the harness's own
`HFLM(add_bos_token=True)` gives them, so that the two agree where the codec is lossless and an item
fits into the model's context: of one that does not, the start token is kept here, and the last
token, of which nothing is asked, is read too.
"""

import itertools
from typing import Any

import numpy as np

from splitcodec.errors import InputError, reason_of
from splitcodec.inference.scoring import Scorer

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise InputError(
        "tasks of kind harness need lm_eval; pip install --requirement requirements-tasks.txt"
    ) from None


class HarnessModel(TemplateLM):
    """What the harness asks of a model, answered by a `Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer, self.tokenizer = scorer, scorer.tokeniser

    @property
    def eot_token_id(self) -> int:
        """What stands before a text with no context."""
        return self.scorer.start

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids without special tokens; the scorer heads each sequence with the start token."""
        return self.scorer.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        start = self.scorer.start
        # For an empty context the harness gives the start token, which the scorer puts itself.
        pairs = [([] if c == [start] else c, continuation) for _, c, continuation in requests]
        return [(score.log_likelihood, score.greedy) for score in self.scorer.score(pairs)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.eot_token_id,
                max_seq_len=self.scorer.longest - 2,  # a start token and one of context before it
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(nats for nats, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text until a stop string or the end of text."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") and options.get("temperature", 1):
            raise InputError("the task samples; only greedy generation is measured here")
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        most = options.get("max_gen_toks", 256)
        room = self.scorer.longest - most - 1
        if room < 1:
            raise InputError(f"the task generates {most} tokens, more than the model's context")
        prompt, made = self.scorer.encode(context)[-room:], []
        for following in itertools.islice(self.scorer.continued(prompt), most):
            if following == self.scorer.tokeniser.eos_token_id:
                break
            made.append(following)
            if any(stop in self.scorer.tokeniser.decode(made) for stop in stops):
                break
        text = self.scorer.tokeniser.decode(made)
        for stop in stops:
            text = text.split(stop)[0]
        return text


def harness_accuracies(
    scorer: Scorer,
    task: str | dict[str, Any],
    metric: str,
    items: int | None,
    filter: str | None = None,
) -> np.ndarray:
    """(items,): the metric of each item of a task, those of its subtasks one after the other.

    `filter`: which of a task's filters counts, where it has several. Raises InputError when there
    is no such task, filter or metric, or its data cannot be had.
    """
    try:
        found = simple_evaluate(
            HarnessModel(scorer), tasks=[task], limit=items, bootstrap_iters=0, log_samples=True
        )
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"the harness cannot run {task!r}: {reason_of(error)}") from None
    samples = [sample for name in sorted(found["samples"]) for sample in found["samples"][name]]
    filters = sorted({sample["filter"] for sample in samples})
    if (filter is None and len(filters) > 1) or (filter and filter not in filters):
        raise InputError(f"{task!r} has filters {', '.join(filters)}; set filter to one of them")
    samples = [sample for sample in samples if filter in (None, sample["filter"])]
    values = [sample[metric] for sample in samples if metric in sample]
    if not values or not all(isinstance(value, int | float | bool) for value in values):
        known = ", ".join(sorted({name for sample in samples for name in sample["metrics"]}))
        raise InputError(f"{task!r} has no figure {metric!r} of each item; it has {known}")
    return np.array(values, dtype=float)
