"""What storing representations costs beside the forward pass that makes them:

    python benchmarks/extraction.py MODEL TOKENS --split 10 --split 20

Throughput of `splitcodec extract` against that of transformers' own model without its head, on the
same batches, alternating; prints tokens a second of both and their ratio. At the end of what is
timed all stores are complete on disk.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from transformers import AutoModel, PreTrainedModel

from splitcodec.activations.extraction import extract, spread_evenly
from splitcodec.inputs.tokens import read_tokens
from splitcodec.splitting.model import SplitModel


def main(
    directory: Annotated[Path, typer.Argument(help="of a fetched model")],
    tokens: Annotated[Path, typer.Argument(help="token file")],
    split: Annotated[list[int], typer.Option()] = [10, 20],
    sequences: int = 16,
    batch: int = 4,
    repeats: int = 5,
    dtype: str = "float32",
) -> None:
    """Print the medians and the ratio."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SplitModel.load(directory, dtype, device)
    plain = AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).to(device).eval()
    batches = batches_of(tokens, sequences, batch)
    count = sum(rows.numel() for rows in batches)
    seconds: dict[str, list[float]] = {"plain": [], "extract": []}
    with TemporaryDirectory() as folder:
        outputs = {k: Path(folder) / f"{k}.parquet" for k in [*split, model.blocks]}
        ways: dict[str, Callable[[], None]] = {
            "plain": lambda: forward(plain, batches),
            "extract": lambda: extract(model, tokens, outputs, torch.float16, batch, sequences),
        }
        for way in ways.values():  # to warm up
            way()
        for _ in range(repeats):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        typer.echo(f"{name:>8} {count / median:8.0f} tokens/s (of {sorted(seconds[name])})")
    typer.echo(f"   ratio {medians['plain'] / medians['extract']:8.3f}")


def batches_of(tokens: Path, sequences: int, batch: int) -> list[torch.Tensor]:
    """The batches that extraction makes of a token file."""
    table = read_tokens(tokens)
    chosen = [torch.from_numpy(table.sequences[row]).long()
              for row in spread_evenly(len(table.sequences), sequences)]  # fmt: skip
    return [
        torch.nn.utils.rnn.pad_sequence(chosen[start : start + batch], batch_first=True)
        for start in range(0, len(chosen), batch)
    ]


@torch.inference_mode()
def forward(model: PreTrainedModel, batches: list[torch.Tensor]) -> None:
    """The whole model without its head, nothing kept."""
    for rows in batches:
        model(input_ids=rows.to(model.device), use_cache=False).last_hidden_state.sum().item()


if __name__ == "__main__":
    typer.run(main)
