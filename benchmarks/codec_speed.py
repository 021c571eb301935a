"""How long does a representation take to bytes and back, against the compressors that are there?

Run: python benchmarks/codec_speed.py --activations results/default/activations/MODEL/split20/\
evaluation.parquet --codec results/default/codecs/MODEL/split20/klt/lambda0.0001-seed0 … \
[--model data/models/MODEL]

*prefill*: a batch of sequences at once; *decode*: one sequence, one token at a time. Schemes run in
turn, several times, on one machine and in one process; times are the least of each scheme's;
*coder* is the part of both between symbols and bytes, the rest is transform and network. Ratios
are of encode plus decode to Deflate (zlib, level 6) on the same representation in fp16, as it lies
in memory, one call a sequence or token. *CompressAI* is the same codec as its library would code
it: our transform, networks and tables, in float32, between its entropy models, without what makes
ours decode alike on any machine. *Baselines* stand against the compressor's own calls, spread over
as many cores, on the very bytes that they give it, and on the representation in fp16.
"""

import argparse
import copy
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lz4.frame
import torch
import zstandard
from torch import Tensor

from splitcodec.activations.store import Activations, Batch
from splitcodec.codecs.base import Codec
from splitcodec.codecs.direct_access import DirectAccess
from splitcodec.codecs.hyperprior import Hyperprior
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.registry import build_codec, load_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.coding import entropy
from splitcodec.coding.clock import coder_clock
from splitcodec.coding.threads import in_threads
from splitcodec.densities.location_scale import table_scales
from splitcodec.splitting.model import SplitModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from compressai_oracle import entropy_models

STREAMED_TOKENS = 64
BASELINES = ["fp16", "int8", "int6", "int4", "int3", "int2"]
COMPRESSORS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "deflate 6": (lambda data: zlib.compress(data, 6), zlib.decompress),
    "zstd 3": (lambda data: zstandard.compress(data, 3), zstandard.decompress),
    "zstd 19": (lambda data: zstandard.compress(data, 19), zstandard.decompress),
    "lz4": (lz4.frame.compress, lz4.frame.decompress),
}


@dataclass
class Scheme:
    """A way to bytes and back, and its least seconds; `seldom`: too slow for many runs.

    `coder`: of the fastest run, the seconds between symbols and bytes, there and back, which our
    codecs alone tell.
    """

    name: str
    encode: Callable[[], list[Any]]
    decode: Callable[[list[Any]], object]
    seldom: bool = False
    size: int = 0
    there: float = float("inf")
    back: float = float("inf")
    coder: tuple[float, float] = (0.0, 0.0)

    @property
    def both(self) -> float:
        """Seconds there and back."""
        return self.there + self.back

    def run(self) -> None:
        """Once, there and back; keeps the least times."""
        coder_clock.reset()
        streams, there = timed(self.encode)
        coder_there = coder_clock.seconds
        _, back = timed(lambda: self.decode(streams))
        if there + back < self.both:
            self.coder = coder_there, coder_clock.seconds - coder_there
        self.size = sum(map(len, streams))
        self.there, self.back = min(self.there, there), min(self.back, back)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Its result and its seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def measure(schemes: list[Scheme], repeats: int) -> None:
    """All schemes in turn, so that what else the machine does meets all alike."""
    for round_ in range(repeats + 1):
        for scheme in schemes:
            if round_ < 3 or not scheme.seldom:
                scheme.run()


def compressors(
    packets: list[bytes],
    suffix: str = "",
    names: Iterable[str] = COMPRESSORS,
    spread: bool = False,
) -> list[Scheme]:
    """The lossless compressors, one call a packet; all calls on one core, or `spread` over all."""

    def scheme(name: str) -> Scheme:
        there, back = COMPRESSORS[name]
        return Scheme(
            name + suffix,
            lambda: in_threads(there, packets) if spread else list(map(there, packets)),
            lambda z: in_threads(back, z) if spread else list(map(back, z)),
            name == "zstd 19",
        )

    return [scheme(name) for name in names]


