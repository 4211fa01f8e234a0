# SPDX-License-Identifier: Apache-2.0
"""Turns recorded pictures into a film that explains itself: both cameras side by side, and what the robot was told and thinks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

PANE = 512  # pixels a side of each camera's picture
BAND = 120  # pixels of the text above
GAP = 8
GIF_WIDTH, GIF_RATE_HZ, GIF_MAX_S = 520, 6, 16
_FONT, _INK, _DIM = cv2.FONT_HERSHEY_SIMPLEX, (240, 240, 240), (165, 170, 175)
_GOOD, _BAD = (110, 220, 120), (255, 110, 100)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One moment of a recording.

    Attributes:
        time_s: since the instruction was given.
        images: pictures by camera name, uint8 [H, W, 3] RGB; shown from left to right.
        instruction: what the robot was told.
        plan: the policy's words.
        status: the node's status.
        success: the simulator's check; None: it cannot judge this instruction.
    """

    time_s: float
    images: dict[str, np.ndarray]
    instruction: str
    plan: str = ""
    status: str = ""
    success: bool | None = False


def draw(frame: Frame) -> np.ndarray:
    """One picture of the film, uint8 [BAND + PANE, W, 3], W and height even."""
    panes = [_pane(name, image) for name, image in frame.images.items()]
    width = len(panes) * PANE + (len(panes) - 1) * GAP
    canvas = np.full((BAND + PANE, width, 3), 24, dtype=np.uint8)
    for index, pane in enumerate(panes):
        left = index * (PANE + GAP)
        canvas[BAND:, left : left + PANE] = pane
    _write(canvas, f"> {frame.instruction}", (14, 36), 0.8, _INK, width - 28)
    _write(canvas, f"plan: {frame.plan or '-'}", (14, 70), 0.6, _DIM, width - 28)
    _write(canvas, frame.status, (14, 102), 0.6, _DIM, width - 260)
    mark, ink = ("SUCCESS", _GOOD) if frame.success else ("", _DIM)
    _write(canvas, f"{mark}  {frame.time_s:5.1f} s", (width - 230, 102), 0.7, ink, 220)
    return canvas


def write_mp4(path: Path, pictures: Iterable[np.ndarray], rate_hz: float) -> Path:
    """H.264, yuv420p: what browsers and players show.

    Args:
        path: of the film.
        pictures: uint8 [H, W, 3] RGB of one even size, at least one.
        rate_hz: pictures a second.
    """
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "21", "preset": "veryfast"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is None:
            raise ValueError("a film needs at least one picture")
        container.mux(stream.encode(None))
    return path


def write_gif(path: Path, pictures: Sequence[np.ndarray], rate_hz: float) -> Path:
    """A small animation with a palette of its own; a long film is sped up to ``GIF_MAX_S``."""
    if not pictures:
        raise ValueError("an animation needs at least one picture")
    speed = max(1.0, len(pictures) / rate_hz / GIF_MAX_S)
    step = max(1, round(rate_hz * speed / GIF_RATE_HZ))
    small = [_shrink(picture) for picture in (*pictures[::step], *[pictures[-1]] * GIF_RATE_HZ)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=GIF_RATE_HZ)
        stream.height, stream.width = small[0].shape[:2]
        stream.pix_fmt = "pal8"
        for frame in _with_palette(small):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def at_rate(frames: Sequence[Frame], rate_hz: float) -> list[Frame]:
    """The newest frame at each tick of a steady clock, so that the film runs in the time in which it happened."""
    if not frames:
        return []
    chosen, index = [], 0
    first, last = frames[0].time_s, frames[-1].time_s
    for tick in range(int((last - first) * rate_hz) + 1):
        while index + 1 < len(frames) and frames[index + 1].time_s <= first + tick / rate_hz + 1e-9:
            index += 1
        chosen.append(frames[index])
    return chosen


def _pane(name: str, image: np.ndarray) -> np.ndarray:
    enlarged = cv2.resize(image, (PANE, PANE), interpolation=cv2.INTER_CUBIC)
    _write(enlarged, name, (12, PANE - 14), 0.6, _INK, PANE - 24)
    return enlarged


def _write(canvas: np.ndarray, text: str, origin: tuple[int, int], scale: float, ink: tuple[int, int, int], width: int) -> None:
    """Writes one line, smaller where it would not fit; characters that the font lacks become their nearest."""
    plain = unicodedata.normalize("NFKD", text.replace("—", "-").replace("°", " deg"))
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in plain if not unicodedata.combining(c))
    (needed, _), _ = cv2.getTextSize(plain, _FONT, scale, 1)
    scale *= min(1.0, width / max(needed, 1))
    shadow = (origin[0] + 1, origin[1] + 1)
    cv2.putText(canvas, plain, shadow, _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, plain, origin, _FONT, scale, ink, 1, cv2.LINE_AA)


def _shrink(picture: np.ndarray) -> np.ndarray:
    height = round(picture.shape[0] * GIF_WIDTH / picture.shape[1])
    return cv2.resize(picture, (GIF_WIDTH, height), interpolation=cv2.INTER_AREA)


def _with_palette(pictures: Sequence[np.ndarray]) -> Iterator[av.VideoFrame]:
    """Frames in the 256 colours that fit all of them best (FFmpeg's palettegen and paletteuse)."""
    height, width = pictures[0].shape[:2]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=Fraction(1, GIF_RATE_HZ))
    split, palette, sink = graph.add("split"), graph.add("palettegen"), graph.add("buffersink")
    use = graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, GIF_RATE_HZ)
        source.push(frame)
    source.push(None)
    while True:
        try:
            yield sink.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return
