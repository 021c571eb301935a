"""How long does a representation take to bytes and back, against lossless compressors?

Run: python benchmarks/codec_speed.py --activations results/default/activations/MODEL/split20/\
evaluation.parquet --codec results/default/codecs/MODEL/split20/klt/lambda0.0001-seed0 … \
[--model data/models/MODEL]

*prefill*: a batch of sequences at once; *decode*: one sequence, one token at a time. Times are the
least of several repeats, one process, one machine, for 1 and 2 threads. Ratios are of encode plus
decode to Deflate (zlib, level 6) on the same representation in fp16, as it lies in memory. The
compressors get one call a sequence, or a token. CompressAI codes the symbols of each codec with
the same scales, and its time stands against that of our entropy coder on them.
"""

import argparse
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import torch
import zstandard

from splitcodec.activations.store import Activations, Batch
from splitcodec.codecs.base import Codec
from splitcodec.codecs.registry import load_codec
from splitcodec.coding import entropy
from splitcodec.coding.clock import coder_clock
from splitcodec.densities.location_scale import table_scales
from splitcodec.splitting.model import SplitModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from compressai_oracle import entropy_models

STREAMED_TOKENS = 64
COMPRESSORS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "deflate 6": (lambda data: zlib.compress(data, 6), zlib.decompress),
    "zstd 3": (lambda data: zstandard.compress(data, 3), zstandard.decompress),
    "zstd 19": (lambda data: zstandard.compress(data, 19), zstandard.decompress),
    "lz4": (lz4.frame.compress, lz4.frame.decompress),
}


