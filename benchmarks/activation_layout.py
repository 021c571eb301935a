"""How should a representation lie in Parquet? Write, sequential read, random read and size.

Run: python benchmarks/activation_layout.py [--sequences 128] [--tokens 512] [--channels 576]
The ratio columns compare each layout with the one the store uses (first row).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def sequence_of_bytes(values: np.ndarray) -> pa.Array:
    """One row a sequence, values as bytes."""
    return pa.array([values.tobytes()], pa.large_binary())


def position_of_bytes(values: np.ndarray) -> pa.Array:
    """One row a position, values as fixed-size bytes."""
    width = values.shape[1] * values.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def position_of_floats(values: np.ndarray) -> pa.Array:
    """One row a position, values as a fixed-size list of half floats."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def sequence_of_floats(values: np.ndarray) -> pa.Array:
    """One row a sequence, values as one list of half floats."""
    return pa.array([values.reshape(-1)], pa.list_(pa.float16()))


def floats_of(column: pa.ChunkedArray) -> np.ndarray:
    """The half floats of a column of any of the layouts above."""
    column = column.combine_chunks()
    if pa.types.is_fixed_size_binary(column.type):
        return np.frombuffer(column.buffers()[1], np.float16)
    if pa.types.is_large_binary(column.type):
        return np.frombuffer(column.buffers()[2], np.float16)
    return column.flatten().to_numpy(zero_copy_only=False)


def measure(layout: callable, data: np.ndarray, compression: str) -> tuple[float, ...]:
    """Seconds to write, to read in order, to read in random order; bytes on disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "layout.parquet"
        start = time.perf_counter()
        schema = pa.schema([("representation", layout(data[0]).type)])
        with pq.ParquetWriter(path, schema, compression=compression, use_dictionary=False) as file:
            for sequence in data:
                file.write_table(pa.table([layout(sequence)], schema=schema))
        write = time.perf_counter() - start
        file = pq.ParquetFile(path)
        orders = [range(len(data)), np.random.default_rng(0).permutation(len(data))]
        reads = []
        for order in orders:
            start = time.perf_counter()
            for i in order:
                table = file.read_row_group(int(i))
                assert floats_of(table.column(0))[0] == data[i, 0, 0]
            reads.append(time.perf_counter() - start)
        return write, *reads, path.stat().st_size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    for name, default in (("sequences", 128), ("tokens", 512), ("channels", 576)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    shape = (args.sequences, args.tokens, args.channels)
    data = np.random.default_rng(0).standard_normal(shape, np.float32).astype(np.float16) * 13
    megabytes = data.nbytes / 1e6
    layouts = [position_of_bytes, position_of_floats, sequence_of_bytes, sequence_of_floats]
    reference = None
    print(f"{megabytes:.0f} MB of values; MB/s and size relative to the values; (x) = to first row")
    for compression in ("none", "zstd"):
        for layout in layouts:
            figures = np.array(measure(layout, data, compression))
            reference = figures if reference is None else reference
            speeds = "  ".join(
                f"{name} {megabytes / t:6.0f} MB/s ({t / r:5.2f}x time)"
                for name, t, r in zip(("write", "read", "random"), figures, reference, strict=False)
            )
            name = f"{layout.__name__}, {compression}"
            print(f"{name:28} {speeds}  size {figures[3] / data.nbytes:.3f}")


if __name__ == "__main__":
    main()
