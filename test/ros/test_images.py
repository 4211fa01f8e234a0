# SPDX-License-Identifier: Apache-2.0
"""Every encoding and every malformed image of FAULTS rows 12 to 20."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.errors import InputError
from vla_ros.ros.compressed_images import compressed_to_rgb
from vla_ros.ros.images import ENCODINGS, image_to_rgb

_RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def raw(encoding, image, *, padding=0, big=False, **overrides):
    """A sensor_msgs/Image look-alike from an array [H, W(, C)]."""
    rows = image.astype(image.dtype.newbyteorder(">" if big else "<"), copy=False).reshape(image.shape[0], -1)
    body = rows.view(np.uint8).reshape(image.shape[0], -1)
    body = np.pad(body, ((0, 0), (0, padding)), constant_values=0xAB)
    fields = {
        "height": image.shape[0],
        "width": image.shape[1],
        "encoding": encoding,
        "is_bigendian": int(big),
        "step": body.shape[1],
        "data": body.tobytes(),
    }
    return SimpleNamespace(**{**fields, **overrides})


def layouts(dtype):
    """(name without depth, array to send) for each channel order; the picture is always _RGB scaled to ``dtype``."""
    rgb = _RGB if dtype == np.uint8 else _RGB.astype(np.uint16) * 257
    alpha = np.full((*rgb.shape[:2], 1), 7, dtype)
    return {
        "rgb": rgb,
        "bgr": rgb[..., ::-1].copy(),
        "rgba": np.concatenate([rgb, alpha], 2),
        "bgra": np.concatenate([rgb[..., ::-1], alpha], 2),
    }


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("depth, big", [(8, False), (8, True), (16, False), (16, True)])
@pytest.mark.parametrize("name", ["rgb", "bgr", "rgba", "bgra"])
def test_colour_encodings_are_converted_exactly(name, depth, big, padding):
    dtype = np.uint8 if depth == 8 else np.uint16
    np.testing.assert_array_equal(image_to_rgb(raw(f"{name}{depth}", layouts(dtype)[name], padding=padding, big=big)), _RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_mono_becomes_three_equal_channels(encoding):
    gray = _RGB[..., 0]
    np.testing.assert_array_equal(image_to_rgb(raw(encoding, gray)), np.stack([gray] * 3, 2))


@pytest.mark.parametrize("big", [False, True])
def test_every_16_bit_value_goes_to_the_nearest_8_bit_value(big):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257.0).astype(np.uint8)
    for encoding in ("mono16", "16UC1"):
        np.testing.assert_array_equal(image_to_rgb(raw(encoding, values, big=big))[..., 1], expected)


_PATTERNS = {"bayer_rggb": "rggb", "bayer_bggr": "bggr", "bayer_gbrg": "gbrg", "bayer_grbg": "grbg"}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", _PATTERNS)
def test_bayer_mosaics_are_demosaiced_with_the_right_pattern(name, depth):
    """A mosaic of one plain colour must give that colour back everywhere."""
    colour = {"r": 200, "g": 90, "b": 30}
    tile = np.array([colour[c] for c in _PATTERNS[name]], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (4, 5))
    mosaic = mosaic.astype(np.uint8) if depth == 8 else (mosaic * 257).astype(np.uint16)
    rgb = image_to_rgb(raw(f"{name}{depth}", mosaic))
    np.testing.assert_array_equal(rgb, np.broadcast_to(np.array([200, 90, 30], np.uint8), rgb.shape))


def test_bayer_interpolates_bilinearly():
    mosaic = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8).astype(int)
    rgb = image_to_rgb(raw("bayer_rggb8", mosaic.astype(np.uint8)))
    assert rgb[2, 2, 0] == mosaic[2, 2] and rgb[3, 3, 2] == mosaic[3, 3]
    assert rgb[2, 2, 1] == (mosaic[1, 2] + mosaic[3, 2] + mosaic[2, 1] + mosaic[2, 3] + 2) // 4
    assert rgb[2, 2, 2] == (mosaic[1, 1] + mosaic[1, 3] + mosaic[3, 1] + mosaic[3, 3] + 2) // 4


@pytest.mark.parametrize("encoding, order", [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")])
def test_yuv_grey_has_the_luma_of_video_range(encoding, order):
    pair = {"y": 126, "u": 128, "v": 128}
    row = np.array([pair[c] for c in order] * 2, np.uint8).reshape(1, 4, 2)
    rgb = image_to_rgb(raw(encoding, np.repeat(row, 2, 0)))
    assert np.abs(rgb.astype(int) - round((126 - 16) * 255 / 219)).max() <= 1  # BT.601, luma 16..235


@pytest.mark.parametrize("encoding", ["", "RGB8", "rgb9", "32FC1", "nv21", "jpeg"])
def test_unknown_encoding_names_itself_and_the_known_ones(encoding):
    with pytest.raises(InputError, match="known are rgb8, bgr8") as caught:
        image_to_rgb(raw(encoding, _RGB))
    assert caught.value.code == "image_encoding" and repr(encoding) in str(caught.value)


@pytest.mark.parametrize(
    "overrides, code",
    [
        ({"step": 8 * 3 - 1}, "image_step"),
        ({"step": 0}, "image_step"),
        ({"data": b"\x00" * (8 * 3 * 6 - 1)}, "image_data"),
        ({"data": b""}, "image_data"),
        ({"height": 0}, "image_empty"),
        ({"width": 0}, "image_empty"),
        ({"height": 2**32 - 1}, "image_too_large"),
        ({"step": 2**32 - 1}, "image_data"),
        ({"width": 4097, "height": 4096}, "image_too_large"),
    ],
)
def test_contradicting_sizes_are_refused(overrides, code):
    with pytest.raises(InputError) as caught:
        image_to_rgb(raw("rgb8", _RGB, **overrides))
    assert caught.value.code == code


def test_more_data_than_needed_is_ignored():
    message = raw("rgb8", _RGB)
    message.data += b"tail"
    np.testing.assert_array_equal(image_to_rgb(message), _RGB)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*ENCODINGS, "nonsense"]),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 80),
    big=st.integers(0, 1),
    data=st.binary(max_size=800),
)
def test_any_message_gives_a_picture_or_an_input_error(encoding, height, width, step, big, data):
    message = SimpleNamespace(encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=data)
    try:
        rgb = image_to_rgb(message)
    except InputError:
        return
    assert rgb.shape == (height, width, 3) and rgb.dtype == np.uint8


def encoded(kind, image):
    return SimpleNamespace(format=kind, data=cv2.imencode(f".{kind}", image)[1].tobytes())


def test_png_is_decoded_exactly():
    np.testing.assert_array_equal(compressed_to_rgb(encoded("png", _RGB[..., ::-1])), _RGB)
    np.testing.assert_array_equal(compressed_to_rgb(encoded("png", _RGB[..., 0])), np.repeat(_RGB[..., :1], 3, 2))
    np.testing.assert_array_equal(compressed_to_rgb(encoded("png", _RGB[..., ::-1].astype(np.uint16) * 257)), _RGB)
    rgba = np.dstack([_RGB[..., ::-1], np.full(_RGB.shape[:2], 9, np.uint8)])
    np.testing.assert_array_equal(compressed_to_rgb(encoded("png", rgba)), _RGB)


def test_jpeg_is_decoded_to_rgb_order():
    plain = np.zeros((16, 16, 3), np.uint8)
    plain[...] = (10, 60, 220)  # bgr
    rgb = compressed_to_rgb(encoded("jpg", plain))
    assert np.abs(rgb.astype(int) - (220, 60, 10)).max() <= 3  # quantisation at quality 95


def test_the_bytes_decide_and_not_the_format_field():
    message = encoded("png", _RGB[..., ::-1])
    message.format = "bgr8; jpeg compressed bgr8"
    np.testing.assert_array_equal(compressed_to_rgb(message), _RGB)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_picture_cut_at_any_byte_is_refused(kind):
    whole = encoded(kind, _RGB).data
    for length in range(len(whole) - (0 if kind == "jpg" else 1)):
        with pytest.raises(InputError):
            compressed_to_rgb(SimpleNamespace(format=kind, data=whole[:length]))


def test_a_png_with_any_byte_changed_is_refused():
    whole = encoded("png", _RGB).data
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        with pytest.raises(InputError):
            compressed_to_rgb(SimpleNamespace(format="png", data=bytes(damaged)))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_jpeg_gives_a_picture_or_an_input_error(at, value):
    damaged = bytearray(encoded("jpg", _RGB).data)
    damaged[at % len(damaged)] = value
    try:
        compressed_to_rgb(SimpleNamespace(format="jpeg", data=bytes(damaged)))
    except InputError:
        pass


@pytest.mark.parametrize("data", [b"", b"\x00", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x00"])
def test_other_bytes_are_refused(data):
    with pytest.raises(InputError):
        compressed_to_rgb(SimpleNamespace(format="jpeg", data=data))


def test_a_depth_image_is_refused():
    with pytest.raises(InputError, match="depth"):
        compressed_to_rgb(SimpleNamespace(format="16UC1; compressedDepth", data=b"\x00" * 12 + encoded("png", _RGB).data))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_decompression_bombs_are_refused_by_their_header(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a bomb was decoded"))
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + png_chunk(b"IEND", b"")
    jpeg = bytearray(encoded("jpg", _RGB).data)
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    for data in (png, bytes(jpeg)):
        with pytest.raises(InputError) as caught:
            compressed_to_rgb(SimpleNamespace(format="any", data=data))
        assert caught.value.code == "image_too_large"
