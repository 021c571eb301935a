"""Every reader of files that others may have made, with a small good file for each.

Damage is of two kinds. *Damaged* files come from accidents: they must be refused, or read as what
they were. *Forged* files have checksums that fit the damage, as whoever makes them on purpose can
arrange: they must be refused or read as a file of the same kind, and must do no harm. Streams of
learned codecs prove their symbols, so that even a forged container must decode to the same.
"""

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from mutations import mutate, mutate_json
from transformers import LlamaConfig, LlamaForCausalLM

from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.codecs import base, registry
from splitcodec.codecs.levels import TokenWeights
from splitcodec.coding.container import (
    STANDARD_INPUT,
    Container,
    ContainerWriter,
    read_front_to_back,
)
from splitcodec.errors import BitstreamError
from splitcodec.evaluation import bitstreams
from splitcodec.inputs.seals import seal
from splitcodec.inputs.tables import METADATA_KEY, table_writer, with_meaning
from splitcodec.inputs.tokens import SCHEMA, read_tokens
from splitcodec.report.table import collect
from splitcodec.splitting.changes import changed_model
from splitcodec.splitting.model import SplitModel
from splitcodec.training.log import Log
from splitcodec.training.loop import Loop, Phase, recipe_of
from splitcodec.training.sensitivity import Sensitivity, load_sensitivity, save_sensitivity

PIECES = [3, 1, 2]
"""Tokens of the golden packets."""
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MOST_VALUES = 1 << 18
"""Values a sequence that the decoder under test accepts: what it may take follows from this."""


@dataclass(frozen=True)
class Reader:
    """`read` of a file of `original` bytes; `damage` makes another of it.

    `exact`: whatever is read must be what the original says.
    """

    name: str
    original: bytes
    read: Callable[[bytes], Any]
    damage: Callable[[bytes, Random], bytes] = mutate
    exact: bool = True


def readers(folder: Path) -> list[Reader]:
    """All of them; `folder` is for the files of the moment."""
    groups = (
        _containers,
        _packets,
        _codecs,
        _changes,
        _stores,
        _tokens,
        _sensitivities,
        _points,
        _training,
    )
    return [reader for group in groups for reader in group(folder)]


@functools.cache
def _loaded(directory: Path, _: str | None = None) -> tuple[Any, dict[str, Any]]:
    codec, meaning = registry.load_codec(directory)
    if codec.sends_tokens:
        codec.attach(safetensors.torch.load_file(directory / "data.safetensors")["embedding"])
    return codec, meaning


def _containers(folder: Path) -> Iterator[Reader]:
    bitstreams.load_codec = _loaded  # loading is under test elsewhere, and slow
    for golden in sorted(path.parent for path in GOLDEN.glob("*/stream.rdc")):
        path, original = folder / "a.rdc", (golden / "stream.rdc").read_bytes()
        learned = _loaded(golden)[0].coder == "ans"

        def read(data: bytes, golden: Path = golden, path: Path = path) -> torch.Tensor:
            path.write_bytes(data)
            decoder = bitstreams.FileDecoder(path, [golden], most_values=MOST_VALUES)
            rows = range(len(decoder.container))
            return [decoder.decode(rows[i : i + 2]) for i in range(0, len(rows), 2)]

        def read_piped(data: bytes, golden: Path = golden) -> torch.Tensor:
            header, chunks = read_front_to_back(io.BytesIO(data), MOST_VALUES)
            codec, _, _ = bitstreams.codec_of(STANDARD_INPUT, header, [golden], None)
            every = list(chunks)
            pairs = [every[i : i + 2] for i in range(0, len(every), 2)]
            return [bitstreams.decode_chunks(STANDARD_INPUT, codec, p, range(2)) for p in pairs]

        yield Reader(f"container, {golden.name}", original, read)
        yield Reader(f"container by pipe, {golden.name}", original, read_piped)
        for part in ("payload", "index", "header"):
            forged = functools.partial(_forged, part=part, path=path)
            exact = learned and part != "index"
            name = f"{golden.name}, forged {part}"
            yield Reader(f"container, {name}", original, read, forged, exact=exact)
            yield Reader(f"container by pipe, {name}", original, read_piped, forged, exact=exact)