def whole(name: str, codec: Any, batch: Batch, seldom: bool = False) -> Scheme:
    """A batch of sequences at once."""
    return Scheme(
        name,
        lambda: codec.compress(batch.representation, batch.lengths, batch.tokens),
        lambda coded: codec.decompress(coded, batch.lengths),
        seldom,
    )


def streamed(name: str, codec: Codec, sequence: Tensor) -> Scheme:
    """One sequence token by token."""

    def encode() -> list[bytes]:
        stream = codec.stream()
        return [stream.encode(piece) for piece in sequence.split(1)]

    def decode(packets: list[bytes]) -> list[Tensor]:
        stream = codec.stream()
        return [stream.decode(packet) for packet in packets]

    return Scheme(name, encode, decode)


class AsCompressAI:
    """A codec's transform, networks and tables, coded as CompressAI's mean-scale models code."""

    def __init__(self, codec: TransformCodec) -> None:
        self.codec, models = codec, entropy_models()
        gaussian = models.GaussianConditional(table_scales().tolist())
        self.gaussian = under(gaussian, codec.tables("latent"))
        self.first, self.memories = 0, {}
        if isinstance(codec, Hyperprior):
            bottleneck = models.EntropyBottleneck(codec.hyperparameters.side_channels)
            self.bottleneck = under(bottleneck, codec.tables("side"))

    def compress(self, representation: Tensor, lengths: Tensor, tokens: Tensor) -> list[bytes]:
        """One or two strings a sequence."""
        means = self._means(representation.shape[1])
        latent, side = self.codec.latent(representation - means), []
        if isinstance(self.codec, Hyperprior):
            values = self.codec.side(latent, Known(means), self.memories.get("side"))
            side = self.bottleneck.compress(values.transpose(1, 2))
        mean, indexes = self._parameters(side, len(lengths), representation.shape[1])
        return side + self.gaussian.compress(latent, indexes, mean)

    def decompress(self, strings: list[bytes], lengths: Tensor) -> Tensor:
        """What our codec decodes, up to rounding."""
        rows, tokens = len(lengths), int(lengths.max())
        mean, indexes = self._parameters(strings[:-rows], rows, tokens)
        increment = self.gaussian.decompress(strings[-rows:], indexes)
        deviation = self.codec.reconstruct(increment if mean is None else mean + increment)
        return deviation + self._means(tokens)

    def stream(self) -> "AsCompressAI":
        """One end of a sequence that is coded token by token."""
        end = copy.copy(self)
        if isinstance(self.codec, Hyperprior):
            networks = {"side": self.codec.side_analysis, "prediction": self.codec.prediction}
            end.memories = {name: net.memories(1, 64) for name, net in networks.items()}
        return end

    def encode(self, piece: Tensor) -> bytes:
        """The packet of the next token: its strings, and last how long the first is."""
        strings = self.compress(piece[None], torch.tensor([1]), None)
        self.first += 1
        return b"".join(strings) + len(strings[0]).to_bytes(2)

    def decode(self, packet: bytes) -> Tensor:
        """See `encode`."""
        size = int.from_bytes(packet[-2:])
        strings = [part for part in (packet[:size], packet[size:-2]) if part]
        (decoded,) = self.decompress(strings, torch.tensor([1]))
        self.first += 1
        return decoded

    def _means(self, tokens: int) -> Tensor:
        return self.codec.means(None, tokens, self.first)[0]

    def _parameters(
        self, side: list[bytes], rows: int, tokens: int
    ) -> tuple[Tensor | None, Tensor]:
        """Mean of each latent and its table."""
        if not isinstance(self.codec, Hyperprior):
            scales = self.codec.scales().float().expand(rows, tokens, -1)
            return None, self.gaussian.build_indexes(scales)
        values = self.bottleneck.decompress(side, (tokens,)).transpose(1, 2)
        outputs = self.codec.prediction(values, self.memories.get("prediction"))
        mean, log_scale = self.codec.parameters_from(outputs, Known(values))
        return mean, self.gaussian.build_indexes(log_scale.exp())


