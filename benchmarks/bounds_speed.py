"""How much faster the bounds are than by the straightforward way, and how they scale.

    python benchmarks/bounds_speed.py                 # comparison and scaling, about three minutes
    python benchmarks/bounds_speed.py --documents 125 250 500 1000 --tokens 512 --channels 576

Straightforward: the covariance's spectrum by SciPy's Arnoldi iteration (ARPACK) on the flattened
matrix, and a Python loop that multiplies every sign vector with the data. Both ways must agree.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigs

from splitcodec.activations.moments import moments_of
from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.bounds.covariance import bound_given_previous, shrunk_bound, token_bound
from splitcodec.bounds.rademacher import gram_matrix, rademacher_of_gram


def main() -> None:
    """Compare at a size that the straightforward way can do, then time larger stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--channels", type=int, default=576)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--loop-draws", type=int, default=20, help="timed, then extrapolated")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        for number, documents in enumerate(arguments.documents):
            write(path, documents, arguments.tokens, arguments.channels)
            store = Activations(path)
            if number == 0:
                compare(store, arguments)
            scale(store, arguments)


def write(path: Path, documents: int, tokens: int, channels: int) -> None:
    """A store of correlated channels, streamed."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(1, -1, channels)
    known = dict(model="m", model_hash="h", data_hash="d", split=1, partition="train")
    with ActivationWriter(path, channels, torch.float16, known) as writer:
        for row in range(documents):
            values = scales * torch.randn(tokens, channels, generator=generator)
            writer.write(f"document{row}", row, torch.arange(tokens) % 1000, values)


def compare(store: Activations, arguments: argparse.Namespace) -> None:
    """Both ways on the same flattened matrix in memory, as the straightforward one needs it."""
    moments = moments_of(store)
    values = store.read(range(len(store))).representation - moments.mean.float()
    values[:, 0] = 0
    data = values.flatten(1).numpy()
    documents = len(data)
    start = time.perf_counter()
    gram = gram_matrix(store, moments)
    spectrum = torch.linalg.eigvalsh(gram) / documents
    ours_spectrum = time.perf_counter() - start
    start = time.perf_counter()
    found = rademacher_of_gram(gram, arguments.draws, 0)
    ours_draws = time.perf_counter() - start + ours_spectrum

    start = time.perf_counter()
    operator = LinearOperator(
        (data.shape[1],) * 2, matvec=lambda v: data.T @ (data @ v) / documents, dtype=np.float32
    )
    values = np.sort(eigs(operator, k=documents - 2, return_eigenvectors=False, tol=1e-5).real)
    arnoldi = time.perf_counter() - start
    start = time.perf_counter()
    generator = np.random.default_rng(0)
    norms = [
        np.linalg.norm((generator.integers(0, 2, documents) * 2.0 - 1) @ data) / documents
        for _ in range(arguments.loop_draws)
    ]
    loop = (time.perf_counter() - start) * arguments.draws / arguments.loop_draws
    deviation = float(np.abs(spectrum.numpy()[2:] / values - 1).max())
    print(f"{documents} documents of {data.shape[1]:,} values")
    print(f"spectrum: {arnoldi:.2f} s by Arnoldi, {ours_spectrum:.2f} s ours,", end=" ")
    print(f"{arnoldi / ours_spectrum:.1f} times faster; largest deviation {deviation:.1e}")
    print(
        f"{arguments.draws} draws: {loop:.1f} s in a loop (from {arguments.loop_draws}),", end=" "
    )
    print(f"{ours_draws:.2f} s ours, {loop / ours_draws:.1f} times faster;", end=" ")
    print(f"{np.mean(norms):.4f} and {found.value:.4f} ± {found.standard_error:.4f}", flush=True)
    both = (arnoldi + loop) / ours_draws
    print(f"both: {both:.1f} times faster", flush=True)


def scale(store: Activations, arguments: argparse.Namespace) -> None:
    """Time of all bounds of the representation from one store, by part."""
    start = time.perf_counter()
    moments = moments_of(store, history=True)
    token_bound(moments), bound_given_previous(moments)
    middle = time.perf_counter()
    gram = gram_matrix(store, moments)
    rademacher_of_gram(gram, arguments.draws, 0)
    spectrum = torch.linalg.eigvalsh(gram) / len(store)
    tokens = arguments.tokens
    shrunk_bound(spectrum, tokens * store.channels, len(store), tokens)
    end = time.perf_counter()
    print(f"{len(store):5d} documents: moments {middle - start:6.1f} s, Gram {end - middle:6.1f} s")


if __name__ == "__main__":
    main()
