"""A second decoder, written from docs/format.md alone, reads the golden files.

It knows NumPy, JSON, checksums and safetensors, and nothing of this package. Learned codecs with
networks are decoded too, token by token, from the networks that the page describes.
"""

import json
import math
import struct
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zstandard
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent
CRC = google_crc32c.value


def container(data):
    """Header, and (tokens, payload) of all chunks, read front to back."""
    magic, version, size = struct.unpack_from("<8sHI", data)
    assert (magic, version) == (b"\x89RDC\r\n\x1a\n", 4)
    place = 14 + size
    header, seed = json.loads(data[14:place]), data[place : place + 4]
    assert seed == struct.pack("<I", CRC(data[:place]))
    place, chunks = place + 4, []
    while tokens := struct.unpack_from("<I", data, place)[0]:
        (size,) = struct.unpack_from("<I", data, place + 4)
        payload = data[place + 8 : place + 8 + size]
        place += 8 + size
        covered = seed + struct.pack("<III", len(chunks), tokens, size) + payload
        assert data[place : place + 4] == struct.pack("<I", CRC(covered))
        place, chunks = place + 4, [*chunks, (tokens, payload)]
    index = b"".join(struct.pack("<II", tokens, len(payload)) for tokens, payload in chunks)
    totals = struct.pack("<IQ", len(chunks), sum(tokens for tokens, _ in chunks))
    end = bytes(4) + index + totals
    assert data[place:] == end + struct.pack("<I", CRC(seed + end)) + b"\x89RDCEND\n"
    return header, chunks


