"""The same symbols on every machine: threads, batches, libraries, precisions, processes, devices.

Other machines are simulated by noise on every layer of the network that decodes.
"""

import copy
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from codec_samples import (
    VOCABULARY,
    fitted_direct_access,
    fitted_hyperprior,
    representations,
    with_tokens,
)
from safetensors.torch import load_file, save_file
from torch import nn

from splitcodec.codecs import guard
from splitcodec.codecs.base import save_codec
from splitcodec.codecs.checksum import unseal
from splitcodec.codecs.guard import BOUND
from splitcodec.codecs.hyperprior import Hyperprior
from splitcodec.codecs.levels import Known
from splitcodec.errors import BitstreamError

LENGTHS = torch.tensor([60, 33, 60])
CODECS = {
    "hyperprior": fitted_hyperprior,
    "direct-access": fitted_direct_access,
    "direct-access-history": lambda: fitted_direct_access(history=True),
    "hyperprior-levels": lambda: fitted_hyperprior(levels=4),
    "direct-access-levels": lambda: fitted_direct_access(history=True, levels=4),
    "direct-access-trellis": lambda: fitted_direct_access(history=True, levels=4, trellis=True),
}


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    return at_a_boundary(request.param)


def at_a_boundary(name):
    """A codec whose scales lie within 1e-7 of one at the first token of the first sequence."""
    codec = CODECS[name]()
    found = positions(codec)[0, 0]
    to_boundary = found.floor() + 0.5 - found
    with torch.no_grad():
        codec.prediction[-1].bias[codec.kept :] += to_boundary * STEP
    return codec


STEP = float(torch.log(torch.tensor(64 / 0.11, dtype=torch.float64)) / 63)
DATA = representations(3, 60)
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")


@torch.no_grad()
def positions(codec):
    """Where the scales of DATA lie among the tables, (3, 60, kept) float64."""
    means, known, side = codec.means(None, 60)[0], _known(codec), _side(codec)
    if isinstance(codec, Hyperprior):
        return codec._from_side(side, known, None)[1]
    exact = codec.exact().latent((DATA - means).double())
    return codec._quantised(exact, known, side).positions


def _known(codec):
    return Known(codec.means(None, 60)[1], codec.choose_levels(DATA))


@torch.no_grad()
def _side(codec):
    deviation = DATA - codec.means(None, 60)[0]
    return codec._side_symbols(deviation, codec.latent(deviation), _known(codec), None)


def symbols_of(codec, streams):
    _, symbols = codec.read(unseal(streams)[0], LENGTHS)
    return torch.cat([torch.cat([part.flatten() for part in row]) for row in symbols])


