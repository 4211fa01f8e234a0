# SPDX-License-Identifier: Apache-2.0
"""How the C library treats the memory of training."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_heap() -> None:
    """Lets the C library reuse freed memory instead of returning it: a step's tensors are as large as the last one's.

    Page faults cost up to half of a training step otherwise. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
