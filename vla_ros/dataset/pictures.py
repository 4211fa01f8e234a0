# SPDX-License-Identifier: Apache-2.0
"""Films of a LeRobotDataset: episodes one after another in one mp4, frame i at i / fps. Axes: T frames, H, W, C."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vla_ros.train.shards import DataError

CODECS = {
    "h264": ("libx264", {"preset": "veryfast", "bf": "0"}),
    "av1": ("libsvtav1", {"preset": "10"}),  # LeRobot's own choice; smaller and slower
}
KEY_FRAME_EVERY = 2  # as LeRobot: a frame is found after decoding two


class FilmWriter:
    """Writes one mp4, yuv420p. One thread.

    Args:
        crf: quality, smaller is better; 30 is LeRobot's for AV1.
    """

    def __init__(self, path: Path, fps: int, height: int, width: int, codec: str, crf: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder, options = CODECS[codec]
        self.path = path
        self.frames = 0
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(encoder, rate=fps)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.gop_size = KEY_FRAME_EVERY
        self._stream.options = {**options, "crf": str(crf), "g": str(KEY_FRAME_EVERY)}
        self._time_base = Fraction(1, fps)

    def add(self, pictures_THWC: np.ndarray) -> None:
        """Appends uint8 [T, H, W, 3]."""
        for picture in pictures_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, self._time_base
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Ends the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def film_facts(path: Path) -> dict[str, object]:
    """The entries that LeRobot keeps in `info.json` about a film."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height, "video.width": stream.width, "video.codec": stream.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt, "video.is_depth_map": False, "video.fps": int(stream.base_rate), "video.channels": 3,
            "has_audio": False,
        }  # fmt: skip


class FilmReader:
    """Reads episodes of one mp4, best in their order; use as a context manager.

    Raises:
        DataError: the file is missing or no film.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._container = av.open(str(path))
            self._frames = self._decode()
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        self._next: tuple[float, np.ndarray] | None = None

    def read(self, start_s: float, count: int, fps: float) -> np.ndarray:
        """``count`` frames from ``start_s`` on, uint8 [T, H, W, 3]. An earlier place than the last one's end is sought anew.

        Raises:
            DataError: a frame is missing or at another time than its row says.
        """
        if self._next is not None and self._next[0] > start_s + 0.5 / fps:
            self._container.seek(0)
            self._frames, self._next = self._decode(), None
        pictures: list[np.ndarray] = []
        while len(pictures) < count:
            wanted_s = start_s + len(pictures) / fps
            time_s, picture = self._following()
            if time_s < wanted_s - 0.5 / fps and not pictures:
                continue
            if abs(time_s - wanted_s) > 0.1 / fps:
                raise DataError(
                    f"{self.path}: frame {len(pictures)} of the episode from {start_s:.3f} s is at {time_s:.4f} s, expected {wanted_s:.4f} s"
                )
            pictures.append(picture)
        return np.stack(pictures)

    def _following(self) -> tuple[float, np.ndarray]:
        found = next(self._frames, None)
        if found is None:
            raise DataError(f"{self.path} ends before the last frame of an episode: copy the dataset again")
        self._next = (found[0] + 1e-9, found[1])
        return found

    def _decode(self) -> Iterator[tuple[float, np.ndarray]]:
        try:
            for frame in self._container.decode(video=0):
                yield float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise DataError(f"{self.path} is damaged: {error}") from error

    def __enter__(self) -> FilmReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()


def count_frames(path: Path) -> int:
    """Frames of a film by its packets, without decoding them.

    Raises:
        DataError: the file is missing or no film.
    """
    try:
        with av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
