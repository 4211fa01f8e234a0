# SPDX-License-Identifier: Apache-2.0
"""Peak memory of the runtime alone: ``python -m vla_ros.bench.memory BUNDLE PROVIDER THREADS`` prints megabytes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from vla_ros.core.errors import VlaError


def measure(bundle: str, provider: str, threads: int) -> float:
    """Loads the bundle and answers in a child process; returns its peak resident memory, MB.

    Raises:
        VlaError: the child process failed.
    """
    command = [sys.executable, "-m", __name__, bundle, provider, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise VlaError(f"measuring the memory failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return float(done.stdout.split()[-1])


def main(argv: list[str]) -> int:
    """Twenty answers to noise, as the worker process gives them."""
    from vla_ros.bench.samples import answer, load_policy, random_observation

    policy = load_policy(argv[0], argv[1], int(argv[2]))
    observation = random_observation(policy)
    for _ in range(20):
        answer(policy, observation)
    sys.stdout.write(f"{peak_mb():.1f}\n")
    return 0


def peak_mb() -> float:
    """Peak resident memory of this program, MB; `getrusage` would count what the process was before it became this program (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    except (OSError, StopIteration):  # another system
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
