"""What ranks set before torch is imported."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from rldsl.backends.environment import prepare_torch


def test_segments_expand() -> None:
    with mock.patch.dict(os.environ, clear=True):
        prepare_torch()
        assert dict(os.environ) == {
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        }


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_what_the_user_has_set_stays(name: str) -> None:
    own = {name: "garbage_collection_threshold:0.8", "TORCH_CPP_LOG_LEVEL": "INFO"}
    with mock.patch.dict(os.environ, own, clear=True):
        prepare_torch()
        assert dict(os.environ) == own
