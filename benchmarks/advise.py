"""How well `splitcodec advise` predicts trained codecs, one split left out at a time.

    python benchmarks/advise.py results/splits data/models/smollm2-135m

surveys the training text of an experiment with many splits as `splitcodec advise` does, without any
codec, and compares what it predicts for each split with the files of the experiment's closed-form
codec. The correction for channels that are no Gaussians comes from the other splits. Divergence is
known far better than perplexity on few documents, so the divergence at which perplexity rises as
wanted is one for all splits, as the points have it. Prints the error of the predicted rate and what
the recommended split costs beside the best one.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd

from splitcodec.bounds.advice import Calibration, Probe, Statistics, advise
from splitcodec.bounds.advising import survey
from splitcodec.errors import InputError
from splitcodec.report.curves import curves_of, rate_at_divergence
from splitcodec.report.table import read_points
from splitcodec.splitting.model import SplitModel


def main() -> None:
    """Survey, then compare at three targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("model", type=Path, help="directory; its name is that of the results")
    parser.add_argument("--codec", default="klt")
    parser.add_argument("--sequences", type=int, default=32, help="as of `splitcodec advise`")
    arguments = parser.parse_args()
    points = read_points(arguments.results / "points.parquet")
    points = points[
        (points["codec"] == arguments.codec) & (points["model"] == arguments.model.name)
    ]
    splits = sorted(int(split) for split in points["split"].unique())
    tokens = arguments.results / "tokens" / arguments.model.name / "train.parquet"
    started = time.perf_counter()
    surveyed = survey(SplitModel.load(arguments.model), tokens, splits, arguments.sequences, 0)
    print(f"surveyed {len(splits)} splits in {time.perf_counter() - started:.0f} s")
    for target in (0.02, 0.05, 0.1):
        try:
            compare(*surveyed, points, target)
        except InputError as error:
            print(f"\nperplexity +{target:.0%}: {error}")


def compare(
    statistics: list[Statistics], probes: list[Probe], points: pd.DataFrame, target: float
) -> None:
    """Predict each split with the correction of the others."""
    rises = points["cross_entropy"] - points["cross_entropy_uncoded"]
    ratio = rises.sum() / points["kl"].sum()
    wanted = math.log1p(target) / ratio
    true = measured(points, wanted)
    lines = advise(statistics, probes, target, Calibration(1.0, 0.0, ratio))
    plain = {line.split: line.bits_per_token for line in lines}
    logs = {split: math.log(true[split] / plain[split]) for split in true}
    predicted = {
        split: plain[split] * math.exp(np.mean([logs[k] for k in true if k != split]))
        for split in true
    }
    errors = {split: abs(predicted[split] / true[split] - 1) for split in true}
    print(f"\nperplexity +{target:.0%} (KL {wanted:.4f} nats)\nsplit  measured  predicted  error")
    for split, value in true.items():
        print(f"{split:5d} {value:9.1f} {predicted[split]:10.1f} {errors[split]:6.1%}")
    chosen = min(predicted, key=predicted.__getitem__)
    worse = true[chosen] / min(true.values()) - 1
    values = list(logs.values())
    print(
        f"median error {np.median(list(errors.values())):.1%}, largest {max(errors.values()):.1%}"
    )
    print(f"recommended split {chosen} costs {worse:.1%} more than the best")
    print(f"correction over all splits {math.exp(np.mean(values)):.3f}", end=", ")
    print(f"spread {np.std(values, ddof=1):.3f} (logarithm)")


def measured(points: pd.DataFrame, divergence: float) -> dict[int, float]:
    """Bits a token in files at a divergence in nats, by split."""
    curves = {curve.split: curve for curve in curves_of(points)}
    rates = {split: rate_at_divergence(curve, divergence) for split, curve in curves.items()}
    if missing := [str(split) for split, rate in rates.items() if rate is None]:
        raise InputError(
            f"no λ's on both sides of {divergence:.4f} nats at splits {', '.join(missing)}; "
            "add some to the experiment"
        )
    return rates


if __name__ == "__main__":
    main()
