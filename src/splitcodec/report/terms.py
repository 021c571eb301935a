"""In what a model's rates and losses are told: a token and its perplexity, or a picture.

A feature map has fewer tokens the deeper it lies, so rates of image models are told by picture. A
picture has no next token: what coding costs is a divergence in nats a prediction, by which the
cross-entropy of the table of points exceeds that of the uncoded model (`evaluation.measures`).
"""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Terms:
    """What a rate is told by, its column in the table of points, and the word for quality."""

    unit: str
    rate: str
    quality: str

    def nats(self, level: float) -> float:
        """What losing `level` adds to the cross-entropy; a share of perplexity, or nats."""
        return math.log1p(level) if self is TEXT else level

    def value(self, cross_entropy: float, uncoded: float) -> float:
        """The quality at a cross-entropy in nats: perplexity, or divergence."""
        return math.exp(cross_entropy) if self is TEXT else cross_entropy - uncoded

    def level(self, level: float) -> str:
        """A loss in words."""
        return f"+{100 * level:.0f} % perplexity" if self is TEXT else f"{level:g} nats divergence"

    def said(self, value: float) -> str:
        """What `value` gives, in words."""
        if self is TEXT:
            return f"perplexity {value:.2f}"
        return f"a divergence of {value:.3g} nats"


TEXT = Terms("token", "bits_per_token_file", "perplexity")
PICTURES = Terms("picture", "bits_per_picture", "divergence")


LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Losses at which curves are compared: shares of perplexity, or nats of divergence."""


def reference_lines(references: dict[str, Any]) -> dict[str, float]:
    """What sending the token ids costs, in bits a token, by the words of its line in a figure."""
    return {
        "token ids": references["token_ids_bits_per_token"],
        "token ids, unigram": references["unigram_bits_per_token"],
        "token ids, model's entropy": references["model_bits_per_token"],
    }


def terms_of(points: pd.DataFrame) -> Terms:
    """Of the rows of one model."""
    return PICTURES if points[PICTURES.rate].notna().all() else TEXT


def terms_of_point(row: dict[str, Any]) -> Terms:
    """Of one row."""
    return PICTURES if pd.notna(row[PICTURES.rate]) else TEXT


def all_terms(points: pd.DataFrame) -> list[Terms]:
    """Of all models of a table, each once, those of text first."""
    found = {terms_of(rows) for _, rows in points.groupby("model")}
    return [terms for terms in (TEXT, PICTURES) if terms in found]
