# SPDX-License-Identifier: Apache-2.0
"""``vla sim export-sdf``: writes the tabletop's worlds for Gazebo Sim and Gazebo Classic 11 from the URDF and the scene."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vla_ros.core.paths import share_dir

FILES = {"sim": "tabletop.sdf", "classic": "tabletop_classic.world"}
_TOLERANCE = 1e-5  # of numbers: versions of MuJoCo differ in the last digits


def main(argv: Sequence[str] | None = None) -> int:
    """Writes both worlds; with ``--check`` only compares them. Returns 1 if they are out of date."""
    parser = argparse.ArgumentParser(prog="vla sim export-sdf", description=__doc__.replace("``", ""))
    parser.add_argument("--output", type=Path, default=default_folder(), help="folder (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which scene's objects, as in vla sim --seed (default 0)")
    parser.add_argument("--look", type=float, default=0.0, help="strength of the random look, 0 (nominal, default) to 1 (as in training)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs from what would be written")
    options = parser.parse_args(argv)
    if options.seed < 0 or not 0.0 <= options.look <= 1.0:
        parser.error("--seed must not be negative, --look must be 0 to 1")
    worlds = export(options.seed, options.look)
    stale = [name for name, text in worlds.items() if not is_up_to_date(options.output / name, text)]
    if options.check:
        for name in stale:
            sys.stderr.write(f"{options.output / name} is out of date: run vla sim export-sdf\n")
        return int(bool(stale))
    options.output.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (options.output / name).write_text(worlds[name], encoding="utf-8")
    sys.stderr.write(f"{options.output}: {', '.join(worlds)} ({len(stale)} changed)\n")
    return 0


def default_folder() -> Path:
    """Where the worlds of the package lie."""
    return share_dir() / "config" / "gazebo"


def export(seed: int = 0, look: float = 0.0) -> dict[str, str]:
    """File name to SDF text of the scene of ``seed``, each block where it was laid down."""
    from vla_ros.sim.gazebo.plan import ScenePlan
    from vla_ros.sim.gazebo.sdf import world_sdf

    plan = ScenePlan(randomize_look=look)
    plan.reset(seed, settle=False)
    return {name: world_sdf(plan, dialect) for dialect, name in FILES.items()}


def is_up_to_date(path: Path, text: str) -> bool:
    """Whether a file says the same as ``text``, numbers within a hundredth of a millimetre."""
    if not path.is_file():
        return False
    before, now = (
        path.read_text(encoding="utf-8").replace("<", " <").replace(">", "> ").split(),
        text.replace("<", " <").replace(">", "> ").split(),
    )
    return len(before) == len(now) and all(a == b or _close(a, b) for a, b in zip(before, now))


def _close(a: str, b: str) -> bool:
    try:
        return abs(float(a) - float(b)) <= _TOLERANCE * max(1.0, abs(float(b)))
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
