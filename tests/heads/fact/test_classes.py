"""Claims about what the channels of FACT's classifiers mean."""

import pytest
import torch

from pipeline.heads.fact.classes import Classes
from tests.heads.fact.plain import PAIRS

SEEN = torch.tensor([True, False, True, True])


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16])
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_verbs_and_nouns_have_the_dtype_of_the_logits_whatever_the_default_is(dtype, default_dtype):
    logits = torch.arange(5, device="cpu").to(dtype)[None]
    found = Classes(SEEN, 2, 3, PAIRS).log_probabilities(logits, null=False)
    torch.set_default_dtype(torch.float32)
    expected = Classes(SEEN, 2, 3, PAIRS).log_probabilities(logits, null=False)
    assert found.dtype == dtype and torch.equal(found, expected)
