"""Tokenisers: text to the token ids that a model reads, as windows of documents or as prompts."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from splitcodec.errors import InputError, SettingsError, reason_of

SHORTEST = 16
"""Tokens below which the rest at a document's end is left out."""

_PIECE_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class WindowEncoder:
    """Documents as windows: a tokeniser, and how its tokens are cut."""

    tokeniser: Any
    start: int | None
    length: int

    @classmethod
    def load(cls, model: Path, length: int, start_token: bool) -> Self:
        """Of the model in a directory, for windows of `length` tokens.

        Raises SettingsError when the model cannot read so many, or has no start token.
        """
        config, tokeniser = load_tokeniser(model)
        context = getattr(config, "max_position_embeddings", None) or math.inf
        if length > context:
            raise SettingsError(
                f"text.sequence_length {length} exceeds the {context} positions of {model.name}"
            )
        start = _start_of(tokeniser)
        if start_token and start is None:
            raise SettingsError(
                f"the tokeniser of {model.name} has no start token; set text.start_token to false"
            )
        return cls(tokeniser, start if start_token else None, length)

    @property
    def body(self) -> int:
        """Tokens of text in a full window."""
        return self.length - (self.start is not None)

    @property
    def shortest(self) -> int:
        """Tokens of the shortest window that is kept, start token included."""
        return min(SHORTEST, self.length)

    def encode(self, text: str) -> np.ndarray:
        """Token ids (tokens,) int32 of a document, without special tokens."""
        pieces = list(_pieces(text))
        ids = self.tokeniser(
            pieces, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return np.concatenate([np.array(piece, np.int32) for piece in ids])

    def windows(self, tokens: int) -> int:
        """Into how many windows a document of so many tokens falls."""
        full, rest = divmod(tokens, self.body)
        return full + (rest > 0 and rest + self.length - self.body >= self.shortest)

    def window(self, tokens: np.ndarray, number: int) -> np.ndarray:
        """One window of a document's tokens, headed by the start token."""
        body = tokens[number * self.body : (number + 1) * self.body]
        first = [] if self.start is None else [self.start]
        return np.concatenate([np.array(first, np.int32), body])  # a copy, not part of a mapping


@dataclass(frozen=True)
class Prompts:
    """Prompts as the sequences of `tokenise` are: headed by the start token, where there is one."""

    tokeniser: Any
    start: int | None

    @classmethod
    def load(cls, model: Path, start_token: bool = True) -> Self:
        """Of the model in a directory; raises InputError if it cannot be read."""
        tokeniser = load_tokeniser(model)[1]
        return cls(tokeniser, _start_of(tokeniser) if start_token else None)

    @property
    def stop(self) -> frozenset[int]:
        """Ids that end a text."""
        end = self.tokeniser.eos_token_id
        return frozenset() if end is None else frozenset([end])

    def encode(self, text: str) -> np.ndarray:
        """Token ids (tokens,) int64 of a prompt; raises InputError where there are none."""
        ids = self.tokeniser(text, add_special_tokens=False)["input_ids"]
        if self.start is not None:
            ids = [self.start, *ids]
        if not ids:
            raise InputError("the prompt has no tokens; write some text, or a start token")
        return np.array(ids, np.int64)

    def decode(self, tokens: list[int]) -> str:
        """The text of token ids, without special ones."""
        return self.tokeniser.decode(tokens, skip_special_tokens=True)

    def pieces(self, tokens: list[int]) -> list[str]:
        """The text that each token adds; where several make one character, the last adds it."""
        texts = [self.decode(tokens[: count + 1]).rstrip("\ufffd") for count in range(len(tokens))]
        return [after[len(before) :] for before, after in itertools.pairwise(["", *texts])]


def load_tokeniser(model: Path) -> tuple[Any, Any]:
    """Configuration and tokeniser of a model's directory; raises InputError if unreadable."""
    # Imported here: reading tokens should not cost the seconds that transformers takes.
    from transformers import AutoConfig, AutoTokenizer

    try:
        local = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(model, **local)
        return config, AutoTokenizer.from_pretrained(model, **local)
    except Exception as error:
        # transformers, tokenizers and json raise many kinds here, some of them bare Exception
        raise InputError(f"cannot read the model in {model}: {reason_of(error)}") from None


def _start_of(tokeniser: Any) -> int | None:
    return tokeniser.eos_token_id if tokeniser.bos_token_id is None else tokeniser.bos_token_id


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text before a word, where tokenisers cut anyway, so that memory stays bounded."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        stop = text.rfind(" ", start + 1, start + _PIECE_CHARACTERS)
        stop = start + _PIECE_CHARACTERS if stop < 0 else stop
        yield text[start:stop]
        start = stop
    yield text[start:]