def least(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least seconds of a call, after one to warm up, and of these those in the coder."""
    function()
    runs = []
    for _ in range(repeats):
        coder_clock.reset()
        start = time.perf_counter()
        function()
        runs.append((time.perf_counter() - start, coder_clock.seconds))
    return min(runs)


class Table:
    """Rows of milliseconds a token, with ratios to the first row."""

    def __init__(self, title: str, tokens: int) -> None:
        self.tokens, self.deflate = tokens, 0.0
        print(f"\n{title}, {tokens} tokens: ms a token, MB/s of fp16, bytes a token")
        print(f"{'':28}{'encode':>9}{'decode':>9}{'network':>9}{'coder':>9}"
              f"{'MB/s':>9}{'bytes':>8}{'of deflate':>12}")  # fmt: skip

    def row(self, name: str, encode: tuple, decode: tuple, size: int, raw: int) -> None:
        """Print one scheme; `size` and `raw` in bytes, of all tokens."""
        per_token = 1000 / self.tokens
        both, coder = encode[0] + decode[0], encode[1] + decode[1]
        self.deflate = self.deflate or both
        figures = [encode[0], decode[0], both - coder, coder]
        times = "".join(f"{seconds * per_token:9.4f}" for seconds in figures)
        share = both / self.deflate
        print(f"{name:28}{times}{raw / both / 1e6:9.1f}{size / self.tokens:8.0f}{share:12.2f}")


def compressors(table: Table, packets: list[bytes], repeats: int) -> None:
    """Rows of the lossless compressors, one call a packet."""
    raw = sum(map(len, packets))
    for name, (compress, decompress) in COMPRESSORS.items():
        slow = max(1, repeats // 3) if name == "zstd 19" else repeats
        coded = [compress(packet) for packet in packets]
        encode, _ = least(lambda c=compress: [c(packet) for packet in packets], slow)
        decode, _ = least(lambda d=decompress, z=coded: [d(packet) for packet in z], slow)
        table.row(name, (encode, encode), (decode, decode), sum(map(len, coded)), raw)


def whole(codec: Codec, batch: Batch, repeats: int) -> tuple[tuple, tuple, int]:
    """Encode and decode times of a batch of sequences, and its bytes."""
    streams = codec.compress(batch.representation, batch.lengths, batch.tokens)
    encode = least(
        lambda: codec.compress(batch.representation, batch.lengths, batch.tokens), repeats
    )
    decode = least(lambda: codec.decompress(streams, batch.lengths), repeats)
    return encode, decode, sum(map(len, streams))


def streamed(codec: Codec, sequence: torch.Tensor, repeats: int) -> tuple[tuple, tuple, int]:
    """Encode and decode times of one sequence token by token, and its bytes."""
    pieces = sequence.split(1)

    def encode() -> list[bytes]:
        stream = codec.stream()
        return [stream.encode(piece) for piece in pieces]

    packets = encode()

    def decode() -> list[torch.Tensor]:
        stream = codec.stream()
        return [stream.decode(packet) for packet in packets]

    return least(encode, repeats), least(decode, repeats), sum(map(len, packets))


def parts_of(codec: Codec, batch: Batch) -> list[tuple]:
    """Symbols, table indexes and tables of everything that a codec codes."""
    parts, put = [], entropy.Encoder.put

    def recorded(self: entropy.Encoder, *part: object) -> None:
        parts.append(part)
        put(self, *part)

    entropy.Encoder.put = recorded
    try:
        codec.compress(batch.representation, batch.lengths, batch.tokens)
    finally:
        entropy.Encoder.put = put
    return parts


def against_compressai(name: str, codec: Codec, batch: Batch, repeats: int) -> None:
    """Our coder and CompressAI's on the latents of one codec."""
    symbols, indexes, tables = parts_of(codec, batch)[-1]
    ours = entropy.encode(symbols.flatten(1), indexes.flatten(1), tables)
    encode, _ = least(
        lambda: entropy.encode(symbols.flatten(1), indexes.flatten(1), tables), repeats
    )
    decode, _ = least(lambda: entropy.decode(ours, indexes.flatten(1), tables), repeats)
    theirs = entropy_models().GaussianConditional(table_scales().tolist())
    theirs.update()
    values, used = symbols.float(), indexes.clamp_min(0)
    strings = theirs.compress(values, used)
    their_encode, _ = least(lambda: theirs.compress(values, used), 2)
    their_decode, _ = least(lambda: theirs.decompress(strings, used), 2)
    speeds = [symbols.numel() / 1e6 / t for t in (encode, decode, their_encode, their_decode)]
    times = (their_encode + their_decode) / (encode + decode)
    print(f"{name:28}" + "".join(f"{speed:12.2f}" for speed in speeds) + f"{times:12.1f}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--activations", type=Path, required=True)
    parser.add_argument("--codec", type=Path, nargs="+", required=True)
    parser.add_argument("--model", type=Path, help="to compare with its forward pass")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    store = Activations(args.activations)
    batch = store.read(range(args.sequences))
    model = SplitModel.load(args.model) if args.model else None
    codecs = {f"{d.parent.name} {d.name}": load_codec(d)[0] for d in args.codec}
    for codec in codecs.values():
        if model:
            codec.attach(model.embedding)
    rows = [row[:n] for row, n in zip(batch.representation, batch.lengths.tolist(), strict=True)]
    first = rows[0][:STREAMED_TOKENS]
    for threads in args.threads:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            report(codecs, batch, rows, first, threads, args.repeats, model)


def report(
    codecs: dict[str, Codec],
    batch: Batch,
    rows: list[torch.Tensor],
    first: torch.Tensor,
    threads: int,
    repeats: int,
    model: SplitModel | None,
) -> None:
    """The tables of one number of threads."""
    halves = [row.half().numpy().tobytes() for row in rows]
    raw = sum(map(len, halves))
    table = Table(f"prefill, {threads} threads", int(batch.lengths.sum()))
    compressors(table, halves, repeats)
    spent = {}
    for name, codec in codecs.items():
        encode, decode, size = whole(codec, batch, repeats)
        spent[name] = (encode[0] + decode[0]) / table.tokens
        table.row(name, encode, decode, size, raw)
    if model:
        forward, _ = least(lambda: model.model(batch.tokens[:1]), 2)
        forward /= batch.tokens.shape[1]
        print(f"the model's own forward pass: {1000 * forward:.3f} ms a token; of it")
        for name, seconds in spent.items():
            print(f"{name:28}{seconds / forward:9.2%}")
    table = Table(f"decode, {threads} threads", len(first))
    halves = [row.half().numpy().tobytes() for row in first]
    compressors(table, halves, repeats)
    for name, codec in codecs.items():
        if codec.coder == "ans" and not getattr(codec, "sends_tokens", False):
            table.row(name, *streamed(codec, first, repeats), sum(map(len, halves)))
    titles = ["encode", "decode", "CompressAI", "decode", "faster"]
    print(f"\n{'entropy coder, M symbols/s':28}" + "".join(f"{title:>12}" for title in titles))
    for name, codec in codecs.items():
        if codec.coder == "ans":
            against_compressai(name, codec, batch, repeats)


if __name__ == "__main__":
    main()