def _packets(folder: Path) -> Iterator[Reader]:
    """The second packet of a stream, after a good first one; it must do no harm to a third."""
    for golden in sorted(path.parent for path in GOLDEN.glob("*/packets.json")):
        packets = [
            bytes.fromhex(text) for text in json.loads((golden / "packets.json").read_text())
        ]
        codec, _ = registry.load_codec(golden, Container.open(golden / "stream.rdc").header.coder)
        if codec.sends_tokens:
            codec.attach(safetensors.torch.load_file(golden / "data.safetensors")["embedding"])

        def read(
            data: bytes, codec: Any = codec, good: list[bytes] = packets
        ) -> list[torch.Tensor]:
            receiver = codec.stream()
            receiver.decode(good[0], PIECES[0])
            try:
                found = receiver.decode(data, PIECES[1])
            except BitstreamError:
                receiver.decode(good[1], PIECES[1])
                receiver.decode(good[2], PIECES[2])
                raise
            return [found, receiver.decode(good[2], PIECES[2])]

        yield Reader(f"packet, {golden.name}", packets[1], read)


def _forged(data: bytes, random: Random, part: str, path: Path) -> bytes:
    """A container with one part damaged, and all its checksums made to fit."""
    path.write_bytes(data)
    container = Container.open(path)
    header = container.header.model_dump_json().encode()
    chunks = [(n, container.read(i)) for i, n in enumerate(container.lengths)]
    if part == "header":
        header = mutate_json(header, random)
    place = random.randrange(len(chunks))
    tokens, payload = chunks[place]
    if part == "payload":
        chunks[place] = (tokens, mutate(payload, random))
    if part == "index":
        header = container.header.model_copy(update={"longest": 10_000}).model_dump_json().encode()
        changed = random.choice([0, 1, 2, 3, 5, 6, 7, 100, 10_000, 2**32 - 1])
        chunks[place] = (changed, payload)
        chunks = random.choice([chunks, chunks[1:], chunks[::-1], chunks * 2])
    writer = ContainerWriter(
        file := io.BytesIO(), SimpleNamespace(longest=1 << 32, model_dump_json=lambda: Text(header))
    )
    for tokens, payload in chunks:
        writer.add(max(tokens, 1), payload)
    writer.finish()
    return file.getvalue()


class Text(bytes):
    """Bytes where text is due: not all that a forger writes is UTF-8."""

    def encode(self) -> bytes:
        """These bytes."""
        return bytes(self)


def _rows(values: dict[str, torch.Tensor]) -> list[Any]:
    return [item for name in sorted(values) for item in (name, values[name])]


def _codecs(folder: Path) -> Iterator[Reader]:
    """A codec's two files in one byte string: the length of the first, then both."""
    directory = folder / "codec"
    directory.mkdir(exist_ok=True)
    for golden in sorted(path.parent for path in GOLDEN.glob("*/stream.rdc")):
        names = ("codec.json", "codec.safetensors")
        described, weights = ((golden / name).read_bytes() for name in names)
        container = Container.open(golden / "stream.rdc")
        payloads = [container.read(i) for i in range(len(container))]
        data = safetensors.torch.load_file(golden / "data.safetensors")

        def read(both: bytes, container: Container = container, payloads=payloads, data=data):
            size = int.from_bytes(both[:4], "little")
            (directory / "codec.json").write_bytes(both[4 : 4 + size])
            (directory / "codec.safetensors").write_bytes(both[4 + size :])
            codec, meaning = registry.load_codec(directory)
            codec.coder = container.header.coder
            if codec.sends_tokens:
                codec.attach(data["embedding"])
            return [codec.decompress(payloads, torch.tensor(container.lengths)), meaning["hash"]]

        joined = _join(described, weights)
        yield Reader(f"codec, {golden.name}", joined, read, _damage_one)
        yield Reader(f"codec, {golden.name}, forged", joined, read, _forge_codec, exact=False)


