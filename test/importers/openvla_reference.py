# SPDX-License-Identifier: Apache-2.0
"""A tiny randomly initialised OpenVLA checkpoint, and what the published PyTorch code computes from it.

The language model is transformers' own. The towers are written here from their papers and compared with timm's where it can be imported;
the joining of the parts, the begin and the empty token and the decoding of actions follow the published convention (arXiv 2406.09246).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import pickle
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from torch.nn import functional as F

DINO, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
MEANS, STDS = [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]], [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]]
SIDE, PATCH, DEPTH = 28, 14, 3
WIDTHS = {"featurizer": (128, 2, 512), "fused_featurizer": (144, 2, 538)}  # width, heads, perceptron
VOCAB, PADDED = 32000, 32064
TEXT = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": PADDED, "pad_token_id": 32000, "max_position_embeddings": 256,
}  # fmt: skip


def statistics(seed: int = 0) -> dict[str, Any]:
    """One data set's entry: six dimensions that are scaled and a gripper that is not."""
    rng = np.random.default_rng(seed)
    q01, q99 = -rng.uniform(0.01, 0.05, 7), rng.uniform(0.01, 0.05, 7)
    q01[6], q99[6] = 0.0, 1.0
    action = {
        "mean": [0.0] * 7,
        "std": [0.01] * 7,
        "max": (q99 * 3).tolist(),
        "min": (q01 * 3 - 0.001).tolist(),
        "q01": q01.tolist(),
        "q99": q99.tolist(),
    }
    return {"action": {**action, "mask": [True] * 6 + [False]}, "num_transitions": 100, "num_trajectories": 3}


def make_tokenizer() -> Tokenizer:
    """Llama's layout: <s> is 1, bytes from 3 on, the lone blank at 29871, then fillers; action ids are ordinary pieces."""
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, "▁": 29871}
    letters = [chr(c) for c in range(33, 127)]
    pieces |= {letter: 29872 + i for i, letter in enumerate(letters)} | {"给": 31950}
    free = (i for i in range(VOCAB) if i not in set(pieces.values()))
    pieces |= {f"<filler{i}>": i for i in free}
    model = models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<PAD>"])
    return tokenizer


