"""The headline of each learned codec: its bits against those of int4 in groups of 32, as good."""

from dataclasses import dataclass

import pandas as pd

from splitcodec.report.curves import (
    ANCHOR,
    ANCHOR_POINT,
    BASELINES,
    Curve,
    curves_of,
    rate_at,
    rate_at_divergence,
)
from splitcodec.report.terms import TEXT, Terms


@dataclass(frozen=True)
class Headline:
    """A codec's rate against int4 in groups of 32 with Zstandard, at that point's quality.

    `divergence`: that point's, in nats; `at_divergence`: the same ratio there, which few documents
    tell more sharply than their perplexity; None for image models, whose quality it is, and where
    the codec was not measured on both sides of it.
    """

    model: str
    split: int
    name: str
    ratio: float
    rate: float
    anchor_rate: float
    terms: Terms
    quality: float
    at_divergence: float | None
    divergence: float

    @property
    def place(self) -> tuple[str, int]:
        """Model and split."""
        return self.model, self.split

    @property
    def sentence(self) -> str:
        """The comparison in words, for people."""
        terms = self.terms
        divergence = f", {self.at_divergence:.2f} at equal divergence" if self.at_divergence else ""
        return (
            f"{self.model}, split {self.split}: {self.name} needs {self.ratio:.2f} of the bits of "
            f"int4-groups-of-32 + Zstandard at equal {terms.quality} ({self.rate:,.0f} against "
            f"{self.anchor_rate:,.0f} bits per {terms.unit} at {terms.said(self.quality)})"
            f"{divergence}"
        )


def headlines(points: pd.DataFrame) -> list[Headline]:
    """Every learned codec against int4-groups-of-32 + Zstandard, smallest ratio first.

    Codecs whose range does not hold that point's cross-entropy have no headline.
    """
    curves = curves_of(points)
    rows = {
        (anchor.model, anchor.split): row
        for anchor in curves
        if anchor.name == ANCHOR
        for row in anchor.mean[anchor.mean["codec"] == ANCHOR_POINT].to_dict("records")
    }
    found = []
    for curve in curves:
        row = rows.get((curve.model, curve.split))
        if row is None or curve.name in BASELINES:
            continue
        found += [headline] if (headline := _headline(curve, row)) else []
    return sorted(found, key=lambda headline: headline.ratio)


def _headline(curve: Curve, anchor: dict[str, float]) -> Headline | None:
    """`curve` at the quality of a point of the anchor."""
    text, anchor_rate = curve.terms is TEXT, anchor[curve.rate]
    alike = rate_at_divergence(curve, anchor["kl"])
    rate = rate_at(curve, anchor["cross_entropy"]) if text else alike
    if rate is None:
        return None
    return Headline(
        curve.model,
        curve.split,
        curve.name,
        rate / anchor_rate,
        rate,
        anchor_rate,
        curve.terms,
        curve.terms.value(anchor["cross_entropy"], curve.uncoded),
        alike / anchor_rate if text and alike else None,
        anchor["kl"],
    )