@contextmanager
def noise(codec, size, seed=0):
    """Relative noise on every layer of the networks, on every call anew."""
    generator = torch.Generator().manual_seed(seed)

    def spoil(_module, _inputs, output):
        uniform = 2 * torch.rand(output.shape, generator=generator, dtype=output.dtype) - 1
        return output * (1 + size * uniform)

    modules = [*codec.exact().modules(), *codec.modules()]
    layers = [m for m in modules if isinstance(m, nn.Linear | nn.LayerNorm)]
    handles = [layer.register_forward_hook(spoil) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_without_a_guard_a_tiny_difference_breaks_decoding(codec, monkeypatch):
    monkeypatch.setattr(guard, "BOUND", 0.0)
    streams = codec.compress(DATA, LENGTHS)
    codec.decompress(streams, LENGTHS)
    with noise(codec, 1e-7), pytest.raises(BitstreamError, match="decoded to other symbols"):
        codec.decompress(streams, LENGTHS)


@pytest.mark.parametrize("size", [1e-15, 1e-12, 1e-9, 1e-7])
def test_with_it_differences_within_the_bound_change_nothing(codec, size):
    streams = codec.compress(DATA, LENGTHS)
    expected, exact = symbols_of(codec, streams), positions(codec)
    for seed in range(3):
        with noise(codec, size, seed):
            assert (positions(codec) - exact)[0, 0].abs().max() < BOUND
            assert torch.equal(symbols_of(codec, streams), expected)


def test_differences_beyond_the_bound_are_refused_clearly(codec):
    streams = codec.compress(DATA, LENGTHS)
    for seed in range(3):
        with (
            noise(codec, 1e-3, seed),
            pytest.raises(BitstreamError, match=r"computes its networks differently, by more than"),
        ):
            codec.decompress(streams, LENGTHS)


def test_machines_differ_by_far_less_than_the_bound():
    """Threads, batches, steps and pieces, libraries, and rounding noise on every layer."""
    for make in CODECS.values():
        codec = make()
        exact = positions(codec)
        found = []
        for count in (1, 2):
            with threads(count):
                found.append(positions(codec))
        with torch.backends.mkldnn.flags(enabled=False):
            found.append(positions(codec))
        for seed in range(20):
            with noise(codec, 2.0**-52, seed):
                found.append(positions(codec))
        # The noise also turns a few roundings over, after which the encoder says something else.
        largest = torch.stack([(other - exact).abs() for other in found]).max()
        assert largest < 1e-6 * BOUND


def test_a_receiver_with_float32_networks_decodes():
    class InFloat32(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = copy.deepcopy(network).float()

        def forward(self, inputs, memories=None):
            return self.network(inputs.float(), memories).double()

    codec = fitted_hyperprior()
    streams = codec.compress(DATA, LENGTHS)
    expected = symbols_of(codec, streams)
    codec.exact().prediction = InFloat32(codec.exact().prediction)
    assert torch.equal(symbols_of(codec, streams), expected)


@torch.no_grad()
def test_networks_on_which_float32_is_not_enough_code_as_well():
    codec = fitted_hyperprior()
    with torch.no_grad():
        codec.prediction[-1].weight.mul_(300)
    rough = codec._roughly_from_side(_side(codec), _known(codec))[1]
    assert (rough - positions(codec)).abs().max() > BOUND
    streams = codec.compress(DATA, LENGTHS)
    _, whole = codec.write(DATA, LENGTHS)
    codec.decompress(streams, LENGTHS)
    past, parts = codec.start(), []
    for piece in DATA[0].split(1):
        symbols = codec.write(piece[None], torch.tensor([1]), None, past)[1]
        parts.append([part[0] for part in symbols])
    for kind, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[kind] for part in parts]), expected[0])


@pytest.mark.parametrize("levels", [0, 4])
def test_batches_that_no_cache_holds_code_as_their_sequences_do(levels):
    codec = fitted_hyperprior(levels=levels)
    data, lengths = representations(4, 400), torch.tensor([400, 150, 400, 399])
    streams = codec.compress(data, lengths)
    decoded = codec.decompress(streams, lengths)
    for row, length in enumerate(lengths.tolist()):
        own = data[row : row + 1, :length], lengths[row : row + 1]
        assert codec.compress(*own) == [streams[row]]
        torch.testing.assert_close(
            codec.decompress([streams[row]], own[1])[0], decoded[row, :length]
        )


def test_symbols_do_not_depend_on_threads_or_libraries(codec):
    streams = codec.compress(DATA, LENGTHS)
    for count in (1, 2):
        with threads(count):
            assert codec.compress(DATA, LENGTHS) == streams
            codec.decompress(streams, LENGTHS)
    with torch.backends.mkldnn.flags(enabled=False):
        assert codec.compress(DATA, LENGTHS) == streams
        codec.decompress(streams, LENGTHS)


@pytest.mark.parametrize(
    "product, precision", [("cuda", "tf32"), ("mkldnn", "bf16"), ("mkldnn", "tf32")]
)
def test_nor_on_low_precision_around_the_codec(codec, product, precision):
    streams = codec.compress(DATA, LENGTHS)
    expected = symbols_of(codec, streams)
    products = getattr(torch.backends, product).matmul
    before, products.fp32_precision = products.fp32_precision, precision
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert codec.compress(DATA, LENGTHS) == streams
            assert torch.equal(symbols_of(codec, streams), expected)
            codec.decompress(streams, LENGTHS)
        assert products.fp32_precision == precision
    finally:
        products.fp32_precision = before