def _join(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(4, "little") + first + second


def _parted(both: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(both[:4], "little")
    return both[4 : 4 + size], both[4 + size :]


def _damage_one(both: bytes, random: Random) -> bytes:
    first, second = _parted(both)
    if random.random() < 0.5:
        return _join(mutate(first, random), second)
    return _join(first, mutate(second, random))


def _forge_codec(both: bytes, random: Random) -> bytes:
    """One of a codec's files damaged, and the hash made to fit."""
    described, weights = _parted(both)
    if random.random() < 0.5:
        described = mutate_json(described, random)
    else:
        weights = _damage_tensors(weights, random)
    try:
        meaning = json.loads(described)
        meaning["hash"] = base._hash_of(meaning, weights)
        described = json.dumps(meaning).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    return _join(described, weights)


def _damage_tensors(data: bytes, random: Random) -> bytes:
    """A safetensors file with its header damaged as JSON, its values as bytes, or all of it."""
    size = 8 + int.from_bytes(data[:8], "little")
    header, values = data[8:size], data[size:]
    match random.randrange(4):
        case 0:
            return mutate(data, random)
        case 1:
            header = mutate_json(header, random)
        case 2:
            header = header.replace(b"F32", random.choice([b"I32", b"U32", b"F8_E4M3"]), 1)
        case 3:
            values = bytearray(values)
            for _ in range(random.choice([1, 4, 40])):
                place = random.randrange(max(1, len(values) // 4)) * 4
                values[place : place + 4] = random.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\0\0\x80\x7f", random.randbytes(4)]
                )
    return len(header).to_bytes(8, "little") + header + bytes(values)


def _changes(folder: Path) -> Iterator[Reader]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = SplitModel(LlamaForCausalLM(config).requires_grad_(False))
    weights = dict(model.model.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    changes = {
        "lm_head.weight": weights["lm_head.weight"] + 1,
        f"{name}.left": torch.ones(8, 2),
        f"{name}.right": torch.ones(2, 8),
    }
    directory = folder / "changes"
    directory.mkdir(exist_ok=True)
    original = safetensors.torch.save(changes)

    def read(data: bytes, forged: bool) -> list[Any]:
        (directory / "model.safetensors").write_bytes(data)
        known = data if forged else original
        meaning = {"model_changes_sha256": hashlib.sha256(known).hexdigest()}
        changed = changed_model(model, base.load_changes(directory, meaning))
        return _rows(dict(changed.model.named_parameters()))

    yield Reader("model changes", original, functools.partial(read, forged=False))
    forged = functools.partial(read, forged=True)
    yield Reader("model changes, forged", original, forged, _damage_tensors, exact=False)


def _stores(folder: Path) -> Iterator[Reader]:
    path = folder / "store.parquet"
    meaning = {"model": "m", "model_hash": "h", "data_hash": "d", "split": 1, "partition": "train"}
    with ActivationWriter(path, 6, torch.float16, meaning) as writer:
        for row, tokens in enumerate((5, 1, 9)):
            values = torch.arange(6.0 * tokens).view(tokens, 6)
            writer.write(f"document{row}", row, torch.arange(tokens), values)

    def read(data: bytes) -> list[Any]:
        path.write_bytes(data)
        store = Activations(path)
        batches = [store.read([row]) for row in range(len(store))]
        parts = [(b.documents[0], b.tokens, b.representation) for b in batches]
        return [json.dumps(store.metadata), *(item for part in parts for item in part)]

    original, forge = path.read_bytes(), functools.partial(_forge_table, path=path)
    yield Reader("activation store", original, read)
    yield Reader("activation store, forged", original, read, forge, exact=False)


def _forge_table(data: bytes, random: Random, path: Path) -> bytes:
    """A Parquet file with pages, footer or meaning damaged, and sealed again if it can be."""
    path.write_bytes(data)
    if random.random() < 0.5:
        file = pq.ParquetFile(path)
        tables = [file.read_row_group(group) for group in range(file.num_row_groups)]
        meaning = mutate_json(file.schema_arrow.metadata[METADATA_KEY], random)
        schema = file.schema_arrow.with_metadata({METADATA_KEY: meaning})
        if random.random() < 0.3:
            names = random.sample(schema.names, random.randrange(1, len(schema.names)))
            tables = [table.select(names) for table in tables]
            schema = pa.schema([schema.field(name) for name in names], schema.metadata)
        with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for table in random.choice([tables, tables[::-1], tables[:1], []]):
                writer.write_table(table.cast(schema))
        seal(path)
        return path.read_bytes()
    path.write_bytes(mutate(data, random))
    with contextlib.suppress(Exception):
        seal(path)
    return path.read_bytes()


def _tokens(folder: Path) -> Iterator[Reader]:
    path = folder / "tokens.parquet"
    with table_writer(path, with_meaning(SCHEMA, "tokens", {"partition": "train"})) as writer:
        columns = [["a", "b", "b"], [0, 1, 2], [[1, 2, 3], [4], [5, 6]]]
        writer.write_table(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA))

    def read(data: bytes) -> list[Any]:
        path.write_bytes(data)
        table = read_tokens(path)
        return [
            list(table.documents),
            [s.tolist() for s in table.sequences],
            json.dumps(table.metadata),
        ]

    original, forge = path.read_bytes(), functools.partial(_forge_table, path=path)
    yield Reader("tokens", original, read)
    yield Reader("tokens, forged", original, read, forge, exact=False)


def _sensitivities(folder: Path) -> Iterator[Reader]:
    path = folder / "sensitivity.safetensors"
    meaning = {"model": "m", "model_hash": "h", "split": 1, "data_hash": "d", "seed": 0}
    ones = torch.ones(6, dtype=torch.float64)
    flat = TokenWeights.flat(0 * ones, ones)
    save_sensitivity(path, Sensitivity(ones.diag(), flat), meaning)

    def read(data: bytes) -> list[Any]:
        path.write_bytes(data)
        found, said = load_sensitivity(path)
        weights = found.weights
        parts = [found.matrix, weights.centre, weights.spread, weights.weight, weights.offset]
        return [*parts, json.dumps(said)]

    yield Reader("sensitivity", path.read_bytes(), read)


def _points(folder: Path) -> Iterator[Reader]:
    """The three JSON files of a point; text for people, so that any sound table will do."""
    point = {
        "model": "m", "split": 2, "codec": "klt", "coder": "ans", "mode": "frozen", "lambda": 0.01,
        "seed": 0, "partition": "evaluation", "tokens": 10, "documents": 2,
        "bits_per_token_estimated": 9.5, "bits_per_token_payload": 10.0,
        "bits_per_token_file": 11.0, "cross_entropy": 3.0, "cross_entropy_low": 2.9,
        "cross_entropy_high": 3.1, "perplexity": 20.0, "cross_entropy_uncoded": 2.8, "kl": 0.1,
        "kl_low": 0.05, "kl_high": 0.2, "top1_agreement": 0.9, "codec_hash": "c", "data_hash": "d",
    }  # fmt: skip
    hardware = {"cpu": "x", "cores": 2, "threads": 1, "memory_gib": 8}
    times = ("encode", "decode", "network", "coder")
    timed = {"codec": "klt", "variant": "v", "coder": "ans"}
    timed |= {f"{name}_ms_per_token": 0.1 for name in times}
    latency = {"hardware": hardware | {"torch": "2"}, "split": 2, "model": "m", "points": [timed]}
    codec = {"codec": "klt", "name": "klt", "hash": "c", "train_seconds": 1.0, "lambda": 0.01}
    codec |= {"model": "m", "split": 2, "seed": 0, "mode": "frozen", "hyperparameters": {}}
    places = {
        "evaluation": folder / "evaluation/m/split2/klt/v.json",
        "codec": folder / "codecs/m/split2/klt/v/codec.json",
        "latency": folder / "latency/m/split2.json",
    }
    original = json.dumps({"evaluation": {"points": [point]}, "codec": codec, "latency": latency})

    def read(data: bytes) -> str:
        first, _, rest = data.partition(b"\0")
        second, _, third = rest.partition(b"\0")
        for path, text in zip(places.values(), (first, second, third), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        made = (folder / "points.csv", folder / "points.parquet")
        collect("e", [places["evaluation"]], [places["codec"]], [places["latency"]], "g", *made)
        return made[0].read_text()

    def damage(data: bytes, random: Random) -> bytes:
        parts = data.split(b"\0")
        place = random.randrange(3)
        parts[place] = mutate_json(parts[place], random).replace(b"\0", b" ")
        return b"\0".join(parts)

    texts = [json.dumps(part).encode() for part in json.loads(original).values()]
    yield Reader("point", b"\0".join(texts), read, damage, exact=False)


def _training(folder: Path) -> Iterator[Reader]:
    path = folder / "checkpoint"

    def loop(module: torch.nn.Module) -> Loop:
        phase = Phase(
            "p",
            steps=1,
            warm_up=0,
            groups=lambda: [{"params": list(module.parameters()), "lr": 0.1}],
            loss=lambda step, batch: (module(torch.ones(1, 2)).sum(), {}),
            tokens=1,
        )
        return Loop(module, [phase], 0, recipe_of(a=1), path, Log(None))

    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(module.parameters())
    loop(module)._write(
        {"phase": 0, "progress": {"step": 0, "losses": [1.0]}, "optimiser": optimiser.state_dict()}
    )

    def read(data: bytes) -> list[Any]:
        path.write_bytes(data)
        return [repr(loop(torch.nn.Linear(2, 2))._load())]

    yield Reader("training checkpoint", path.read_bytes(), read)
