"""Several cores for what torch does not spread over them: the lossless compressors."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


def in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """`function` of every item, in order, on as many cores as torch may use."""
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return list(map(function, items))
    return list(_pool(threads).map(function, items))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: what they allocate would else be new memory every time."""
    return ThreadPoolExecutor(threads)


# A forked process has the pool but none of its threads, and would wait for them forever.
os.register_at_fork(after_in_child=_pool.cache_clear)