class Stream:
    """A rANS stream."""

    def __init__(self, data):
        self.x, self.bytes = int.from_bytes(data[:4], "little"), list(data[4:])

    def under(self, codec, name):
        parts = (codec[f"{name}_{part}"] for part in ("cumulative", "sizes", "lowest"))
        self.cumulative, self.sizes, self.lowest = (part.tolist() for part in parts)
        return self

    def fill(self):
        while self.x < 1 << 23:
            self.x = 256 * self.x + self.bytes.pop()

    def digit(self):
        digit, self.x = self.x % 16, self.x // 16
        self.fill()
        return digit

    def symbol(self, table):
        c, n, f = self.cumulative[table], self.sizes[table], self.x % 65536
        i = next(i for i in range(n - 1) if c[i] <= f < c[i + 1])
        self.x = (c[i + 1] - c[i]) * (self.x // 65536) + f - c[i]
        self.fill()
        if i < n - 2:
            return self.lowest[table] + i
        count = digit = self.digit()
        while digit == 15:
            digit = self.digit()
            count += digit
        r = sum(self.digit() * 16**j for j in range(count))
        return self.lowest[table] + (n - 2 + r // 2 if r % 2 == 0 else -(r // 2) - 1)

    def symbols(self, tables):
        return np.array([self.symbol(table) for table in tables], np.int32)

    def end(self):
        assert (self.x, self.bytes) == (1 << 23, [])


def learned(codec, kind, tokens, payload, embedding):
    """klt, klt-tokens, klt-levels and factorised."""
    (checksum,), stream, ids = struct.unpack_from("<I", payload), Stream(payload[4:]), None
    if kind == "klt-tokens":
        stream.under(codec, "token")
        counts = codec["token_density.counts"]
        high = stream.symbols([0] * tokens)
        low = stream.symbols(1 + high)
        ids = np.argsort(-counts, kind="stable")[256 * high + low].astype(np.int32)
    kept, sent = len(codec["analysis"]), b"" if ids is None else ids.tobytes()
    tables = np.arange(kept) if kind == "factorised" else codec["scale_index"]
    tables, scale = np.tile(tables, (tokens, 1)), 1
    if kind == "klt-levels":
        symbols = stream.under(codec, "level").symbols([0] * tokens)
        level = symbols[:, None] + int(np.rint(codec["levels.base"]))
        tables, sent = np.clip(tables - 2 * level, 0, 63), symbols.tobytes()
        scale = codec["table_gain"][tables] * np.exp(2 * level * np.log(64 / 0.11) / 63)
    q = stream.under(codec, "latent").symbols(tables.flatten()).reshape(tokens, kept)
    stream.end()
    assert CRC(sent + q.tobytes()) == checksum
    m = np.tile(codec["mean"], (tokens, 1))
    m[0] = codec["first_mean"]
    if ids is not None:
        m[1:] += (embedding[ids[1:]] - codec["row_mean"]) @ codec["token_map"].T
    return (scale * q) @ codec["synthesis"].T + m


def trellis_symbols(stream, tables):
    """Symbols, and what they stand for, of tables (channels,) or (channels, tokens)."""
    q, values = np.zeros(tables.shape, np.int32), np.zeros(tables.shape)
    a, b, c = np.zeros((3, tables[:1].size), int)
    for channel, table in enumerate(tables):
        k = stream.symbols(table + 64 * a)
        q[channel] = k.reshape(table.shape)
        values[channel] = (k - np.sign(k) * a / 2).reshape(table.shape)
        a, b, c = a ^ b, c ^ (k % 2), a
    return q, values


def trellis(codec, tokens, payload):
    """trellis: channels in order, all tokens of one at a time."""
    (checksum,), stream = struct.unpack_from("<I", payload), Stream(payload[4:])
    tables = np.tile(codec["scale_index"][:, None], tokens)
    q, values = trellis_symbols(stream.under(codec, "latent"), tables)
    stream.end()
    assert CRC(np.ascontiguousarray(q.T).tobytes()) == checksum
    m = np.tile(codec["mean"], (tokens, 1))
    m[0] = codec["first_mean"]
    return values.T @ codec["synthesis"].T + m


erf = np.vectorize(math.erf, otypes=[np.float64])


class Network:
    """The network of a predicting codec, on whole sequences."""

    def __init__(self, codec, heads):
        own = {name: values for name, values in codec.items() if name.startswith("prediction.")}
        self.codec = {name: values.astype(np.float64) for name, values in own.items()}
        self.last, self.heads = max(int(name.split(".")[1]) for name in own), heads

    def linear(self, name, x):
        return x @ self.codec[f"prediction.{name}.weight"].T + self.codec[f"prediction.{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.codec[f"prediction.{name}.weight"] + self.codec[f"prediction.{name}.bias"]

    def __call__(self, inputs):
        x = self.linear("0", inputs)
        tokens, width = x.shape
        for block in range(1, self.last - 1):
            parts = self.linear(f"{block}.query_key_value", self.norm(f"{block}.attention_norm", x))
            q, k, v = parts.reshape(tokens, 3, self.heads, -1).transpose(1, 2, 0, 3)
            seen = q @ k.transpose(0, 2, 1) / np.sqrt(width / self.heads)
            seen[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
            seen = np.exp(seen - seen.max(-1, keepdims=True))
            mixed = (seen / seen.sum(-1, keepdims=True)) @ v
            x = x + self.linear(f"{block}.mixed", mixed.transpose(1, 0, 2).reshape(tokens, width))
            a = self.linear(f"{block}.feed.0", self.norm(f"{block}.feed_norm", x))
            x = x + self.linear(f"{block}.feed.2", a / 2 * (1 + erf(a / np.sqrt(2))))
        return self.linear(str(self.last), self.norm(str(self.last - 1), x))


SIGNALS = {"sizes": np.array([258, 258, 4]), "lowest": np.zeros(3, int)}
FREQUENCIES = [[58905, *255 * [26], 1], [510, *255 * [255], 1], [32768, 32767, 1]]


def signals(stream):
    """Where positions round as told, by place among the symbols: 1 up, 0 down."""
    told = {f"signal_{name}": values for name, values in SIGNALS.items()}
    ends = [np.cumsum([0, *row]) for row in FREQUENCIES]
    told["signal_cumulative"] = np.array([np.pad(e, (0, 258 - len(e)), "edge") for e in ends])
    stream.under(told, "signal")
    found, place = {}, 0
    for _ in range(stream.symbol(0)):
        high, middle, low, up = stream.symbols([1, 1, 1, 2]).tolist()
        place += 65536 * high + 256 * middle + low
        found[place] = up
    return found


def predicted(codec, kind, tokens, payload, heads):
    """hyperprior and direct-access in all their forms, token by token."""
    (checksum,), stream = struct.unpack_from("<I", payload), Stream(payload[4:])
    analysis, synthesis, sides = (
        codec["analysis"],
        codec["synthesis"],
        len(codec.get("side_sizes", [])),
    )
    kept, network, h = len(analysis), Network(codec, heads), np.log(64 / 0.11) / 63
    sent, levels = b"", [0] * tokens
    if "levels.base" in codec:
        symbols = stream.under(codec, "level").symbols([0] * tokens)
        sent, levels = symbols.tobytes(), symbols + int(np.rint(codec["levels.base"]))
    side = np.zeros((tokens, 0), np.int32)
    if sides:
        side = stream.under(codec, "side").symbols([*range(sides)] * tokens).reshape(tokens, sides)
    told, symbols, inputs, decoded = signals(stream), [], np.zeros((0, 0)), []
    stream.under(codec, "latent")
    latent, deviation, trellis = np.zeros(kept), np.zeros(len(synthesis)), "trellis" in kind
    for token in range(tokens):
        context = np.clip(latent / np.exp(codec["log_scale"]), -8, 8)
        context = [] if kind.startswith("hyperprior") else context
        level = [levels[token] / 4] if sent else []
        row = np.concatenate([context, side[token], level])[None]
        inputs = np.concatenate([inputs.reshape(-1, row.shape[1]), row])
        mean, ratio = np.split(network(inputs)[-1], 2)
        position = (codec["log_scale"] + ratio - np.log(0.11)) / h - 2 * levels[token]
        position = np.clip(position, 0, 63)
        table = np.rint(position).astype(int)
        for channel in range(kept):
            if (up := told.get(token * kept + channel)) is not None:
                assert abs(position[channel] % 1 - 0.5) <= 2**-15
                table[channel] = int(position[channel]) + up
        q, values = trellis_symbols(stream, table) if trellis else [stream.symbols(table)] * 2
        symbols.append(q)
        base = np.zeros(len(synthesis))
        if "history" in codec and (deviation**2).sum() < codec["sink_energy"]:
            base = codec["history"] @ deviation
        values = np.exp(2 * levels[token] * h) * values
        latent = mean + analysis @ base + values
        gain = np.interp(position, range(64), codec["table_gain"]) if sent or trellis else 1
        deviation = base + synthesis @ (mean + gain * values)
        decoded.append(deviation + codec["mean" if token else "first_mean"])
    stream.end()
    assert CRC(sent + side.tobytes() + np.stack(symbols).tobytes()) == checksum
    return np.stack(decoded)


def halves(data):
    planes = np.frombuffer(data, np.uint8).reshape(2, -1)
    return np.ascontiguousarray(planes.T).view("<f2")[:, 0].astype(np.float32)


def baseline(kind, coder, tokens, channels, payload):
    unpacked = {"raw": bytes, "deflate": zlib.decompress, "zstd": zstandard.decompress}
    data = unpacked[coder](payload)
    if kind == "fp16":
        return halves(data).reshape(tokens, channels)
    bits = int(kind.removeprefix("int"))
    group = channels if bits == 8 else 32
    groups = -(-channels // group)
    scales = halves(data[: 2 * tokens * groups]).reshape(tokens, groups)
    run = "".join(f"{byte:08b}" for byte in data[2 * tokens * groups :])
    levels = [int(run[i * bits : (i + 1) * bits], 2) for i in range(tokens * channels)]
    levels = np.array(levels).reshape(channels, tokens).T - (2 ** (bits - 1) - 1)
    return levels * scales[:, np.arange(channels) // group]


BASELINES = ["fp16", "int8", "int3"]
PREDICTED = [
    "hyperprior",
    "hyperprior-levels",
    "direct-access",
    "direct-access-history",
    "context",
    "context-trellis",
]


@pytest.mark.parametrize(
    "kind",
    ["klt", "klt-tokens", "klt-levels", "factorised", "trellis", *PREDICTED, *BASELINES],
)
def test_a_stranger_decodes_the_golden_files(kind):
    folder = GOLDEN / kind
    data, codec = load_file(folder / "data.safetensors"), load_file(folder / "codec.safetensors")
    header, chunks = container((folder / "stream.rdc").read_bytes())
    for row, (tokens, payload) in enumerate(chunks):
        if kind in PREDICTED:
            heads = json.loads((folder / "codec.json").read_text())["hyperparameters"]["heads"]
            found = predicted(codec, kind, tokens, payload, heads)
        elif kind == "trellis":
            found = trellis(codec, tokens, payload)
        elif header["coder"] == "ans":
            found = learned(codec, kind, tokens, payload, data.get("embedding"))
        else:
            found = baseline(kind, header["coder"], tokens, header["channels"], payload)
        expected = data["reconstruction"][row, :tokens]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_stranger_reads_escaped_symbols():
    """The golden stream of tests/coding/test_entropy.py."""
    table = {"cumulative": [[0, 20000, 60000, 65535, 65536]], "sizes": [5], "lowest": [-1]}
    codec = {f"latent_{name}": np.array(values) for name, values in table.items()}
    stream = Stream(bytes.fromhex("e7579a0af37043bbbf")).under(codec, "latent")
    assert stream.symbols([0] * 9).tolist() == [0, 0, 1, -1, 0, 900, 0, 1, 0]
    stream.end()


def test_a_stranger_reads_signals():
    """The golden stream of tests/codecs/test_guard.py."""
    stream = Stream(bytes.fromhex("7be64e0a007d98ed1f68fcb0aa4da83018"))
    assert signals(stream) == {3: 1, 1170: 0, 2365700: 1, 2884999: 0}
    stream.end()
