# SPDX-License-Identifier: Apache-2.0
"""Prepares batches in one background thread while the processor multiplies matrices."""

from __future__ import annotations

import logging
import queue
import threading
import time

from vla_ros.train.data import Batch, BatchMaker

_log = logging.getLogger(__name__)
_POLL_S = 0.2  # how soon the thread notices that it should end


class Prefetcher:
    """Training batches in order from `first` on, `depth` ahead. Use as a context manager.

    The thread owns the dataset while it runs: it also searches for new shards every `rescan_s` seconds (0 = never).
    An error in the thread is raised by `next_batch`.
    """

    def __init__(self, maker: BatchMaker, first: int, rescan_s: float, depth: int = 3) -> None:
        self._maker = maker
        self._number = first
        self._rescan_s = rescan_s
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def next_batch(self) -> Batch:
        """The next batch; waits for it."""
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _run(self) -> None:
        scanned = time.monotonic()
        try:
            while not self._stop.is_set():
                if self._rescan_s and time.monotonic() - scanned > self._rescan_s:
                    added = self._maker.dataset.rescan()
                    scanned = time.monotonic()
                    if added:
                        _log.info("%d new shards, %d frames to train on", added, self._maker.dataset.num_frames())
                self._put(self._maker.training_batch(self._number))
                self._number += 1
        except Exception as error:  # handed to the training loop, which raises it
            self._put(error)

    def _put(self, item: Batch | Exception) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue
