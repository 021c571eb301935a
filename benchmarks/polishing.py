"""What a step of polishing takes: `python benchmarks/polishing.py`, on a GPU if there is one.

A forward and backward pass through the blocks after the split and the head, of a model with
SmolLM2-135M's shape and random weights, in milliseconds; on a GPU with matrix products in TF32, as
training takes them there, and in full float32. `--processes` runs as many side by side.
"""

import subprocess
import sys
import time
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, LlamaConfig

from splitcodec.devices import device
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import divergence

LENGTH = 512
SHAPE = dict(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)


def main(
    split: Annotated[list[int], typer.Option(help="repeat for several")] = [10, 20],
    tokens: Annotated[list[int], typer.Option(help="a step; repeat for several")] = [1024, 4096],
    processes: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="at least, of each measurement")] = 2.0,
) -> None:
    """Print one line a measurement; with several processes, each prints its own."""
    if processes > 1:
        parts = [f"--split={k}" for k in split] + [f"--tokens={n}" for n in tokens]
        command = [sys.executable, __file__, *parts, f"--seconds={seconds}"]
        for process in [subprocess.Popen(command) for _ in range(processes)]:
            process.wait()
        return
    model = SplitModel(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).to(device()))
    model.requires_grad_(False)
    for count in tokens:
        for precision in ("high", "highest") if device().type == "cuda" else ("highest",):
            torch.set_float32_matmul_precision(precision)
            for k in split:
                taken = milliseconds(model, k, max(1, count // LENGTH), seconds)
                print(f"{count} tokens, split {k}, {precision}: {taken:.1f} ms", flush=True)


def milliseconds(model: SplitModel, split: int, sequences: int, seconds: float) -> float:
    """Of a step, the mean after one that warms up."""
    here = device()
    reference = torch.randn(sequences, LENGTH, model.channels, device=here)
    coded = (reference + 0.1).requires_grad_()
    mask = torch.ones(sequences, LENGTH, dtype=torch.bool, device=here)

    def step() -> None:
        coded.grad = None
        divergence(model, split, coded, reference, mask).backward()
        coded.grad.sum().item()  # waits for the GPU

    step()
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        step()
        steps += 1
    return 1000 * (time.perf_counter() - begun) / steps


if __name__ == "__main__":
    typer.run(main)
