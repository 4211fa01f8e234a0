# SPDX-License-Identifier: Apache-2.0
"""Newest-wins slots in shared memory between two processes: one writer and any readers each, no lock, no pickle.

A slot is a sequence lock: the number is odd while the writer is inside, and a reader that saw it change reads
again. A checksum guards what the number cannot: stores seen in another order (weakly ordered processors) and
a writer that was killed inside. Reading never blocks the writer, so that a stalled worker cannot stop the control loop.
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, shared_memory

import numpy as np

from vla_ros.core.errors import ConfigError

_MAGIC = 0x564C4153  # "VLAS"
_HEADER = np.dtype([("magic", "<u8"), ("layout", "<u8"), ("sequence", "<u8"), ("checksum", "<u8")])
_TRIES = 100  # a write takes microseconds: more than a few tries mean a writer that died inside
_WAIT_S = 20e-6
_attach_lock = threading.Lock()


class Slot:
    """One slot. Not for several threads at once; each process makes its own.

    Args:
        name: system-wide name of the segment.
        dtype: numpy structured type of the record, without objects.
        create: True in the process that owns the segment; it removes it in ``close``.

    Raises:
        ConfigError: the segment exists already, does not exist, or has another layout.
    """

    def __init__(self, name: str, dtype: np.dtype, *, create: bool) -> None:
        if dtype.hasobject:
            raise ConfigError("a slot's record must have a fixed binary layout, without objects")
        self.name = name
        self._owns = create
        size = _HEADER.itemsize + dtype.itemsize
        self._memory = _create(name, size) if create else _attach(name, size)
        self._header = np.ndarray((), _HEADER, buffer=self._memory.buf)
        self._bytes = np.ndarray((dtype.itemsize,), np.uint8, buffer=self._memory.buf, offset=_HEADER.itemsize)
        self._dtype = dtype
        layout = zlib.crc32(repr((dtype.descr, dtype.itemsize)).encode())
        if create:
            self._header[()] = (_MAGIC, layout, 0, 0)
        elif (int(self._header["magic"]), int(self._header["layout"])) != (_MAGIC, layout):
            self.close()
            raise ConfigError(f"shared memory '{name}' has another layout: both processes must run the same release and bundle")
        self._last_read = 0

    @property
    def sequence(self) -> int:
        """Twice the number of writes so far; odd while a write is under way."""
        return int(self._header["sequence"])

    def write(self, record: np.ndarray) -> None:
        """Replaces the content by a record (0-dimensional array of the slot's type). Only one process may write."""
        data = np.frombuffer(record.tobytes(), np.uint8)
        inside = self.sequence | 1  # odd already if a writer before died inside
        self._header["sequence"] = inside
        self._bytes[:] = data
        self._header["checksum"] = zlib.crc32(data, inside + 1)
        self._header["sequence"] = inside + 1

    def read(self) -> np.ndarray | None:
        """A copy of the newest record that this reader has not seen, or None."""
        for attempt in range(_TRIES):
            before = self.sequence
            if before == self._last_read or before == 0:
                return None
            if not before & 1:
                data = self._bytes.tobytes()
                checksum = int(self._header["checksum"])
                if self.sequence == before and zlib.crc32(data, before) == checksum:
                    self._last_read = before
                    return np.frombuffer(data, self._dtype)[0]
            if attempt > 2:
                time.sleep(_WAIT_S)
        return None

    def close(self) -> None:
        """Lets the segment go; its owner also removes it. May be called twice."""
        self._header = self._bytes = None
        memory, self._memory = self._memory, None
        if memory is None:
            return
        memory.close()
        if self._owns:
            try:
                memory.unlink()
            except FileNotFoundError:
                pass

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _create(name: str, size: int) -> shared_memory.SharedMemory:
    try:
        return shared_memory.SharedMemory(name, create=True, size=size)
    except FileExistsError as error:
        hint = f"another node with this name runs, or one was killed (remove /dev/shm/{name})"
        raise ConfigError(f"shared memory '{name}' exists: {hint}") from error


def _attach(name: str, size: int) -> shared_memory.SharedMemory:
    try:
        if sys.version_info >= (3, 13):
            memory = shared_memory.SharedMemory(name, track=False)
        else:
            with _untracked():
                memory = shared_memory.SharedMemory(name)
    except FileNotFoundError as error:
        raise ConfigError(f"shared memory '{name}' does not exist: the process that owns it has ended or not begun") from error
    if memory.size < size:
        found = memory.size
        memory.close()
        raise ConfigError(f"shared memory '{name}' has {found} bytes, needed are {size}: run the same release and bundle in both processes")
    return memory


@contextmanager
def _untracked() -> Iterator[None]:
    """Before Python 3.13 attaching registers a segment for removal at this process's exit (cpython issue 82300): keep it from that."""
    with _attach_lock:
        register = resource_tracker.register
        resource_tracker.register = lambda name, kind: None if kind == "shared_memory" else register(name, kind)
        try:
            yield
        finally:
            resource_tracker.register = register