def tower_state(name: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights in timm's names; the published conversion renamed DINOv2's gamma."""
    width, _, mlp = WIDTHS[name]
    shapes = {
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, (SIDE // PATCH) ** 2, width),
    }
    if name == "featurizer":
        shapes |= {"cls_token": (1, 1, width), "reg_token": (1, 4, width)}
    else:
        shapes |= {"attn_pool.latent": (1, 1, width), "attn_pool.q.weight": (width, width)}
    for block in range(DEPTH):
        here = f"blocks.{block}"
        shapes |= {f"{here}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)}
        shapes |= {f"{here}.{key}.weight": size for key, size in sizes.items()} | {
            f"{here}.{key}.bias": size[:1] for key, size in sizes.items()
        }
        if name == "featurizer":
            shapes |= {f"{here}.{scale}.scale_factor": (width,) for scale in ("ls1", "ls2")}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return {key: _random(key, shape, generator) for key, shape in shapes.items()}


def _random(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if key.endswith(("norm1.weight", "norm2.weight", "norm.weight", "scale_factor")):
        return 1.0 + 0.2 * noise
    return noise * (0.3 if len(shape) < 2 or "token" in key or "embed" in key and "proj" not in key else 1.0 / np.sqrt(np.prod(shape[1:])))


def make_llama(seed: int = 0, **changes: Any) -> Any:
    """transformers' language model, with logits that are far from each other."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    facts = {key: value for key, value in {**TEXT, **changes}.items() if key != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**facts, attn_implementation="eager")).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2 if "norm" in name else 0.15)
    return model


def make_checkpoint(folder: Path, dtype: torch.dtype = torch.float16, shards: int = 3, **changes: Any) -> Path:
    """Writes the folder: sharded safetensors with an index, config.json, tokenizer.json, preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}
    for name in WIDTHS:
        state |= {f"vision_backbone.{name}.{key}": value for key, value in tower_state(name, generator).items()}
    widths = [sum(width for width, _, _ in WIDTHS.values()), 96, 64, 64]
    for index, (a, b) in enumerate(zip(widths, widths[1:])):
        state[f"projector.fc{index + 1}.weight"] = torch.randn(b, a, generator=generator) / np.sqrt(a)
        state[f"projector.fc{index + 1}.bias"] = 0.1 * torch.randn(b, generator=generator)
    state |= {f"language_model.{key}": value for key, value in make_llama().state_dict().items()}
    state = {key: value.to(dtype).clone().contiguous() for key, value in state.items()}
    names, places = sorted(state), {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in names[shard::shards]}
        save_file(part, folder / file_name, metadata={"format": "pt"})
        places |= {name: file_name for name in part}
    index = {"metadata": {"total_size": sum(value.nbytes for value in state.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"], "auto_map": {"AutoConfig": "modeling_prismatic.OpenVLAConfig"},
        "use_fused_vision_backbone": True, "timm_model_ids": [DINO, SIGLIP], "timm_override_act_layers": [None, None], "image_sizes": [SIDE, SIDE],
        "image_resize_strategy": "resize-naive", "text_config": dict(TEXT), "pad_token_id": 32000, "pad_to_multiple_of": 64, "n_action_bins": 256,
        "norm_stats": {"bridge_orig": statistics(0), "fractal": statistics(1)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"means": MEANS, "stds": STDS, "image_resize_strategy": "resize-naive"}))
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def plant_bombs(folder: Path, marker: Path) -> None:
    """Code and pickles in a checkpoint that make ``marker`` when they are executed or loaded."""
    for name in ("modeling_prismatic.py", "configuration_prismatic.py", "setup.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(_Bomb(marker)))


def load_state(folder: Path) -> dict[str, Tensor]:
    """All tensors in float32."""
    from safetensors.torch import load_file

    return {key: value.float() for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}


def reference_tower(state: dict[str, Tensor], heads: int, pixels_13HW: Tensor, has_prefix: bool) -> list[Tensor]:
    """Tokens behind each block, [1, T, E]; weights in timm's names without prefix."""
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    x = F.conv2d(pixels_13HW, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = x + state["pos_embed"]
    if has_prefix:
        x = torch.cat([state["cls_token"], state["reg_token"], x], dim=1)
    outputs = []
    for block in range(depth):
        part = {key.split(".", 2)[2]: value for key, value in state.items() if key.startswith(f"blocks.{block}.")}
        width = x.shape[-1]
        y = F.layer_norm(x, (width,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        qkv = F.linear(y, part["attn.qkv.weight"], part["attn.qkv.bias"]).reshape(1, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(1, -1, width)
        x = x + F.linear(y, part["attn.proj.weight"], part["attn.proj.bias"]) * part.get("ls1.scale_factor", 1.0)
        y = F.layer_norm(x, (width,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = F.linear(F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"])), part["mlp.fc2.weight"], part["mlp.fc2.bias"])
        x = x + y * part.get("ls2.scale_factor", 1.0)
        outputs.append(x)
    return outputs


class Reference:
    """The published computation, in float32 on the checkpoint's weights."""

    def __init__(self, folder: Path) -> None:
        self.state = load_state(folder)
        self.llama = make_llama()
        prefix = "language_model."
        self.llama.load_state_dict({key[len(prefix) :]: value for key, value in self.state.items() if key.startswith(prefix)})
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in self.state.items() if key.startswith(prefix)}

    def prompt(self, instruction: str) -> list[int]:
        text = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        ids = [1, *self.tokenizer.encode(text, add_special_tokens=False).ids]
        return ids if ids[-1] == 29871 else [*ids, 29871]

    @torch.no_grad()
    def patches(self, image: np.ndarray) -> Tensor:
        """A square uint8 picture [S, S, 3] to embeddings [1, P, E]."""
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
        seen = []
        for index, (name, (_, heads, _)) in enumerate(WIDTHS.items()):
            mean, std = (torch.tensor(values[index])[None, :, None, None] for values in (MEANS, STDS))
            tokens = reference_tower(self.part(f"vision_backbone.{name}."), heads, (x - mean) / std, index == 0)[-2]
            seen.append(tokens[:, 5:] if index == 0 else tokens)
        y = torch.cat(seen, dim=2)
        for index in range(3):
            layer = self.part(f"projector.fc{index + 1}.")
            y = F.linear(y if index == 0 else F.gelu(y), layer["weight"], layer["bias"])
        return y

    @torch.no_grad()
    def sequence(self, image: np.ndarray, instruction: str) -> Tensor:
        """Embeddings of begin, patches and text, [1, S, E]."""
        embed = self.llama.get_input_embeddings()(torch.tensor([self.prompt(instruction)]))
        return torch.cat([embed[:, :1], self.patches(image), embed[:, 1:]], dim=1)

    @torch.no_grad()
    def answer(
        self, image: np.ndarray, instruction: str, count: int = 7, legal: slice = slice(31744, 32000)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Greedy ids [N] among the legal ones, and the logits [N, V] that they come from; without a cache."""
        sequence, ids, rows = self.sequence(image, instruction), [], []
        for _ in range(count):
            logits = self.llama(inputs_embeds=sequence).logits[0, -1]
            rows.append(logits.numpy())
            ids.append(legal.start + int(logits[legal].argmax()))
            sequence = torch.cat([sequence, self.llama.get_input_embeddings()(torch.tensor([[ids[-1]]]))], dim=1)
        return np.array(ids), np.stack(rows)

    @staticmethod
    def decode(ids: np.ndarray, stats: dict[str, Any]) -> np.ndarray:
        """The published de-tokenisation, clipping included."""
        bins = np.linspace(-1, 1, 256)
        centres = (bins[:-1] + bins[1:]) / 2.0
        normal = centres[np.clip(VOCAB - ids - 1, 0, len(centres) - 1)]
        low, high = np.array(stats["action"]["q01"]), np.array(stats["action"]["q99"])
        return np.where(stats["action"]["mask"], 0.5 * (normal + 1) * (high - low) + low, normal)


def import_timm() -> Any:
    """timm, with an empty torchvision where there is none: timm's data augmentation wants it at import, its towers do not.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        import timm

        return timm
    except (ImportError, RuntimeError):
        finder = _EmptyTorchvision()
        sys.meta_path.insert(0, finder)
        for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        try:
            import timm

            return timm
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]


class _EmptyTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        modes = Enum("InterpolationMode", "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS")
        module.__getattr__ = lambda name: _attribute(name, modes)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _attribute(name: str, modes: Any) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return modes if name == "InterpolationMode" else type(name, (), {})
