"""The device that an option names."""

import pytest
import torch

from mige_ext.experiments.common.device import device_of


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "meta", "gpu"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.is_available():
        return  # this machine has the device
    with pytest.raises(ValueError, match=rf"--device.*{name}"):
        device_of(name)
    assert device_of("cpu") == torch.device("cpu")
