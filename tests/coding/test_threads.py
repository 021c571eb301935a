import multiprocessing

import pytest
import torch

from splitcodec.coding.threads import in_threads


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert in_threads(abs, [-1, -2, 3]) == [1, 2, 3]
        child = multiprocessing.get_context("fork").Process(target=in_threads, args=(abs, [-1, 2]))
        child.start()
        child.join(timeout=30)
        if child.is_alive():
            child.kill()
        child.join()
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(before)
