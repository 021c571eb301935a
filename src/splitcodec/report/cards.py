"""Codec cards: what a trained codec is, what it costs, and how to load it, for people and programs.

Made from artefacts after evaluation, so that no number in a card was typed. A card is of a codec's
directory, that is of one λ and seed; its table has the whole curve, for choosing another λ.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_json, write_text
from splitcodec.report.table import perplexity_increase, read_points
from splitcodec.report.terms import PICTURES, terms_of

_SHOWN = {
    "lambda": "λ",
    "bits_per_token_file": "bits/token",
    "perplexity": "perplexity",
    "increase_percent": "increase, %",
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
    table = table.assign(increase_percent=perplexity_increase(table))
    paths = []
    for path in codecs:
        card = card_of(path, table)
        place = directory.joinpath(*path.parts[-5:-1])
        write_json(place / "card.json", card)
        write_text(place / "card.md", markdown(card))
        paths.append(place / "card.md")
    return paths


def card_of(path: Path, table: pd.DataFrame) -> dict[str, Any]:
    """The card of a codec.json; `table` has the columns of points.csv and `increase_percent`."""
    codec = read_json(path)
    same = table[(table["model"] == codec["model"]) & (table["split"] == codec["split"])]
    own = same[same["codec_hash"] == codec["hash"]]
    if own.empty:
        raise InputError(f"{path} has no point in the table; evaluate it and collect again")
    curve = same[(same["codec"] == codec["name"]) & (same["coder"] == own["coder"].iloc[0])]
    curve = curve[(curve["seed"] == codec["seed"]) | curve["seed"].isna()]
    row = own.iloc[0]
    return {
        "directory": str(path.parent),
        **{key: codec[key] for key in ("name", "codec", "mode", "lambda", "seed", "hash")},
        "codes": {key: codec[key] for key in ("model", "model_hash", "split", "channels")},
        "trained_on": {key: codec[key] for key in ("data_hash", "train_seconds")},
        "hyperparameters": codec["hyperparameters"],
        "evaluated_on": {
            "partition": row["partition"],
            "tokens": int(row["tokens"]),
            "documents": int(row["documents"]),
            "data_hash": row["data_hash"],
        },
        "uncoded_cross_entropy": float(row["cross_entropy_uncoded"]),
        "rates_by": terms_of(curve).unit,
        "points": [_point(line) for line in curve.sort_values("lambda").to_dict("records")],
        "hardware": row["hardware"],
        "versions": codec["versions"],
    }


def _point(row: dict[str, Any]) -> dict[str, Any]:
    names = _SHOWN_OF_PICTURES if pd.notna(row["bits_per_picture"]) else _SHOWN
    values = {name: None if pd.isna(row[name]) else float(row[name]) for name in names}
    return values | {"hash": row["codec_hash"]}


def markdown(card: dict[str, Any]) -> str:
    """The card as text."""
    codes, tested = card["codes"], card["evaluated_on"]
    weight = "" if card["lambda"] is None else f", λ = {card['lambda']:g} nats a bit"
    learned = _MODES[card["mode"].removesuffix("-adapters")]
    adapters = ", by low-rank adapters" if card["mode"].endswith("-adapters") else ""
    pictures = card["rates_by"] == PICTURES.unit
    load = _LOAD_PICTURES if pictures else _LOAD_TEXT
    load = load.format(directory=card["directory"], **codes)
    settings = ", ".join(f"`{k}: {v}`" for k, v in card["hyperparameters"].items()) or "none"
    return f"""# {card["name"]}{weight}

Codes the {codes["channels"]} channels between block {codes["split"] - 1} and block {codes["split"]}
of {codes["model"]} (weights `{codes["model_hash"][:16]}`), one stream a sequence, token by token.

- **codec**: `{card["codec"]}`, hash `{card["hash"]}`, seed {card["seed"]}
- **what learned**: {learned}{adapters}; {card["trained_on"]["train_seconds"]:.0f} s on
  tokens `{card["trained_on"]["data_hash"][:16]}`
- **hyper-parameters**: {settings}

## Rate and distortion

On {tested["tokens"]:,} tokens of {tested["documents"]} documents ({tested["partition"]}).
Rates are whole files; the row in bold is this codec, the others are the same codec at other λ.
Times were measured on {card["hardware"]}.

{_table(card)}

## Limits

- For these weights of this model at this split alone; other weights are refused by their hash.
- The quality is that on the data named above; on other data rate and loss differ.
- The streams carry a checksum of their symbols: a damaged one gives an error, not other numbers.
- Who has the codec and the back can read what was sent: coding is no encryption.

## Load it

```python
{load}
```
"""


def _table(card: dict[str, Any]) -> str:
    shown = _SHOWN_OF_PICTURES if card["rates_by"] == PICTURES.unit else _SHOWN
    shown = {n: said for n, said in shown.items() if any(p[n] is not None for p in card["points"])}
    lines = ["| " + " | ".join(shown.values()) + " |", "|" + " ---: |" * len(shown)]
    for point in card["points"]:
        cells = ["–" if point[name] is None else f"{point[name]:,.4g}" for name in shown]
        own = point["hash"] == card["hash"]
        lines.append("| " + " | ".join(f"**{cell}**" if own else cell for cell in cells) + " |")
    return "\n".join(lines)
