"""The peak of memory begins anew for each measurement."""

import sys

import numpy as np
import pytest
import torch

from fairnb.memory import device_peak, reset_device_peak


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform != "linux", reason="the peak is reset on Linux alone")
def test_the_peak_forgets_what_came_before():
    array = np.ones(50_000_000)  # 400 MB
    del array
    before = device_peak()
    reset_device_peak()
    least = device_peak()
    assert least < before - 300
    held = np.ones(25_000_000)
    assert device_peak() > least + held.nbytes / 2e6
