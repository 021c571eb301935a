"""Codec cards: what a codec is, what it costs, and how to load it, for people and programs.

Made from artefacts after evaluation, so that no number in a card was typed. A card is of a codec's
directory, that is of one λ and seed; its table has the whole curve, for choosing another λ. The
card of a registered version (`tracking.versions`) has its own point alone, and changes with it.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_json, write_text
from splitcodec.report.table import perplexity_increase, read_points
from splitcodec.report.terms import PICTURES, terms_of_point

_SHOWN = {
    "lambda": "λ",
    "bits_per_token_file": "bits/token",
    "perplexity": "perplexity",
    "perplexity_increase_percent": "increase, %",
    "kl": "KL, nats",
    "top1_agreement": "top-1",
    "encode_ms_per_token": "encode, ms/token",
    "decode_ms_per_token": "decode, ms/token",
}
_SHOWN_OF_PICTURES = {
    "lambda": "λ",
    "bits_per_picture": "bits/picture",
    "kl": "KL, nats",
    "top1_agreement": "top-1",
    "accuracy": "accuracy",
    "feature_error": "square error",
    "encode_ms_per_token": "encode, ms/token",
    "decode_ms_per_token": "decode, ms/token",
}
_MODES = {
    "none": "nothing",
    "frozen": "the codec alone; the model is unchanged",
    "back": "the codec and the blocks after the split",
    "end-to-end": "the codec and the whole model",
}
_LOAD_TEXT = """from transformers import AutoModelForCausalLM
from splitcodec import with_codec

model = AutoModelForCausalLM.from_pretrained("data/models/{model}")
coded = with_codec(model, "{directory}")
streams, lengths = coded.send(input_ids)
logits = coded.receive(streams, lengths)"""
_LOAD_PICTURES = """import torch
from pathlib import Path
from splitcodec.codecs.registry import load_codec
from splitcodec.splitting.loading import load_split_model

model = load_split_model(Path("data/models/{model}"))
codec, _ = load_codec(Path("{directory}"))
representation = model.front(pixels, {split})
lengths = torch.full([len(pixels)], representation.shape[1])
streams = codec.compress(representation, lengths)
outputs = model.back(codec.decompress(streams, lengths), {split})"""


def write_cards(points: Path, codecs: list[Path], directory: Path) -> list[Path]:
    """Write card.md and card.json of each codec.json of `codecs`; returns the Markdown files.

    They lie in `directory`/<model>/split<k>/<codec>/<variant>. Raises InputError for a codec that
    the table of points does not have.
    """
    table = read_points(points)
    paths = []
    for path in codecs:
        card = card_of(path, table)
        place = directory.joinpath(*path.parts[-5:-1])
        write_json(place / "card.json", card)
        write_text(place / "card.md", markdown(card))
        paths.append(place / "card.md")
    return paths


def card_of(path: Path, table: pd.DataFrame) -> dict[str, Any]:
    """The card of a codec.json with its whole curve; `table` has the columns of points.csv."""
    codec = read_json(path, "hash", "train_seconds")
    if codec.get("lambdas"):
        raise InputError(f"{path} is for several λ; name one of the folders lambda… beside it")
    same = table[(table["model"] == codec["model"]) & (table["split"] == codec["split"])]
    own = same[same["codec_hash"] == codec["hash"]]
    if own.empty:
        raise InputError(f"{path} has no point in the table; evaluate it and collect again")
    curve = same[(same["codec"] == codec["name"]) & (same["coder"] == own["coder"].iloc[0])]
    curve = curve[(curve["seed"] == codec["seed"]) | curve["seed"].isna()]
    points = curve.sort_values("lambda").to_dict("records")
    return card_of_point(path.parent, codec, own.iloc[0].to_dict(), points)


def card_of_point(
    directory: Path, codec: dict[str, Any], own: dict[str, Any], points: list[dict[str, Any]]
) -> dict[str, Any]:
    """The card of the codec in `directory`, whose codec.json says `codec`.

    `own` is its row of the table of points; `points` are the rows to be shown.
    """
    return {
        "directory": str(directory),
        **{key: codec[key] for key in ("name", "codec", "mode", "lambda", "seed", "hash")},
        "coder": own["coder"],
        "codes": {key: codec[key] for key in ("model", "model_hash", "split", "channels")},
        "trained_on": {key: codec[key] for key in ("data_hash", "train_seconds")},
        "hyperparameters": codec["hyperparameters"] | codec.get("tuning", {}),
        "evaluated_on": {
            "partition": own["partition"],
            "tokens": int(own["tokens"]),
            "documents": int(own["documents"]),
            "data_hash": own["data_hash"],
        },
        "uncoded_cross_entropy": float(own["cross_entropy_uncoded"]),
        "rates_by": terms_of_point(own).unit,
        "points": [_point(row) for row in points],
        "hardware": own["hardware"],
        "versions": codec["versions"],
    }


def _point(row: dict[str, Any]) -> dict[str, Any]:
    names = _SHOWN_OF_PICTURES if terms_of_point(row) is PICTURES else _SHOWN
    row = row | {"perplexity_increase_percent": perplexity_increase(row)}
    values = {name: None if pd.isna(row[name]) else float(row[name]) for name in names}
    return values | {"hash": row["codec_hash"]}


def markdown(card: dict[str, Any], load: str | None = None) -> str:
    """The card as text; `load` is how to load the codec, if not from its directory."""
    codes, trained, tested = card["codes"], card["trained_on"], card["evaluated_on"]
    pictures = card["rates_by"] == PICTURES.unit
    uncoded = f"; uncoded perplexity {math.exp(card['uncoded_cross_entropy']):,.2f}"
    from_directory = _LOAD_PICTURES if pictures else _LOAD_TEXT
    settings = ", ".join(f"`{k}: {v}`" for k, v in card["hyperparameters"].items()) or "none"
    return f"""# {_title(card)}