def check_same(name: str, ours: Scheme, theirs: Scheme) -> None:
    """That two schemes decode alike."""
    one, other = (torch.cat(list(s.decode(s.encode()))) for s in (ours, theirs))
    assert (one - other).norm() < 1e-3 * one.norm(), f"{name}: it is not the same codec"


def under(model: Any, tables: entropy.Tables) -> Any:
    """CompressAI's model with our tables."""
    model._quantized_cdf, model._cdf_length = tables.cumulative, tables.sizes
    model._offset = tables.lowest
    return model


def coders(name: str, codec: Codec, batch: Batch) -> tuple[int, Scheme, Scheme]:
    """Number of the codec's latents; our entropy coder and CompressAI's on them."""
    put = entropy.Encoder.put
    with patch.object(entropy.Encoder, "put", autospec=True, side_effect=put) as recorded:
        codec.compress(batch.representation, batch.lengths, batch.tokens)
    symbols, indexes, tables = recorded.call_args.args[1:]  # the last that it codes
    flat = symbols.flatten(1), indexes.flatten(1)
    ours = Scheme(name, lambda: entropy.encode(*flat, tables),
                  lambda coded: entropy.decode(coded, flat[1], tables))  # fmt: skip
    model = under(entropy_models().GaussianConditional(table_scales().tolist()), tables)
    values, used = symbols.float(), indexes.clamp_min(0)
    theirs = Scheme("CompressAI", lambda: model.compress(values, used),
                    lambda coded: model.decompress(coded, used))  # fmt: skip
    return symbols.numel(), ours, theirs


class Report:
    """Prints tables, and keeps what there is a target for."""

    def __init__(self) -> None:
        self.targets: list[tuple[str, float, str, float]] = []

    def target(self, what: str, value: float, sense: str, limit: float) -> None:
        """`sense`: whether the value must be ≤ or ≥ the limit."""
        self.targets.append((what, value, sense, limit))

    def table(self, title: str, schemes: list[Scheme], tokens: int, raw: int) -> None:
        """Rows of µs a token, with ratios to the first row; `raw` in bytes, of all tokens."""
        load = os.getloadavg()[0]
        print(f"\n{title}, {tokens} tokens, load {load:.1f}: µs a token, MB/s of fp16, bytes")
        heads = "encode", "of it coder", "decode", "of it coder", "MB/s", "bytes", "ratio"
        print(" " * 40 + "".join(f"{head:>12}" for head in heads))
        for scheme in schemes:
            parts = scheme.there, scheme.coder[0], scheme.back, scheme.coder[1]
            times = "".join(f"{1e6 * seconds / tokens:12.2f}" for seconds in parts)
            speed, share = raw / scheme.both / 1e6, scheme.both / schemes[0].both
            print(f"{scheme.name:40}{times}{speed:12.1f}{scheme.size / tokens:12.0f}{share:12.3f}")

    def verdict(self) -> None:
        """All targets."""
        print(f"\n{'targets':64}{'measured':>10}{'target':>10}")
        for what, value, sense, limit in self.targets:
            met = value <= limit if sense == "≤" else value >= limit
            print(f"{what:64}{value:10.3f}{sense:>4}{limit:6.2f}{'' if met else '  missed'}")


