# SPDX-License-Identifier: Apache-2.0
"""OpenVLA's checkpoint folder to a bundle: configuration, statistics, tokenizer, weights (arXiv 2406.09246 and its published conversion).

Axes: D dimensions of an action.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from vla_ros import __version__
from vla_ros.core.action import ActionSpec
from vla_ros.core.action_codec import PromptSpec, QuantileCodecSpec
from vla_ros.core.dataset_statistics import DatasetStatistics, ValueStatistics
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import DECODE, EXTENDED_VERSION, PREFILL, ContextSpec, Manifest, VocabularySpec
from vla_ros.core.quantile_bins import NUM_BINS, QuantileNormalizer
from vla_ros.importers.bundle import seal, staged
from vla_ros.importers.checkpoint import Checkpoint, read_json
from vla_ros.importers.fused_policy import Decode, FusedPolicy, FusedShape, Prefill, fused_sources
from vla_ros.importers.graphs import OPSET, WeightFile, export_graph
from vla_ros.importers.interface import Interface, openvla_interface
from vla_ros.importers.llama import LlamaConfig
from vla_ros.importers.parity import Example, check_memory, count, difference, run_graph, types_of
from vla_ros.importers.towers import TowerKind, kind_of, shape_of
from vla_ros.runtime.autoregressive import LOGITS, PAST, POSITION, PRESENT, TOKEN
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import TEXT_IDS, image_input

_log = logging.getLogger(__name__)

PROMPT_TEMPLATE = "In: What action should the robot take to {instruction}?\nOut:"
BEGIN_ID, EMPTY_ID = 1, 29871  # Llama's <s>, and the lone blank that the text has before an action
EMPTY_PIECE = "▁"
TOWER_PREFIXES = ("vision_backbone.featurizer", "vision_backbone.fused_featurizer")
STATISTICS_FILE, TOKENIZER_FILE, WEIGHTS_FILE = "dataset_statistics.json", "tokenizer.json", "weights.bin"
GRAPH_FILES = {PREFILL: "prefill.onnx", DECODE: "decode.onnx"}
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
_BEHIND_PATCHES = ("norm.", "attn_pool.", "head.", "fc_norm.")  # of a tower, beside its last block
_OFT_FILES = ("action_head--*", "proprio_projector--*", "noisy_action_projector--*")


@dataclass(frozen=True, kw_only=True)
class OpenVlaConfig:
    """What ``config.json`` says.

    Attributes:
        towers: timm's names.
        kinds: what is known of them.
        text: the language model's sizes.
        text_vocab_size: ids of the text; the last 256 are the actions.
        pad_token: fills the text.
        resize: how a picture that is not square was made so.
        norm_stats: as the file has them.
    """

    towers: tuple[str, ...]
    kinds: tuple[TowerKind, ...]
    text: LlamaConfig
    text_vocab_size: int
    pad_token: int
    resize: str
    norm_stats: Mapping[str, Any]

    @classmethod
    def load(cls, directory: Path) -> OpenVlaConfig:
        """Reads it.

        Raises:
            ConfigError: no OpenVLA checkpoint, or a variant that this release does not build.
        """
        path = directory / "config.json"
        data = read_json(path)
        if data.get("model_type") != "openvla":
            raise ConfigError(f"{path} has the model_type {data.get('model_type')!r}: vla import openvla reads 'openvla'")
        others = sorted(found.name for pattern in _OFT_FILES for found in directory.glob(pattern))
        if others:
            raise ConfigError(
                f"{directory} holds {others}: that is OpenVLA-OFT, whose actions come from a head of its own, and not from tokens"
            )
        if data.get("n_action_bins", NUM_BINS) != NUM_BINS:
            raise ConfigError(f"{path} has n_action_bins {data['n_action_bins']}: this release decodes {NUM_BINS}")
        towers = data.get("timm_model_ids")
        if not isinstance(towers, list) or len(towers) not in (1, 2) or len(towers) != 1 + bool(data.get("use_fused_vision_backbone")):
            raise ConfigError(f"{path} needs 'timm_model_ids' of one tower, or of two with 'use_fused_vision_backbone', got {towers}")
        changed = [word for word in data.get("timm_override_act_layers") or [] if word]
        if changed:
            raise ConfigError(f"{path} changes the towers' activation to {changed}: this release builds DINOv2 and SigLIP as they are")
        text = LlamaConfig.from_dict(data.get("text_config", {}), f"{path}: text_config")
        return cls(
            towers=tuple(towers),
            kinds=tuple(_kind(name, index, directory) for index, name in enumerate(towers)),
            text=text,
            text_vocab_size=text.vocab_size - data.get("pad_to_multiple_of", 64),
            pad_token=data.get("pad_token_id", 32000),
            resize=data.get("image_resize_strategy", "letterbox"),
            norm_stats=data.get("norm_stats") or {},
        )


def _kind(name: str, index: int, directory: Path) -> TowerKind:
    """Mean and std come from the checkpoint's own file where it has one."""
    kind = kind_of(name)
    path = directory / "preprocessor_config.json"
    if not path.is_file():
        return kind
    data = read_json(path)
    means, stds = data.get("means"), data.get("stds")
    if not means or not stds:
        return kind
    if len(means) <= index or len(stds) <= index or len(means[index]) != 3 or len(stds[index]) != 3 or min(stds[index]) <= 0:
        raise ConfigError(f"{path} must have 'means' and 'stds' of three positive numbers for each tower, got {means} and {stds}")
    return TowerKind(head_width=kind.head_width, mean=tuple(means[index]), std=tuple(stds[index]))


