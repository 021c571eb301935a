"""Advice for a model and a text: gathers the statistics of all splits and prints what they say."""

import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from splitcodec.activations.extraction import extract
from splitcodec.activations.moments import moments_of
from splitcodec.activations.store import Activations
from splitcodec.bounds.advice import (
    Advice,
    Calibration,
    Devices,
    Probe,
    Statistics,
    break_even_bandwidth,
    latency,
    probe,
    statistics_of,
)
from splitcodec.bounds.advice import advise as advise_from
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel
from splitcodec.training.sensitivity import measure_sensitivity

CALIBRATION = Calibration(correction=1.19, spread=0.12)
"""Over fifteen splits of the embedded model and three targets `benchmarks/advise.py` found 1.12 to
1.29, the more the higher the target, and spreads of 0.07 to 0.10 over splits."""
BATCH = 2
_TOKENS_A_CHANNEL = 4
"""With fewer, small eigenvalues of the covariance come out too small."""


def advise(
    model: SplitModel, tokens: Path, splits: list[int], target: float, sequences: int, seed: int
) -> list[Advice]:
    """One line a split, the cheapest first, from `sequences` sequences of `tokens`."""
    return advise_from(*survey(model, tokens, splits, sequences, seed), target, CALIBRATION)


def survey(
    model: SplitModel, tokens: Path, splits: list[int], sequences: int, seed: int
) -> tuple[list[Statistics], list[Probe]]:
    """The statistics and the probe of each split, from `sequences` sequences of `tokens`.

    One forward pass makes the representations, one backward pass of half of them the sensitivity,
    and the back runs on four of them for each probed λ. Representations lie in a temporary folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = {k: Path(folder) / f"{k}.parquet" for k in [*splits, model.blocks]}
        # float32: some models' representations exceed what half precision holds.
        extract(model, tokens, places, torch.float32, BATCH, sequences)
        stores = {k: Activations(path) for k, path in places.items()}
        final = stores.pop(model.blocks)
        _warn_of_few(final)
        fisher = measure_sensitivity(model, stores, max(2, sequences // 2), BATCH, seed)
        statistics, probes = [], []
        for k, store in progress(stores.items(), "probing"):
            length = store.tokens / len(store)
            own = statistics_of(k, moments_of(store), fisher[k].matrix, length)
            statistics.append(own)
            probes.append(probe(model, store, final, own, seed=seed))
    return statistics, probes


def _warn_of_few(store: Activations) -> None:
    found = store.tokens / store.channels
    if found < _TOKENS_A_CHANNEL:
        due = f"{found:.1f} tokens a channel, {_TOKENS_A_CHANNEL} are due"
        print(f"predicted rates are too low: {due}; take more text or --sequences", file=sys.stderr)


def print_advice(
    lines: list[Advice], blocks: int, target: float, devices: Devices | None
) -> dict[str, Any]:
    """Print the table and the recommendation; returns the same as plain data."""
    table = Table(title=f"predicted at perplexity {target:+.1%}, the cheapest split first")
    headings = ["split", "λ, nats/bit", "bits/token", "68 % interval"]
    if devices:
        headings += ["latency, ms/token", "break-even, Mbit/s"]
    for heading in headings:
        table.add_column(heading, justify="right")
    rows = []
    for line in lines:
        row = asdict(line)
        cells = [str(line.split), f"{line.rate_weight:.2g}", f"{line.bits_per_token:,.0f}"]
        cells.append(f"{line.low:,.0f} – {line.high:,.0f}")
        if devices:
            row["latency_seconds_per_token"] = latency(line, blocks, devices)
            bandwidth = break_even_bandwidth(line, blocks, devices)
            # JSON knows no infinity: None is that splitting does not pay on any link.
            row["break_even_bits_per_second"] = bandwidth if math.isfinite(bandwidth) else None
            cells.append(f"{1000 * row['latency_seconds_per_token']:.3g}")
            cells.append(f"{bandwidth / 1e6:.3g}" if math.isfinite(bandwidth) else "never")
        rows.append(row)
        table.add_row(*cells)
    best = rows[0]
    if devices:
        best = min(rows, key=lambda row: row["latency_seconds_per_token"])
    console = Console()
    console.print(table)
    console.print(f"split before block {best['split']}, with λ = {best['rate_weight']:.2g}")
    if devices and best["latency_seconds_per_token"] >= 1 / devices.sender_speed:
        whole = 1000 / devices.sender_speed
        console.print(f"the whole model on the sender is no slower: {whole:.3g} ms/token")
    return {"target": target, "recommended": best, "splits": rows}
