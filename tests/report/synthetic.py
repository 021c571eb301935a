"""Artefacts of an experiment that never ran, with numbers as measured on a 135 M model."""

import hashlib
import json
import math
from itertools import product
from pathlib import Path

import numpy as np

from splitcodec.files import write_json, write_text
from splitcodec.report.table import collect, read_points, write_points

MODEL = "smollm2-135m"
SPLITS = (10, 20)
LAMBDAS = (0.0001, 0.0003, 0.001, 0.003)
CODERS = ("raw", "deflate", "zstd")
UNCODED = math.log(26.76)
TOKENS, DOCUMENTS = 8192, 9
GIT_COMMIT = "4f0c2a9d1e7b8c3a5d6f70819a2b3c4d5e6f7081"
HARDWARE = {
    "cpu": "AMD EPYC 9B14",
    "cores": 2,
    "threads": 2,
    "memory_gib": 23.4,
    "torch": "2.13.0",
}

# name: (rate in bits a token, perplexity) for each λ, at split 20
LEARNED = {
    "klt": [(1235, 27.27), (858, 28.01), (509, 30.84), (249, 41.29)],
    "hyperprior": [(1101, 27.18), (752, 27.92), (441, 30.11), (226, 37.0)],
}
# name: (rates raw, deflate and zstd, perplexity)
BASELINES = {
    "fp16": ((9216, 8610, 8555), 26.761),
    "int8": ((4624, 2893, 2764), 26.85),
    "int6": ((3744, 3201, 3195), 26.80),
    "int4": ((2592, 2211, 2115), 27.95),
    "int3": ((2016, 1592, 1479), 31.08),
    "int2": ((1440, 1105, 1031), 871.0),
}
# encode and decode in ms a token, and the share of both that the network takes
TIMES = {"klt": (0.021, 0.018, 0.6), "hyperprior": (0.19, 0.15, 0.9), "raw": (0.004, 0.003, 0.8)}
TIMES |= {"deflate": (0.11, 0.014, 0.06), "zstd": (0.019, 0.009, 0.2)}


def build(
    results: Path,
    splits: tuple[int, ...] = SPLITS,
    seeds: tuple[int, ...] = (0,),
    learned: tuple[str, ...] = tuple(LEARNED),
    baselines: tuple[str, ...] = tuple(BASELINES),
    coders: tuple[str, ...] = CODERS,
) -> Path:
    """Write codecs, evaluation, latency, bounds and references under `results`."""
    for split in splits:
        times = []
        for codec, (index, value), seed in product(learned, enumerate(LAMBDAS), seeds):
            times.append(_learned(results, split, codec, index, value, seed))
        for codec in baselines:
            times += _baseline(results, split, codec, coders)
        latency = {"hardware": HARDWARE, "tokens": 2048, "points": times}
        write_json(results / f"latency/{MODEL}/split{split}.json", latency)
        write_json(results / f"bounds/{MODEL}/split{split}.json", _bounds(split, learned, seeds))
    write_json(results / f"references/{MODEL}.json", _references())
    return results


def collect_points(results: Path) -> Path:
    """Make the table of points; returns points.parquet, with points.csv beside it."""
    paths = (results / "points.csv", results / "points.parquet")
    parts = (evaluations(results), codecs(results), latencies(results))
    collect("default", *parts, GIT_COMMIT, *paths)
    return paths[1]


def evaluations(results: Path) -> list[Path]:
    return sorted(results.glob("evaluation/*/*/*/*.json"))


def codecs(results: Path) -> list[Path]:
    return sorted(results.glob("codecs/*/*/*/*/codec.json"))


def latencies(results: Path) -> list[Path]:
    return sorted(results.glob("latency/*/*.json"))


def _digest(*parts) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _at_split(split: int, rate: float, perplexity: float, seed: int = 0) -> tuple[float, float]:
    """Rates fall towards the front of the model; seeds differ by a percent."""
    shift = 1 - 0.02 * (20 - split) + 0.01 * seed
    return rate * shift, perplexity * (1 + 0.002 * seed)


