# SPDX-License-Identifier: Apache-2.0
"""MuJoCo's renderers, freed before the interpreter takes apart what frees them: a program would end with tracebacks otherwise (MuJoCo 3.17)."""

from __future__ import annotations

import atexit
import weakref

import mujoco

_alive: weakref.WeakSet[mujoco.Renderer] = weakref.WeakSet()


def new_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """A renderer for pictures of so many pixels. For one thread: it owns an OpenGL context."""
    renderer = mujoco.Renderer(model, height, width)
    if not _alive:  # behind MuJoCo's own, which ends the display: the last one registered is the first to run
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _alive.add(renderer)
    return renderer


def _close_all() -> None:
    for renderer in tuple(_alive):
        renderer.close()
