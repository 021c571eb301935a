"""The Pareto-best points as versions of registered models: which, called what, and their cards."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from splitcodec.files import read_json, sha256_of_file
from splitcodec.report.cards import card_of_point, markdown
from splitcodec.report.curves import pareto
from splitcodec.report.table import perplexity_increase
from splitcodec.tracking.wanted import digest_of, point_key

ALLOWED = (1, 2, 5, 10)
"""Percent of perplexity that the points of the aliases `best-at-<n>-percent` may lose."""

FILES = ("codec.json", "codec.safetensors", "model.safetensors")


@dataclass(frozen=True)
class WantedVersion:
    """A point that no other one of its model and split beats in rate and quality both.

    `key` is that of the point's run, `row` the row of the table, `folder` that of the codec.
    """

    model: str
    key: str
    row: dict[str, Any]
    folder: Path
    aliases: tuple[str, ...] = ()

    @cached_property
    def codec(self) -> dict[str, Any]:
        """What codec.json says."""
        return read_json(self.folder / "codec.json")

    @property
    def files(self) -> list[Path]:
        """Those that are the codec."""
        return [path for name in FILES if (path := self.folder / name).exists()]

    @property
    def tags(self) -> dict[str, str]:
        """What the list of versions can be searched by."""
        row = self.row
        tags = {name: str(row[name]) for name in ("codec", "coder", "mode", "codec_hash")}
        return tags | {
            "bits_per_token_file": f"{row['bits_per_token_file']:.1f}",
            "perplexity_increase_percent": f"{row['perplexity_increase_percent']:.2f}",
        }

    @property
    def digest(self) -> str:
        """Of all that a version cannot have changed."""
        return digest_of(self.key, self.tags, self.card, [sha256_of_file(p) for p in self.files])

    @property
    def card(self) -> str:
        """What a user should know before using the codec, in Markdown."""
        card = card_of_point(self.folder, self.codec, self.row, [self.row])
        load = _LOAD if self.stands_alone else _LOAD_WITH_MODEL
        return markdown(card, load.format(registered=self.model))

    @property
    def stands_alone(self) -> bool:
        """Whether the codec codes without the model beside it: token ids need the model's head, and
        where the model has learned too, its changes belong to what was measured."""
        changed = (self.folder / FILES[2]).exists()
        return not changed and not self.codec["hyperparameters"].get("tokens")


_LOAD = """\
import mlflow

codec = mlflow.pyfunc.load_model("models:/{registered}/<version>")
decoded = codec.predict(representation)  # float32 (tokens, channels), coded to bytes and back"""
_LOAD_WITH_MODEL = """\
import mlflow
from splitcodec import with_codec

folder = mlflow.artifacts.download_artifacts("models:/{registered}/<version>")
coded = with_codec(model, f"{{folder}}/codec")"""


def wanted_versions(
    experiment: str, points: pd.DataFrame, folders: list[Path]
) -> list[WantedVersion]:
    """A version for each Pareto-best point, cheapest first; of the codecs in `folders`."""
    points = points.assign(perplexity_increase_percent=perplexity_increase(points))
    described = {folder: folder / FILES[0] for folder in folders}
    by_hash = {read_json(p).get("hash"): folder for folder, p in described.items() if p.exists()}
    wanted = []
    for (model, split), table in points.groupby(["model", "split"]):
        best_rows = table.iloc[pareto(table["bits_per_token_file"], table["cross_entropy"])]
        front = [row for row in best_rows.to_dict("records") if row["codec_hash"] in by_hash]
        best = best_at(front)
        for number, row in enumerate(front):
            aliases = tuple(alias for alias, chosen in best.items() if chosen == number)
            folder = by_hash[row["codec_hash"]]
            name = f"{experiment}-{model}-split{split}"
            wanted.append(WantedVersion(name, point_key(row), row, folder, aliases))
    return wanted


def best_at(front: list[dict[str, Any]]) -> dict[str, int]:
    """For each alias the place of its point in `front`: the cheapest that loses no more."""
    best = {}
    for percent in ALLOWED:
        good = [n for n, row in enumerate(front) if row["perplexity_increase_percent"] <= percent]
        if good:
            best[f"best-at-{percent}-percent"] = good[0]
    return best