def _row(split, codec, coder, mode, value, seed, file_rate, perplexity, estimated=True) -> dict:
    cross_entropy = math.log(perplexity)
    kl = max(cross_entropy - UNCODED, 0.0004) * 1.1
    return {
        "model": MODEL,
        "split": split,
        "codec": codec,
        "coder": coder,
        "mode": mode,
        "lambda": value,
        "seed": seed,
        "partition": "evaluation",
        "tokens": TOKENS,
        "documents": DOCUMENTS,
        "bits_per_token_estimated": file_rate * 0.994 if estimated else None,
        "bits_per_token_payload": file_rate * 0.998,
        "bits_per_token_file": file_rate,
        "cross_entropy": cross_entropy,
        "cross_entropy_low": cross_entropy - 0.05,
        "cross_entropy_high": cross_entropy + 0.06,
        "perplexity": perplexity,
        "cross_entropy_uncoded": UNCODED,
        "kl": kl,
        "kl_low": kl * 0.93,
        "kl_high": kl * 1.08,
        "top1_agreement": math.exp(-0.9 * math.sqrt(kl)),
        "codec_hash": _digest(split, codec, value, seed),
        "data_hash": _digest("data"),
    }


def _learned(results, split, codec, index, value, seed) -> dict:
    rate, perplexity = _at_split(split, *LEARNED[codec][index], seed)
    variant = f"lambda{value}-seed{seed}"
    steps = {"steps": 150, "width": 96} if codec == "hyperprior" else {"samples": 16384}
    _codec(results, split, codec, variant, value, seed, steps, 71.5 if "width" in steps else 9.8)
    history = _history(rate, steps.get("steps", 0))
    lines = "".join(json.dumps(line) + "\n" for line in history)
    write_text(results / f"codecs/{MODEL}/split{split}/{codec}/{variant}/training.jsonl", lines)
    row = _row(split, codec, "ans", "frozen", value, seed, rate, perplexity)
    path = results / f"evaluation/{MODEL}/split{split}/{codec}/{variant}.json"
    write_json(path, {"points": [row]})
    return _time(codec, variant, "ans", *TIMES[codec])


def _history(rate: float, steps: int) -> list[dict]:
    rng = np.random.default_rng(round(rate))
    lines = []
    for step in range(0, steps, 10):
        bits = rate * (1 + math.exp(-step / 40)) + rng.normal(0, 0.01 * rate)
        distortion = 0.05 + 0.3 * math.exp(-step / 60)
        fields = {"bits_per_token": bits, "distortion": distortion, "loss": distortion + bits / 3e3}
        phase = "fit" if step < 120 else "polish"
        lines.append({"phase": phase, "step": step} | fields)
        if step % 50 == 0:
            lines[-1]["validation_loss"] = fields["loss"] * 1.05
    return lines


def _baseline(results, split, codec, coders) -> list[dict]:
    rates, perplexity = BASELINES[codec]
    _codec(results, split, codec, "fixed", None, None, {}, 0.0)
    rows = []
    for coder in coders:
        rate = rates[CODERS.index(coder)]
        shifted, quality = _at_split(split, rate, perplexity)
        rate = rate if coder == "raw" else shifted
        estimated = coder == "raw"
        rows.append(_row(split, codec, coder, "none", None, None, rate, quality, estimated))
    write_json(results / f"evaluation/{MODEL}/split{split}/{codec}/fixed.json", {"points": rows})
    factor = 0.2 + 0.1 * int(codec[3:] if codec.startswith("int") else 16)
    return [
        _time(codec, "fixed", coder, TIMES[coder][0] * factor, TIMES[coder][1] * factor, 0.3)
        for coder in coders
    ]


def _codec(results, split, codec, variant, value, seed, hyperparameters, seconds) -> None:
    write_json(
        results / f"codecs/{MODEL}/split{split}/{codec}/{variant}/codec.json",
        {
            "codec": codec,
            "name": codec,
            "mode": "none" if value is None else "frozen",
            "lambda": value,
            "seed": seed,
            "hyperparameters": hyperparameters,
            "model": MODEL,
            "model_hash": _digest("model"),
            "split": split,
            "channels": 576,
            "data_hash": _digest("training data"),
            "train_seconds": seconds,
            "versions": {"python": "3.11.2", "splitcodec": "0.1.0", "torch": "2.13.0"},
            "hash": _digest(split, codec, value, seed),
        },
    )


def _time(codec, variant, coder, encode, decode, network) -> dict:
    return {
        "codec": codec,
        "variant": variant,
        "coder": coder,
        "encode_ms_per_token": encode,
        "decode_ms_per_token": decode,
        "network_ms_per_token": network * (encode + decode),
        "coder_ms_per_token": (1 - network) * (encode + decode),
    }


