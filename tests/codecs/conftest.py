import pytest
import torch
from codec_samples import LEARNED, fitted_hyperprior, fitted_klt, representations


@pytest.fixture(scope="module")
def data():
    """Representation (8, 40, channels) and ragged lengths."""
    lengths = torch.tensor([40, 1, 23, 40, 7, 40, 2, 31])
    return representations(8, 40), lengths


@pytest.fixture(scope="module", params=LEARNED)
def learned(request):
    return LEARNED[request.param]()


@pytest.fixture(scope="module")
def klt():
    return fitted_klt()


@pytest.fixture(scope="module")
def hyperprior():
    return fitted_hyperprior()