def read_statistics(directory: Path, config: OpenVlaConfig, key: str | None) -> tuple[str, ValueStatistics]:
    """The statistics that un-normalise actions, and the data set's name.

    ``dataset_statistics.json`` counts where it is there: a fine-tuned model's folder keeps the base model's in ``config.json``.

    Raises:
        ConfigError: none, several without a key, no such key, or statistics that cannot be decoded.
    """
    path = directory / STATISTICS_FILE
    source, table = (str(path), read_json(path)) if path.is_file() else (f"{directory / 'config.json'}: norm_stats", config.norm_stats)
    if not table:
        raise ConfigError(f"{directory} has neither {STATISTICS_FILE} nor norm_stats in config.json: without them a token means no action")
    if key is None and len(table) > 1:
        raise ConfigError(f"{source} has statistics of {len(table)} data sets: choose with --unnorm-key one of {sorted(table)}")
    name = next(iter(table)) if key is None else key
    if name not in table:
        raise ConfigError(f"{source} has no statistics of {name!r}: choose with --unnorm-key one of {sorted(table)}")
    statistics = DatasetStatistics.from_dict(table[name], f"{source}: {name}").action
    QuantileNormalizer(statistics)
    return name, statistics


def read_tokenizer(directory: Path, config: OpenVlaConfig) -> Path:
    """The text tokenizer's file, checked against the ids that the convention counts on.

    Raises:
        ConfigError: missing, unreadable, or of another vocabulary.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: load the tokenizer with transformers' AutoTokenizer and save it with save_pretrained, which writes it"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigError(f"{path} is no readable tokenizer ({error}): download it again") from error
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    if size != config.text_vocab_size:
        raise ConfigError(
            f"{path} has {size} ids, config.json says {config.text_vocab_size} (vocab_size less pad_to_multiple_of): "
            "the action ids would be others, take the tokenizer of this checkpoint"
        )
    if tokenizer.id_to_token(EMPTY_ID) != EMPTY_PIECE or tokenizer.id_to_token(BEGIN_ID) != "<s>":
        raise ConfigError(f"{path} has other pieces at {BEGIN_ID} and {EMPTY_ID} than <s> and the lone blank: this is no Llama tokenizer")
    return path


@dataclass(frozen=True, kw_only=True)
class OpenVlaImport:
    """A checkpoint that was read and checked, before anything is written.

    Attributes:
        config, checkpoint: of the folder.
        shape: of the network.
        prefixes: of each tower in the checkpoint.
        interface: robot, camera, units and rate.
        unnorm_key: the data set whose statistics decode the actions.
        codec: those statistics, in the robot's units.
        tokenizer: the text tokenizer's file.
    """

    config: OpenVlaConfig
    checkpoint: Checkpoint
    shape: FusedShape
    prefixes: tuple[str, ...]
    interface: Interface
    unnorm_key: str
    codec: QuantileCodecSpec
    tokenizer: Path


def read_openvla(
    directory: Path, *, unnorm_key: str | None = None, interface: Interface | None = None, text_tokens: int = 64
) -> OpenVlaImport:
    """Reads a checkpoint's folder, all but the weights themselves.

    Args:
        directory: the checkpoint's folder.
        unnorm_key: data set whose statistics decode the actions.
        interface: robot, camera, units and rate; None: OpenVLA's convention and no robot.
        text_tokens: longest prompt, with begin and empty token.

    Raises:
        ConfigError: what of the checkpoint cannot be used, and what to do.
    """
    directory = directory.expanduser().resolve()
    config = OpenVlaConfig.load(directory)
    checkpoint = Checkpoint(directory)
    prefixes = TOWER_PREFIXES[: len(config.towers)]
    towers = tuple((shape_of(checkpoint, prefix, kind), kind.mean, kind.std) for prefix, kind in zip(prefixes, config.kinds))
    key, statistics = read_statistics(directory, config, unnorm_key)
    tokenizer = read_tokenizer(directory, config)
    interface = interface or openvla_interface(towers[0][0].side)
    interface.check_dims(statistics.num_dims, f"'{key}'")
    _check_camera(interface, config)
    _warn_of_absolute_joints(interface, statistics)
    shape = FusedShape(
        towers=towers, llama=config.text, projector=_projector(checkpoint, towers, config), text_tokens=text_tokens,
        action_tokens=statistics.num_dims, pad_token=config.pad_token,
    )  # fmt: skip
    return OpenVlaImport(
        config=config, checkpoint=checkpoint, shape=shape, prefixes=prefixes, interface=interface, unnorm_key=key,
        codec=QuantileCodecSpec(statistics=statistics, **_units(interface)), tokenizer=tokenizer,
    )  # fmt: skip


def import_openvla(
    directory: Path,
    out: Path,
    *,
    unnorm_key: str | None = None,
    interface: Interface | None = None,
    precision: str = "fp16",
    text_tokens: int = 64,
    crop_area: float = 1.0,
    parity: bool = True,
) -> Bundle:
    """Writes a bundle to ``out``, replacing an earlier one there.

    Args:
        directory, unnorm_key, interface, text_tokens: see ``read_openvla``.
        out: the bundle's folder.
        precision: key of ``PRECISIONS``.
        crop_area: share of the picture's area about its centre; fine-tuning with random crops of 90 % wants 0.9.
        parity: compare the graphs with PyTorch on an example before the bundle is written.

    Raises:
        ConfigError: what of the checkpoint cannot be used, and what to do. Nothing is written then.
        VlaError: the graphs do not say what PyTorch says. Nothing is written then.
    """
    if not 0.1 <= crop_area <= 1.0:
        raise ConfigError(f"--center-crop must be in [0.1, 1], got {crop_area}")
    source = read_openvla(directory, unnorm_key=unnorm_key, interface=interface, text_tokens=text_tokens)
    camera = source.interface.cameras[0].spec
    policy, reference = (
        FusedPolicy(source.shape, (camera.height, camera.width), crop_area, dtype) for dtype in (PRECISIONS[precision], torch.float32)
    )
    if parity:
        check_memory(count(policy))
    with staged(out) as folder:
        with WeightFile(folder / WEIGHTS_FILE, fused_sources(source.checkpoint, policy, source.prefixes)) as weights:
            weights.place_all(Prefill(policy))  # before the graphs: what cannot be used shows at once
            _check_all_read(source)
            export_prefill(policy, camera.name, folder / GRAPH_FILES[PREFILL], weights)
            export_decode(policy, folder / GRAPH_FILES[DECODE], weights)
        (folder / TOKENIZER_FILE).write_bytes(source.tokenizer.read_bytes())
        agreed = compare_with_torch(source, policy, reference, folder) if parity else None
        bundle = seal(folder, _manifest(out.name, source, precision, crop_area, agreed))
    return Bundle(directory=out.expanduser().resolve(), manifest=bundle.manifest, sha256=bundle.sha256)


def compare_with_torch(source: OpenVlaImport, policy: FusedPolicy, reference: FusedPolicy, folder: Path) -> float:
    """The largest difference of both graphs on a made-up picture and prompt; ``reference`` is the network in single precision."""
    random = np.random.default_rng(0)
    camera, shape, config = source.interface.cameras[0].spec, source.shape, source.config
    words = random.integers(3, config.text_vocab_size - NUM_BINS, shape.text_tokens // 2)
    text = np.full((1, shape.text_tokens), config.pad_token, np.int64)
    text[0, : len(words) + 2] = [BEGIN_ID, *words, EMPTY_ID]
    prefill = Example(
        path=folder / GRAPH_FILES[PREFILL], module=Prefill(reference), outputs=[LOGITS, POSITION, *_cache_names(policy, PRESENT)],
        inputs={image_input(camera.name): random.integers(0, 256, (1, *camera.shape), dtype=np.uint8), TEXT_IDS: text},
    )  # fmt: skip
    read = run_graph(prefill)
    cache = {past: read[new].astype(np.float32) for past, new in zip(_cache_names(policy, PAST), _cache_names(policy, PRESENT))}
    token = np.array([[config.text_vocab_size - NUM_BINS // 2]])
    decode = Example(
        path=folder / GRAPH_FILES[DECODE], module=Decode(reference), outputs=[LOGITS, *_cache_names(policy, PRESENT)],
        inputs={TOKEN: token, POSITION: read[POSITION], **cache},
    )  # fmt: skip
    added = run_graph(decode)
    sources, types = fused_sources(source.checkpoint, reference, source.prefixes), types_of(Prefill(policy)) | types_of(Decode(policy))
    return max(difference(prefill, read, sources, types), difference(decode, added, sources, types))


def export_prefill(policy: FusedPolicy, camera: str, path: Path, weights: WeightFile) -> None:
    """Writes the graph that reads an observation."""
    height, width = policy.resize.matrices["rows"].shape[1], policy.resize.matrices["columns"].shape[1]
    inputs = {
        image_input(camera): torch.empty(1, height, width, 3, dtype=torch.uint8, device="meta"),
        TEXT_IDS: torch.empty(1, policy.shape.text_tokens, dtype=torch.int64, device="meta"),
    }
    export_graph(Prefill(policy).eval(), inputs, [LOGITS, POSITION, *_cache_names(policy, PRESENT)], path, weights)


def export_decode(policy: FusedPolicy, path: Path, weights: WeightFile) -> None:
    """Writes the graph that adds a token."""
    text = policy.shape.llama
    cache = (1, text.num_key_value_heads, policy.shape.length, text.head_dim)
    inputs = {
        TOKEN: torch.empty(1, 1, dtype=torch.int64, device="meta"),
        POSITION: torch.empty(1, dtype=torch.int64, device="meta"),
        **{name: torch.empty(cache, dtype=policy.dtype, device="meta") for name in _cache_names(policy, PAST)},
    }
    export_graph(Decode(policy).eval(), inputs, [LOGITS, *_cache_names(policy, PRESENT)], path, weights)


def _cache_names(policy: FusedPolicy, when: str) -> list[str]:
    return [f"{when}_{kind}_{layer}" for layer in range(policy.shape.llama.num_hidden_layers) for kind in ("key", "value")]


def _projector(checkpoint: Checkpoint, towers: tuple[Any, ...], config: OpenVlaConfig) -> tuple[int, ...]:
    """Widths of the projector: three layers behind two towers, two behind one."""
    layers = 3 if len(towers) == 2 else 2
    widths = [sum(tower.width for tower, _, _ in towers), *(checkpoint.shape(f"projector.fc{i + 1}.weight")[0] for i in range(layers))]
    sides = {tower.patches for tower, _, _ in towers} | {tower.side for tower, _, _ in towers}
    if widths[-1] != config.text.hidden_size or len(sides) != 2:
        raise ConfigError(
            f"projector {widths} must end at the language model's width {config.text.hidden_size}, and the towers must have as many patches: "
            "the checkpoint's parts do not belong together"
        )
    return tuple(widths)


def _units(interface: Interface) -> dict[str, tuple[float, ...]]:
    return {"scale": tuple(dim.scaled.scale for dim in interface.dims), "offset": tuple(dim.scaled.offset for dim in interface.dims)}


def _check_camera(interface: Interface, config: OpenVlaConfig) -> None:
    if len(interface.cameras) != 1 or interface.proprio:
        raise ConfigError("OpenVLA sees one camera and no joint states: the interface must name one camera and no proprio")
    camera = interface.cameras[0].spec
    if camera.height != camera.width and config.resize != "resize-naive":
        raise ConfigError(
            f"this checkpoint was trained with image_resize_strategy '{config.resize}': give the camera a height equal to its width"
        )


def _warn_of_absolute_joints(interface: Interface, statistics: ValueStatistics) -> None:
    absolute = [dim.name for dim, scaled in zip(interface.dims, statistics.scaled_D) if dim.kind == "joint" and not dim.relative and scaled]
    if absolute:
        _log.warning("absolute joints %s are clipped at their 1 %% and 99 %% quantiles: poses beyond them cannot be reached", absolute)


def _check_all_read(source: OpenVlaImport) -> None:
    """A weight that nobody reads means that the network is not the one that is built."""
    checkpoint = source.checkpoint
    for prefix, (tower, _, _) in zip(source.prefixes, source.shape.towers):
        checkpoint.ignore(f"{prefix}.blocks.{tower.depth - 1}.", *(f"{prefix}.{part}" for part in _BEHIND_PATCHES))
    left = sorted(name for name in checkpoint.unread if not name.endswith("rotary_emb.inv_freq"))
    left = [name for name in left if name != "language_model.lm_head.weight"]  # beside tied embeddings
    if left:
        raise ConfigError(
            f"{checkpoint.directory} has weights that OpenVLA does not have, such as {left[:3]}: merge adapters first, or this is another model"
        )


def _manifest(name: str, source: OpenVlaImport, precision: str, crop_area: float, parity: float | None) -> Manifest:
    shape, config, interface, codec, key = source.shape, source.config, source.interface, source.codec, source.unnorm_key
    dims = tuple(dim.spec(low, high) for dim, low, high in zip(interface.dims, *(bound.tolist() for bound in codec.bounds_D())))
    return Manifest(
        name=name,
        description=f"OpenVLA, with actions as in '{key}'.",
        robot=interface.robot,
        cameras=tuple(camera.spec for camera in interface.cameras),
        proprio=(),
        action=ActionSpec(dims=dims, horizon=1, dt_s=interface.dt_s),
        vocabulary=VocabularySpec(
            size=config.text.vocab_size,
            first_action_token=config.text_vocab_size - NUM_BINS,
            num_action_tokens=NUM_BINS,
            pad_token=config.pad_token,
            tokenizer=TOKENIZER_FILE,
        ),  # fmt: skip
        plan=None,
        prompt_template=PROMPT_TEMPLATE,
        prompt=PromptSpec(lowercase=True, prefix_ids=(BEGIN_ID,), suffix_ids=(EMPTY_ID,)),
        decoding="autoregressive",
        context=ContextSpec(
            length=shape.length,
            image_tokens=shape.image_tokens,
            text_tokens=shape.text_tokens,
            state_tokens=0,
            action_tokens=shape.action_tokens,
        ),
        files={**GRAPH_FILES, "weights": WEIGHTS_FILE},
        sha256={},
        opset=OPSET,
        norm_stats={"unnorm_key": key},
        provenance={
            "vla_ros": __version__,
            "torch": str(torch.__version__),
            "imported_from": "openvla",
            "precision": precision,
            "towers": list(config.towers),
            "center_crop": crop_area,
            "difference_from_torch": parity,
            "llama": json.loads(json.dumps(vars(config.text))),
        },  # fmt: skip
        format_version=EXTENDED_VERSION,
        codec=codec,
    )
