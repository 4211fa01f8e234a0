# SPDX-License-Identifier: Apache-2.0
"""When a task has ended, by what the policy's chunks say."""

from __future__ import annotations

from vla_ros.core.chunk import ActionChunk


class Completion:
    """A task ends when enough chunks in a row say that it is done at their next free step, and that step is due. One thread only.

    A chunk looks ahead: what it says about a step to come must not stop the motion that leads there. Later chunks that say the same of their
    own next steps do not put the end off.

    Args:
        chunks: how many in a row are enough.
    """

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self.forget()

    def forget(self) -> None:
        """Another task, or the same one anew."""
        self._run, self._due_ns = 0, None

    def note(self, chunk: ActionChunk, now_ns: int) -> None:
        """A chunk was taken."""
        step = chunk.next_free_step(now_ns)
        self._run = self._run + 1 if chunk.terminate_H[step] else 0
        if self._run < self._chunks:
            self._due_ns = None
        elif self._due_ns is None:
            self._due_ns = chunk.due_ns(step)

    def is_reached(self, now_ns: int) -> bool:
        """Whether the last step of the task is due."""
        return self._due_ns is not None and now_ns >= self._due_ns
