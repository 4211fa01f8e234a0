# SPDX-License-Identifier: Apache-2.0
"""Camera stamp to published action, through the real node over DDS, with two cameras of 640x480 at 30 Hz and inference back to back.

The time is from the older camera's stamp of an observation to the publication of the first command that its chunk moved.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from rich.console import Console

from vla_ros.bench.control import resumed_note
from vla_ros.bench.nodes import record_conditions, running
from vla_ros.bench.rounds import entry
from vla_ros.core.errors import VlaError

CAMERA_PERIOD_MS = 1e3 / 30.0
ALLOWANCE_MS = 5.0  # beside one camera period and one inference


def bench_end_to_end(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results`` and ``notes``. The limit of the median is one camera period, one inference and 5 ms."""
    results: list[dict[str, Any]] = []
    notes: list[str] = []
    fifo = "fifo" in options.scheduler
    for rate_hz in options.rate:
        title = f"{rate_hz} Hz"
        with running(options.model, rate_hz=rate_hz, fifo=fifo, threads=options.threads, provider=options.provider) as bench:
            bench.wait_active()
            settings = {"cycles": options.cycles, "segments": options.segments, "rate_hz": rate_hz, "console": console, "title": title}
            rows = record_conditions(bench, ["load"], notes=notes, **settings)["load"]
            notes += resumed_note(title, bench.state())
        results += entries_of(np.concatenate(rows), title)
    return {"results": results, "notes": notes}


def entries_of(rows: np.ndarray, title: str) -> list[dict[str, Any]]:
    """Two entries: camera to action, and the inference within.

    Raises:
        VlaError: no chunk came.
    """
    first = rows[rows["first_ns"] > 0]
    if not len(first):
        raise VlaError(f"{title}: no chunk was followed in {len(rows)} periods: try more --cycles")
    inference = entry(title, "inference_in_the_worker", "ms", 1e-6 * first["inference_ns"])
    limit_ms = CAMERA_PERIOD_MS + inference["p50"] + ALLOWANCE_MS
    camera = entry(title, "camera_stamp_to_action", "ms", 1e-6 * first["first_ns"], limit={"p50": round(limit_ms, 2)})
    return [camera, inference]
