# SPDX-License-Identifier: Apache-2.0
"""A session on ONNX Runtime's global thread pool, in a process of its own: with one, a process can have no session with a pool of its own.

``python -m vla_ros.bench.global_pool ONNX INPUTS.npz THREADS`` answers every line with one run.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort

from vla_ros.ros.answers import reply


def main(argv: list[str]) -> int:
    """Runs until its input ends."""
    path, inputs_path, threads = argv[0], argv[1], int(argv[2])
    ort.set_global_thread_pool_sizes(threads, 1)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = dict(np.load(inputs_path))
    session.run(None, inputs)
    reply(ready=True)
    for _ in sys.stdin:
        session.run(None, inputs)
        reply(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