def report(codecs: dict[str, Codec], batch: Batch, repeats: int, model: SplitModel | None) -> None:
    """The tables of one number of threads."""
    threads, out = torch.get_num_threads(), Report()
    rows = [row[:n] for row, n in zip(batch.representation, batch.lengths.tolist(), strict=True)]
    halves = [row.half().numpy().tobytes() for row in rows]
    tokens, raw = int(batch.lengths.sum()), sum(map(len, halves))
    lossless, schemes, twins = compressors(halves), {}, {}
    for name, codec in codecs.items():
        schemes[name] = whole(name, codec, batch, seldom=isinstance(codec, DirectAccess))
        if isinstance(codec, Klt | Hyperprior) and not codec.levels and not codec.sends_tokens:
            twins[name] = whole(f"{name} CompressAI", AsCompressAI(codec), batch)
            check_same(name, schemes[name], twins[name])
    every = [*lossless, *schemes.values(), *twins.values()]
    measure(every, repeats)
    out.table(f"prefill, {threads} threads", every, tokens, raw)
    for name, scheme in schemes.items():
        limit = 0.35 if isinstance(codecs[name], Klt) else 1.0
        out.target(f"{name}: of Deflate's time", scheme.both / lossless[0].both, "≤", limit)
        if name in twins:
            out.target(f"{name}: CompressAI's to ours", twins[name].both / scheme.both, "≥", 5.0)
    if model:
        forward = min(timed(lambda: model.model(batch.tokens[:1]))[1] for _ in range(repeats + 1))
        forward /= batch.tokens.shape[1]
        print(f"the model's own forward pass: {1e6 * forward:.0f} µs a token")
        for name, scheme in schemes.items():
            out.target(f"{name}: of the model's forward", scheme.both / tokens / forward, "≤", 0.1)
    for name, codec in codecs.items():
        if codec.coder == "ans":
            count, ours, theirs = coders(name, codec, batch)
            measure([ours, theirs], repeats)
            for way in ("there", "back"):
                a, b = getattr(ours, way), getattr(theirs, way)
                title = f"{name}: M symbols/s {way} (CompressAI {count / b / 1e6:.1f})"
                out.target(title, count / a / 1e6, "≥", 50)
    baselines(out, batch, rows, halves, repeats)
    pieces = [row.half().numpy().tobytes() for row in rows[0][:STREAMED_TOKENS]]
    every, sequence = compressors(pieces), rows[0][:STREAMED_TOKENS]
    for name, codec in codecs.items():
        if codec.coder == "ans" and not codec.sends_tokens:
            every.append(streamed(name, codec, sequence))
        if name in twins:
            twin = streamed(f"{name} CompressAI", AsCompressAI(codec), sequence)
            check_same(name, every[-1], twin)
            every.append(twin)
    measure(every, repeats)
    out.table(f"decode, {threads} threads", every, len(pieces), sum(map(len, pieces)))
    out.verdict()


def baselines(
    out: Report, batch: Batch, rows: list[Tensor], halves: list[bytes], repeats: int
) -> None:
    """Quantised and compressed, against the compressor's own calls on as many cores."""
    tokens, raw = int(batch.lengths.sum()), sum(map(len, halves))
    for coder, name in {"deflate": "deflate 6", "zstd": "zstd 3"}.items():
        (plain,) = compressors(halves, " on fp16", [name], spread=True)
        schemes = [plain]
        for baseline in BASELINES:
            codec = build_codec(baseline, batch.representation.shape[-1], {})
            codec.coder = coder
            packed = codec.packed(batch.representation, batch.lengths)
            schemes += compressors(packed, f" on {baseline}'s bytes", [name], spread=True)
            schemes.append(whole(f"{baseline} + {coder}", codec, batch))
        measure(schemes, repeats)
        out.table(f"baselines, {coder}", schemes, tokens, raw)
        for own, scheme in zip(schemes[1::2], schemes[2::2], strict=True):
            out.target(f"{scheme.name}: of {own.name}", scheme.both / own.both, "≤", 1.1)
            out.target(f"{scheme.name}: of {plain.name}", scheme.both / plain.both, "≤", 1.1)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--activations", type=Path, required=True)
    parser.add_argument("--codec", type=Path, nargs="+", action="extend", required=True)
    parser.add_argument("--model", type=Path, help="to compare with its forward pass")
    parser.add_argument("--sequences", type=int, default=16, help="at once, if there are so many")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    activations = Activations(args.activations)
    batch = activations.read(range(min(args.sequences, len(activations))))
    model = SplitModel.load(args.model) if args.model else None
    codecs = {f"{d.parent.name} {d.name}": load_codec(d)[0] for d in args.codec}
    for codec in codecs.values():
        if model:
            codec.attach(model.embedding)
    for threads in args.threads:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            report(codecs, batch, args.repeats, model)


if __name__ == "__main__":
    main()