def _bounds(split: int, learned: tuple[str, ...], seeds: tuple[int, ...]) -> dict:
    codecs = [
        {
            "codec": codec,
            "lambda": value,
            "seed": seed,
            "bits_per_token": _at_split(split, *LEARNED[codec][index], seed)[0] * 1.09,
        }
        for codec in learned
        for index, value in enumerate(LAMBDAS)
        for seed in seeds
    ]
    return {
        "model": MODEL,
        "split": split,
        "partition": "evaluation",
        "tokens": TOKENS,
        "channels": 576,
        "covariance": {
            "representation_bits_per_token": 1742.0 + 20 * split,
            "standard_error": 11.0,
            "given_previous": {"bits_per_token": 1588.0 + 20 * split, "standard_error": 11.0},
            "codecs": codecs,
        },
        "rademacher": {
            "value": 0.0421 + 0.001 * split,
            "standard_error": 0.0006,
            "upper": 0.0467 + 0.001 * split,
            "draws": 10_000,
            "samples": TOKENS,
        },
        "rate_distortion": [
            {
                "distortion": distortion,
                "shannon_bits_per_token": 300 * math.log2(5 / distortion),
                "gaussian_bits_per_token": 310 * math.log2(5 / distortion),
            }
            for distortion in (1e-3, 1e-2, 0.1, 1.0)
        ],
    }


def _references() -> dict:
    return {
        "model": MODEL,
        "partition": "evaluation",
        "vocabulary": 49152,
        "tokens": TOKENS,
        "documents": DOCUMENTS,
        "cross_entropy_uncoded": UNCODED,
        "cross_entropy_low": UNCODED - 0.05,
        "cross_entropy_high": UNCODED + 0.06,
        "perplexity_uncoded": math.exp(UNCODED),
        "token_ids_bits_per_token": math.log2(49152),
        "unigram_bits_per_token": 9.62,
        "model_bits_per_token": UNCODED / math.log(2),
        "ranks_low_bits_per_token": 2.9,
        "ranks_high_bits_per_token": 5.6,
    }


TOKENS_A_PICTURE = {10: 196, 20: 49}
FORMATS = {
    "jpeg": [(5, 20_000, 0.9), (40, 60_000, 0.2), (90, 200_000, 0.01)],
    "webp": [(1, 15_000, 0.7), (50, 45_000, 0.15), (90, 160_000, 0.012)],
}
# (rate in bits a picture, divergence) by quality


def make_pictures(results: Path, encoder: bool = False) -> Path:
    """Turn the results of `build` into those of an image classifier, or encoder; the table."""
    path = results / "points.parquet"
    points = read_points(path)
    tokens = points["split"].map(TOKENS_A_PICTURE)
    points["bits_per_picture"] = points["bits_per_token_file"] * tokens
    for end in ("", "_low", "_high"):
        points[f"cross_entropy{end}"] = UNCODED + points[f"kl{end}"]
    if encoder:
        points["feature_error"], points["top1_agreement"] = 2 * points["kl"], np.nan
    else:
        points["accuracy"], points["accuracy_uncoded"] = points["top1_agreement"] * 0.9, 0.9
    write_points(points, results / "points.csv", path)
    rows = [_picture(*item, f, encoder) for f, items in FORMATS.items() for item in items]
    write_json(results / f"pictures/{MODEL}.json", {"points": rows})
    for file in (results / "references").glob("*.json"):
        file.unlink()
    return path


def _picture(quality, bits, kl, format, encoder) -> dict:
    by_model = {"feature_error": 2 * kl} if encoder else {"accuracy": 0.9 - kl / 10}
    return {
        "model": MODEL,
        "split": 0,
        "codec": format,
        "quality": quality,
        "tokens": TOKENS,
        "bits_per_token_file": bits / 49,
        "bits_per_picture": bits,
        "cross_entropy": UNCODED + kl,
        "cross_entropy_uncoded": UNCODED,
        "kl": kl,
        "kl_low": 0.8 * kl,
        "kl_high": 1.2 * kl,
        "top1_agreement": None if encoder else 1 - kl / 3,
        **by_model,
        "encode_ms_per_token": 0.01,
        "decode_ms_per_token": 0.005,
    }
