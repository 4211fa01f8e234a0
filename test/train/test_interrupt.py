# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from vla_ros.train.interrupt import StopOnSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    run = SimpleNamespace(stop_requested=False)
    before = signal.getsignal(number)
    with StopOnSignal(run):
        os.kill(os.getpid(), number)
        assert run.stop_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
