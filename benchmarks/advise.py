"""How well `splitcodec advise` predicts codecs that it has not seen, one split left out at a time.

    python benchmarks/advise.py results/splits data/models/smollm2-135m

reads the representations and sensitivities that an experiment with many splits left, fits the
closed-form codec at each split and λ, measures its rate and divergence through the frozen back, and
compares with the prediction from statistics alone, whose correction comes from the other splits.
Prints the error of the predicted rate and what the recommended split costs beside the best one.
What was measured is kept under --work, so that an interrupted run goes on and splits can be
measured by several processes.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.activations.store import Activations
from splitcodec.bounds.advice import (
    Calibration,
    Probe,
    advise,
    compare_outputs,
    probe,
    statistics_of,
)
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.errors import InputError
from splitcodec.splitting.model import SplitModel
from splitcodec.training.sensitivity import load_sensitivity


def main() -> None:
    """Measure what is missing, then compare."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    stores = arguments.results / "activations" / arguments.model.name
    splits = arguments.split or sorted(int(p.name[5:]) for p in stores.glob("split*"))
    model = None
    for split in splits:
        if not (arguments.work / f"{split}.json").exists():
            model = model or SplitModel.load(arguments.model)
            measure(arguments, model, stores, split)
    rows = [json.loads((arguments.work / f"{split}.json").read_text()) for split in splits]
    statistics = [load_statistics(arguments, stores, split)[0] for split in splits]
    for target in (0.02, 0.05, 0.1):
        try:
            compare(statistics, rows, target)
        except InputError as error:
            print(f"\nperplexity +{target:.0%}: {error}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("model", type=Path, help="directory; its name is that of the results")
    parser.add_argument("--work", type=Path, default=Path("results/advise"))
    parser.add_argument("--split", type=int, action="append")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--lambdas", type=float, nargs="+", default=[2e-5, 6e-5, 1.8e-4, 6e-4], help="both sides"
    )
    return parser.parse_args()


def load_statistics(arguments, stores, split):
    """The statistics of a split from its stored training representations, and their material."""
    train = Activations(stores / f"split{split}/train.parquet")
    place = arguments.results / "sensitivity" / arguments.model.name / f"split{split}.safetensors"
    length = train.tokens / len(train)
    moments, sensitivity = moments_of(train), load_sensitivity(place)[0].matrix
    return statistics_of(split, moments, sensitivity, length), moments, sensitivity


def measure(arguments, model, stores, split) -> None:
    """Probe and codecs of one split, as JSON. The probe sees training text where it is stored."""
    own, *material = load_statistics(arguments, stores, split)
    train = Activations(stores / f"split{split}/train.parquet")
    evaluation = Activations(stores / f"split{split}/evaluation.parquet")
    references = Activations(stores / "final/evaluation.parquet")
    pair = evaluation, references
    if (stores / "final/train.parquet").exists():
        pair = train, Activations(stores / "final/train.parquet")
    weights = tuple(arguments.lambdas)
    probed = probe(model, *pair, own, weights, arguments.sequences)
    material.append(sample_tokens(train, 16384, 0))
    rows = range(min(arguments.sequences, len(evaluation)))
    batch, reference = evaluation.read(rows), references.read(rows)
    bits, kl, rise = [], [], []
    for weight in weights:
        codec = fit_klt(KltHyperparameters(), *material, weight)
        with torch.inference_mode():
            estimate = codec(batch.representation, batch.lengths)
            figures = compare_outputs(model, split, estimate.reconstruction, batch, reference)
        bits.append(float(estimate.bits.sum() / batch.lengths.sum()))
        kl.append(float(figures[0].mean()))
        rise.append(float(figures[1].mean()))
        print(f"split {split} λ {weight:g}: {bits[-1]:.1f} bits/token, KL {kl[-1]:.4f}", flush=True)
    parts = {key: getattr(probed, key).tolist() for key in ("kl", "rise", "rise_error")}
    report = {"lambdas": weights, "bits": bits, "kl": kl, "rise": rise, "probe": parts}
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / f"{split}.json").write_text(json.dumps(report))


def compare(statistics, rows, target: float) -> None:
    """Predict each split with the correction of the others."""
    splits = [own.split for own in statistics]
    probes = [
        Probe(tuple(row["lambdas"]), *(np.array(row["probe"][key]) for key in PROBED))
        for row in rows
    ]
    ratio = sum(sum(row["rise"]) for row in rows) / sum(sum(row["kl"]) for row in rows)
    wanted = math.log1p(target) / ratio
    true = [rate_at_divergence(row, wanted) for row in rows]
    plain = predict(statistics, probes, target, Calibration(1.0, 0.0, ratio))
    logs = [math.log(true[i] / plain[split]) for i, split in enumerate(splits)]
    predicted = {}
    for i, split in enumerate(splits):
        others = np.array(logs[:i] + logs[i + 1 :])
        predicted[split] = plain[split] * math.exp(others.mean())
    errors = [abs(predicted[split] / value - 1) for split, value in zip(splits, true, strict=True)]
    print(f"\nperplexity +{target:.0%} (KL {wanted:.4f} nats)\nsplit  measured  predicted  error")
    for split, value, error in zip(splits, true, errors, strict=True):
        print(f"{split:5d} {value:9.1f} {predicted[split]:10.1f} {error:6.1%}")
    chosen = min(predicted, key=predicted.get)
    worse = true[splits.index(chosen)] / min(true) - 1
    correction, spread = math.exp(np.mean(logs)), np.std(logs, ddof=1)
    print(f"median error {np.median(errors):.1%}, largest {max(errors):.1%}")
    print(f"recommended split {chosen} costs {worse:.1%} more than the best")
    print(f"correction over all splits {correction:.3f}, spread {spread:.3f} (logarithm)")


PROBED = ("kl", "rise", "rise_error")


def predict(statistics, probes, target, calibration) -> dict[int, float]:
    """Bits a token of each split."""
    lines = advise(statistics, probes, target, calibration)
    return {line.split: line.bits_per_token for line in lines}


def rate_at_divergence(row, wanted: float) -> float:
    """Of the fitted codecs, by interpolation of logarithms; nan where none was measured beyond."""
    if not row["kl"][0] <= wanted <= row["kl"][-1]:
        return math.nan
    return math.exp(np.interp(math.log(wanted), np.log(row["kl"]), np.log(row["bits"])))


if __name__ == "__main__":
    main()
