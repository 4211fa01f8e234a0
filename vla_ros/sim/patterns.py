# SPDX-License-Identifier: Apache-2.0
"""Patterns that the table can wear; in demonstrations it has one colour."""

from __future__ import annotations

import mujoco

PATTERNS = ("checker", "gradient", "speckle")
_BUILTIN = {"checker": mujoco.mjtBuiltin.mjBUILTIN_CHECKER, "gradient": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, "speckle": mujoco.mjtBuiltin.mjBUILTIN_FLAT}
_LIGHT, _DARK, _SPOT = [1.0, 1.0, 1.0], [0.55, 0.55, 0.55], [0.35, 0.35, 0.35]  # times the table's colour


def add_patterns(spec: mujoco.MjSpec) -> None:
    """Adds a material for each of ``PATTERNS``, which nothing wears until ``wear_pattern``."""
    for name in PATTERNS:
        texture = spec.add_texture(
            name=f"pattern_{name}", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=_BUILTIN[name], width=128, height=128, nchannel=3, rgb1=_LIGHT, rgb2=_DARK
        )
        if name == "speckle":
            texture.mark, texture.random, texture.markrgb = mujoco.mjtMark.mjMARK_RANDOM, 0.15, _SPOT
        material = spec.add_material(name=f"pattern_{name}", texrepeat=[4, 4], specular=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"pattern_{name}"


def wear_pattern(model: mujoco.MjModel, pattern: str | None) -> None:
    """Gives the table one of ``PATTERNS``, or its plain colour."""
    model.geom_matid[model.geom("table").id] = -1 if pattern is None else model.material(f"pattern_{pattern}").id