Codes the {codes["channels"]} channels between block {codes["split"] - 1} and block {codes["split"]}
of {codes["model"]} (hash `{codes["model_hash"][:16]}`), one stream a sequence, token by token.

- **codec**: `{card["codec"]}`, hash `{card["hash"]}`{_seed(card)}
- **what learned**: {_learned(card["mode"])}; {trained["train_seconds"]:.0f} s on
  tokens `{trained["data_hash"][:16]}`
- **hyper-parameters**: {settings}

## Rate and distortion

On {tested["tokens"]:,} tokens of {tested["documents"]} documents ({tested["partition"]},
data `{tested["data_hash"][:16]}`{"" if pictures else uncoded}).
Rates are whole files; the row in bold is this codec, any other is the same codec at another λ.
Times were measured on {card["hardware"]}.

{_table(card)}

## Limits

- For this model at this split alone; one with other weights or settings is refused by its hash.
- The quality is that on the data named above; on other data rate and loss differ.
- Files have checksums, and streams of learned codecs their own: damage is an error, not other
  numbers.
- Who has the codec and the back can read what was sent: coding is no encryption.

## Load it

```python
{load or from_directory.format(directory=card["directory"], **codes)}
```
"""


def _title(card: dict[str, Any]) -> str:
    if card["lambda"] is None:
        return f"{card['name']} + {card['coder']}"
    return f"{card['name']}, λ = {card['lambda']:g} nats a bit"


def _seed(card: dict[str, Any]) -> str:
    return "" if card["seed"] is None else f", seed {card['seed']}"


def _learned(mode: str) -> str:
    adapters = ", by low-rank adapters" if mode.endswith("-adapters") else ""
    return _MODES[mode.removesuffix("-adapters")] + adapters


def _table(card: dict[str, Any]) -> str:
    shown = _SHOWN_OF_PICTURES if card["rates_by"] == PICTURES.unit else _SHOWN
    shown = {n: said for n, said in shown.items() if any(p[n] is not None for p in card["points"])}
    lines = ["| " + " | ".join(shown.values()) + " |", "|" + " ---: |" * len(shown)]
    for point in card["points"]:
        cells = ["–" if point[name] is None else f"{point[name]:,.4g}" for name in shown]
        own = point["hash"] == card["hash"]
        lines.append("| " + " | ".join(f"**{cell}**" if own else cell for cell in cells) + " |")
    return "\n".join(lines)
