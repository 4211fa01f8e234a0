# SPDX-License-Identifier: Apache-2.0
"""Films play in real time, are what browsers show, and carry their words."""

from __future__ import annotations

import numpy as np
import pytest

av = pytest.importorskip("av")

from vla_ros import video  # noqa: E402


def frame(time_s: float, **words) -> video.Frame:
    images = {"front": np.full((256, 256, 3), 90, np.uint8), "wrist": np.full((128, 128, 3), 160, np.uint8)}
    return video.Frame(time_s=time_s, images=images, **{"instruction": "pick up the red cube", **words})


def film(count: int, rate_hz: float = 15) -> list[np.ndarray]:
    return [video.draw(f) for f in video.at_rate([frame(i / rate_hz) for i in range(count)], rate_hz)]


def test_a_picture_shows_both_cameras_side_by_side():
    picture = video.draw(frame(1.0))
    assert picture.dtype == np.uint8 and picture.shape == (video.BAND + video.PANE, 2 * video.PANE + video.GAP, 3)
    assert tuple(picture[300, 100]) == (90, 90, 90) and tuple(picture[300, -100]) == (160, 160, 160)
    assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0  # yuv420p


@pytest.mark.parametrize("words", [{"instruction": "push"}, {"plan": "grasp x=0.3 m"}, {"status": "Holding."}, {"success": True}])
def test_each_word_changes_the_picture_above_and_nothing_below(words: dict):
    plain, written = video.draw(frame(1.0)), video.draw(frame(1.0, **words))
    assert not np.array_equal(plain[: video.BAND], written[: video.BAND])
    assert np.array_equal(plain[video.BAND :], written[video.BAND :])


@pytest.mark.parametrize("text", ["x" * 500, "leg den grünen Würfel weg", "赤い立方体", "a\tb\nc\x00", ""])
def test_any_text_can_be_written(text: str):
    video.draw(frame(0.0, instruction=text, plan=text, status=text))


def test_an_mp4_is_what_players_show(tmp_path):
    path = video.write_mp4(tmp_path / "film.mp4", film(30), 15)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 15
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(pictures) == 30
    assert abs(int(pictures[0][300, 100, 0]) - 90) < 4


def test_a_gif_is_small_and_colourful_enough(tmp_path):
    path = video.write_gif(tmp_path / "film.gif", film(30), 15)
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert pictures[0].shape[1] == video.GIF_WIDTH
    assert abs(int(pictures[0][200, 100, 0]) - 90) < 12
    assert path.stat().st_size < 300_000


def test_a_long_film_is_sped_up_in_the_gif(tmp_path):
    pictures = film(3) * 300  # 60 s
    path = video.write_gif(tmp_path / "film.gif", pictures, 15)
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert count / video.GIF_RATE_HZ <= video.GIF_MAX_S + 2.5


def test_gaps_and_bursts_become_a_steady_clock():
    times = [0.0, 0.01, 0.02, 1.0, 2.0]
    chosen = video.at_rate([frame(t) for t in times], 10)
    assert len(chosen) == 21
    assert [f.time_s for f in chosen[:2]] == [0.0, 0.02] and chosen[-1].time_s == 2.0
    assert sum(f.time_s == 1.0 for f in chosen) == 10


def test_no_pictures_no_film(tmp_path):
    assert video.at_rate([], 15) == []
    for write in (video.write_mp4, video.write_gif):
        with pytest.raises(ValueError):
            write(tmp_path / "x", [], 15)
