# SPDX-License-Identifier: Apache-2.0
"""A folder of safetensors files, read without trust: no code of it runs, nothing is unpickled, no path leads out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla_ros.core.errors import ConfigError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_JSON_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: missing, too large, no JSON, or no object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_JSON_BYTES >> 20} MiB: that is no configuration")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the folder of the checkpoint, with all its files") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no valid JSON ({error}): download it again") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold an object, found {type(data).__name__}")
    return data


class Checkpoint:
    """The tensors of a folder by name; each is read when it is asked for. One thread only.

    Args:
        directory: with ``model.safetensors``, or shards and their index.

    Raises:
        ConfigError: no safetensors files, a shard is missing, damaged or outside the folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.expanduser().resolve()
        if not self.directory.is_dir():
            raise ConfigError(f"{directory} is no folder: give the folder of a checkpoint, with config.json")
        self._files = {name: self._open(path) for name, path in self._shards().items()}
        self._place = self._places()
        self._unread = set(self._place)

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._place)

    @property
    def unread(self) -> frozenset[str]:
        """Names of those that nobody asked for yet."""
        return frozenset(self._unread)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; raises ConfigError where there is none."""
        return tuple(self._file_of(name).get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor, on the CPU, in the checkpoint's type.

        Raises:
            ConfigError: there is none, it cannot be read, or it holds a number that is not finite.
        """
        file = self._file_of(name)
        try:
            tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(f"'{name}' in {self.directory} cannot be read ({error}): download the checkpoint again") from error
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(
                f"'{name}' in {self.directory} holds numbers that are not finite: the checkpoint is damaged, or its training diverged"
            )
        self._unread.discard(name)
        return tensor

    def ignore(self, *prefixes: str) -> None:
        """Says of tensors that they are known and not needed."""
        self._unread = {name for name in self._unread if not name.startswith(prefixes)}

    def _file_of(self, name: str) -> Any:
        if name not in self._place:
            near = sorted(other for other in self._place if other.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1])[:3]
            raise ConfigError(
                f"{self.directory} has no tensor '{name}'; there are {len(self._place)}, such as {near}: this is another architecture"
            )
        return self._files[self._place[name]]

    def _shards(self) -> dict[str, Path]:
        if (self.directory / INDEX).exists():
            names = sorted(set(self._index().values()))
        elif (self.directory / SINGLE).exists():
            names = [SINGLE]
        else:
            pickles = sorted(path.name for pattern in _PICKLES for path in self.directory.glob(pattern))
            remedy = "load it where you trust it and save it with safe_serialization=True" if pickles else "give the folder of a checkpoint"
            raise ConfigError(f"{self.directory} has neither {SINGLE} nor {INDEX} (pickled files are not opened: {pickles}): {remedy}")
        for name in names:
            path = self.directory / name
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ConfigError(f"{self.directory / INDEX} names the shard {name!r}: shards are safetensors files in the folder itself")
            if not path.is_file():
                raise ConfigError(f"{path} is missing: {INDEX} names it, download the checkpoint again")
        return {name: self.directory / name for name in names}

    def _index(self) -> Mapping[str, str]:
        weight_map = read_json(self.directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
            raise ConfigError(f"{self.directory / INDEX} must have a 'weight_map' from tensors to files: download the checkpoint again")
        return weight_map

    def _open(self, path: Path) -> Any:
        try:
            return safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(f"{path} is no readable safetensors file ({error}): it is cut short, download it again") from error

    def _places(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for file_name, file in self._files.items():
            for name in file.keys():
                if name in found:
                    raise ConfigError(
                        f"'{name}' is in {found[name]} and in {file_name}: which one counts? Keep one checkpoint in {self.directory}"
                    )
                found[name] = file_name
        if (self.directory / INDEX).exists():
            lost = sorted(name for name, file_name in self._index().items() if found.get(name) != file_name)
            if lost:
                raise ConfigError(
                    f"{INDEX} says that '{lost[0]}' is in {self._index()[lost[0]]}, where it is not: download the checkpoint again"
                )
        return found