def test_large_side_values_are_those_of_float64():
    codec = fitted_hyperprior()
    with torch.no_grad():
        codec.side_analysis[-1].weight.mul_(400)
    codec.update()
    data = representations(8, 512)
    lengths = torch.full((8,), 512)
    side = codec.write(data, lengths)[1][0]
    exact = codec.exact()
    with torch.no_grad():
        means, offsets = codec.means(None, 512)
        latent = exact.latent((data - means).double())
        wanted = exact.side(latent, Known(offsets)).round()
    assert wanted.abs().max() > 500
    assert torch.equal(torch.stack(side).double(), wanted)


@pytest.mark.parametrize("size", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_deviations_that_no_latent_shows_do_not_turn_side_values_over(size, share):
    """float32 errs in proportion to all of a deviation, the networks see a part of it."""
    codec = fitted_hyperprior()
    generator = torch.Generator().manual_seed(1)
    data, lengths = representations(4, 512), torch.full((4,), 512)
    unseen = torch.eye(codec.channels) - torch.linalg.pinv(codec.analysis) @ codec.analysis
    away = torch.randn(4, 512, codec.channels, generator=generator) @ unseen
    away *= torch.rand(4, 512, 1, generator=generator) < share
    away[:, 0] = 0
    data = data + size * away / away.norm(dim=-1).max()
    together = codec.write(data, lengths)[1][0]
    for row, expected in zip(data, together, strict=True):
        (alone,) = codec.write(row[None], lengths[:1])[1][0]
        (streamed,) = codec.write(row[None], lengths[:1], past=codec.start())[1][0]
        assert torch.equal(alone, expected)
        assert torch.equal(streamed, expected)


def test_means_do_not_depend_on_how_many_tokens_come_together():
    codec = with_tokens()
    generator = torch.Generator().manual_seed(0)
    codec.attach(torch.randn(VOCABULARY, codec.channels, generator=generator))
    with torch.no_grad():
        codec.token_map.normal_(generator=generator)
    ids = torch.randint(0, VOCABULARY, (1, 512), generator=generator)
    together = codec.means(ids, 512)[0][0]
    one_by_one = [codec.means(ids[:, t : t + 1], 1, t)[0][0] for t in range(512)]
    assert torch.equal(together, torch.cat(one_by_one))


def test_threads_share_a_codec(monkeypatch):
    """One that must decode in float64, since float32 fails: none may see the other's choice."""
    codec = fitted_hyperprior()
    streams = codec.compress(DATA, LENGTHS)
    expected = codec.decompress(streams, LENGTHS)

    def fails(*arguments):
        time.sleep(0.01)
        raise BitstreamError("float32 is not enough")

    monkeypatch.setattr(codec, "_roughly_from_side", fails)
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda _: codec.decompress(streams, LENGTHS), range(20))
        for decoded in done:
            torch.testing.assert_close(decoded, expected)


def test_precision_is_set_back_when_the_last_thread_leaves():
    products, entered, left = torch.backends.mkldnn.matmul, threading.Event(), threading.Event()

    def inside():
        with guard.plain_arithmetic():
            entered.set()
            left.wait(timeout=60)
            return products.fp32_precision

    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        with ThreadPoolExecutor(1) as pool:
            with guard.plain_arithmetic():
                other = pool.submit(inside)
                entered.wait(timeout=60)
            assert products.fp32_precision == "ieee", "the other is still inside"
            left.set()
            assert other.result() == "ieee"
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before


def test_nor_do_token_ids_depend_on_it():
    codec, ids = with_tokens(), torch.arange(DATA.shape[0] * DATA.shape[1]) % VOCABULARY
    codec.attach(
        torch.randn(VOCABULARY, codec.channels, generator=torch.Generator().manual_seed(0))
    )
    ids = ids.view(DATA.shape[:2])
    streams = codec.compress(DATA, LENGTHS, ids)
    expected = codec.decompress(streams, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.compress(DATA, LENGTHS, ids) == streams
        assert torch.equal(codec.decompress(streams, LENGTHS), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_representation_of_any_precision_is_coded_as_what_it_says(codec, dtype):
    given = (DATA / 16).to(dtype)
    if dtype != torch.float64:
        assert codec.compress(given, LENGTHS) == codec.compress(given.float(), LENGTHS)
    codec.decompress(codec.compress(given, LENGTHS), LENGTHS)


def test_nor_on_compilation(codec):
    """By a compiler whose code computes a little differently, as a real one's does."""
    codec, ran = copy.deepcopy(codec), set()
    streams = codec.compress(DATA, LENGTHS)
    expected = symbols_of(codec, streams)

    def differently(graph, _):
        def run(*inputs):
            return tuple(map(perturbed, graph(*inputs)))

        return run

    def perturbed(output):
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        ran.add(output.dtype)
        return output * (1 + 2 * torch.finfo(output.dtype).eps)

    torch.compiler.reset()  # it compiles one function for so many codecs only
    for layer in (*codec.prediction, *codec.exact().prediction):
        layer.compile(backend=differently)
    assert codec.compress(DATA, LENGTHS) == streams
    assert torch.equal(symbols_of(codec, streams), expected)
    codec.decompress(streams, LENGTHS)
    assert torch.float64 in ran
    assert torch.float32 in ran or not isinstance(codec, Hyperprior)


_DECODE = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from splitcodec.codecs.checksum import unseal
from splitcodec.codecs.registry import load_codec
lengths = torch.tensor([int(n) for n in sys.argv[1].split(",")])
for folder in map(Path, sys.argv[2:]):
    codec, _ = load_codec(folder / "codec")
    rows = load_file(folder / "streams.safetensors")
    streams = [bytes(rows[key].tolist()) for key in sorted(rows)]
    decoded = codec.decompress(streams, lengths)
    symbols = [p for part in codec.read(unseal(streams)[0], lengths)[1] for p in part]
    save_file({str(k): v.contiguous() for k, v in enumerate([decoded, *symbols])}, folder / "out")
"""


def test_nor_on_the_process_and_its_instruction_set(tmp_path):
    """Plain loops without vector instructions sum in another order."""
    meaning = {
        "model": "m",
        "model_hash": "h",
        "split": 2,
        "mode": "frozen",
        "lambda": 0.01,
        "seed": 0,
    }
    coded = {}
    for name in CODECS:
        codec, folder = at_a_boundary(name), tmp_path / name
        streams = codec.compress(DATA, LENGTHS)
        save_codec(codec, folder / "codec", meaning)
        rows = [torch.frombuffer(bytearray(stream), dtype=torch.uint8) for stream in streams]
        save_file({str(k): row for k, row in enumerate(rows)}, folder / "streams.safetensors")
        coded[folder] = codec, streams
    plain = {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "2",
    }
    lengths = ",".join(map(str, LENGTHS.tolist()))
    command = [sys.executable, "-c", _DECODE, lengths, *map(str, coded)]
    subprocess.run(command, check=True, env=os.environ | plain)
    for folder, (codec, streams) in coded.items():
        found = load_file(folder / "out")
        _, symbols = codec.read(unseal(streams)[0], LENGTHS)
        for key, part in enumerate(p for parts in symbols for p in parts):
            assert torch.equal(found[str(key + 1)], part)
        decoded = codec.decompress(streams, LENGTHS)
        assert (found["0"] - decoded).norm() / decoded.norm() < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_trellis_is_put_into_a_codec_on_the_device():
    there = fitted_direct_access(trellis=True, side_channels=0, place="cuda")
    assert there.compress(DATA.cuda(), LENGTHS) == copy.deepcopy(there).cpu().compress(
        DATA, LENGTHS
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nor_on_the_device(codec):
    streams = codec.compress(DATA, LENGTHS)
    there = copy.deepcopy(codec).cuda()
    assert there.compress(DATA.cuda(), LENGTHS) == streams
    decoded = there.decompress(streams, LENGTHS).cpu()
    torch.testing.assert_close(decoded, codec.decompress(streams, LENGTHS), rtol=1e-5, atol=1e-4)
