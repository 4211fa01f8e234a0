# SPDX-License-Identifier: Apache-2.0
"""The weights of a policy bundle as a checkpoint that training can begin with (`vla train --transfer`, `vla continual`): `vla checkpoint`.

A bundle holds no checkpoint, but its graphs hold every weight that the policy acts and answers with. Most have kept their names; a linear
layer's weight is found by its bias, whose name it lost when the exporter turned it; batch norms were folded into the convolutions before
them and come back as norms that only shift. The network put together so must answer as the bundle does, or nothing is written. What only
training needs (such as the vision loss's own layers) is not in a bundle and starts anew.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from vla_ros.core.answers import ROLE as ANSWER_ROLE
from vla_ros.core.errors import ConfigError
from vla_ros.export import MAX_LOGIT_DIFFERENCE, ExportedPolicy, fold_batch_norm
from vla_ros.export_answers import ExportedAnswers, question_inputs
from vla_ros.model.config import PolicyConfig
from vla_ros.model.cross_attention import make_policy
from vla_ros.model.policy import Policy
from vla_ros.model.vision import ConvStem
from vla_ros.runtime.answerer import ANSWER_LOGITS
from vla_ros.runtime.bundle import Bundle, load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS
from vla_ros.runtime.session import BoundGraph, OnnxPolicy, probe_inputs
from vla_ros.train.checkpoint import BEGUN_FROM, FOLDED, MISSING, save_checkpoint

PROVENANCE = ("git", "training", "data", "validation", "answers")  # what a manifest says of where the weights come from
MODULE = "policy."  # how both exported modules call the network
ANSWERING = ("answers.", "answer_blocks.", "finder.", "eye.", "rarity_C", "read_offset.")  # its parts that the policy graph has not

_log = logging.getLogger(__name__)


def bundle_state(folder: Path) -> dict[str, Any]:
    """Weights, network's shape and tokenizer of a bundle that `vla export` wrote.

    Returns:
        `averaged`: tensors by name, of which those in `missing` are not in the bundle and new; `model_config`;
        `tokenizer`, its JSON text; that batch norms are `FOLDED`: they only shift, until training has measured what comes in; and what is known of
        its training (`BEGUN_FROM`).

    Raises:
        BundleError: no whole bundle.
        ConfigError: not one of `vla export`, or a network put together from it answers otherwise.
    """
    bundle = load_bundle(folder)
    shape = bundle.manifest.provenance.get("model")
    if not isinstance(shape, dict):
        raise ConfigError(f"{folder}: its manifest does not describe a network (provenance.model), so it is not of `vla export`: train from a checkpoint")
    with torch.random.fork_rng():  # layers that the bundle does not hold are the same in every checkpoint of it
        torch.manual_seed(0)
        policy = make_policy(PolicyConfig.from_dict(shape)).eval()
    folded = fold_batch_norm(policy)
    found = _weights_in(onnx.load(bundle.policy_path), folded.state_dict(), lambda name: not name.startswith(ANSWERING))
    if ANSWER_ROLE in bundle.manifest.files:
        found = _weights_in(onnx.load(bundle.path(ANSWER_ROLE)), folded.state_dict(), lambda name: name.startswith(ANSWERING)) | found
    strangers = [name for name, tensor in folded.state_dict().items() if name in found and found[name].shape != tensor.shape]
    absent = [name for name in folded.state_dict() if name.startswith("vision.") and name not in found]
    if strangers or absent:
        raise ConfigError(
            f"{folder}: its graph does not hold {(strangers + absent)[0]} as the network has it. "
            "Quantised bundles and networks with a stem of their own (vit, tokens) cannot go on: give the exported bundle, or the run's best.pt"
        )
    missing = sorted(policy.load_state_dict(dict(_unfolded(policy, found)), strict=False).missing_keys)
    _compare(policy, bundle)
    known = {name: bundle.manifest.provenance[name] for name in PROVENANCE if name in bundle.manifest.provenance}
    tokenizer = bundle.tokenizer_path.read_text(encoding="utf-8")
    return {"averaged": policy.state_dict(), MISSING: missing, "model_config": shape, "tokenizer": tokenizer, FOLDED: True, BEGUN_FROM: known}


def _weights_in(model: onnx.ModelProto, wanted: Mapping[str, Tensor], at_home: Callable[[str], bool]) -> dict[str, Tensor]:
    """Those of the wanted tensors (their values do not matter) that the graph holds; by shape alone if that is unique and they are `at_home`."""
    arrays = ((tensor.name.removeprefix(MODULE), numpy_helper.to_array(tensor)) for tensor in model.graph.initializer)
    constants = {name: array for name, array in arrays if array.dtype == np.float32}
    factor_of = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants}
    held = {name: constants[name] for name in wanted if name in constants}
    claimed = set(held)
    for node in model.graph.node:
        for bias, product in permutations(node.input) if node.op_type == "Add" else ():
            weight = bias.removeprefix(MODULE).removesuffix("bias") + "weight"
            if weight in wanted and product in factor_of:
                held[weight] = constants[factor_of[product]].T
                claimed.add(factor_of[product])
    nameless = {name: array.T if name in factor_of.values() else array.squeeze() for name, array in constants.items() if name not in claimed and array.any()}
    for name, tensor in wanted.items():  # tables that were sliced as a whole or widened by axes, and layers without a bias
        alike = [other for other, array in nameless.items() if array.shape == tuple(tensor.shape)]
        if at_home(name) and name not in held and len(alike) == 1:
            held[name] = nameless.pop(alike[0])
    return {name: torch.from_numpy(np.array(array)) for name, array in held.items()}


def _compare(policy: Policy, bundle: Bundle) -> None:
    """Raises ConfigError unless network and bundle answer alike."""
    reference, session, rng = ExportedPolicy(policy).eval(), OnnxPolicy(bundle), np.random.default_rng(0)
    for committed in (0, 1, 0, 1):
        inputs = probe_inputs(session.inputs, bundle, rng, committed)
        _expect_alike(reference(*map(torch.from_numpy, inputs.values()))[0], session.infer(inputs)[ACTION_LOGITS])
    if ANSWER_ROLE in bundle.manifest.files:
        question = question_inputs(policy.config, inputs, rng)
        answers = ExportedAnswers(policy).eval()
        _expect_alike(answers(*map(torch.from_numpy, question.values())), BoundGraph(bundle.path(ANSWER_ROLE)).infer(question)[ANSWER_LOGITS])


def _expect_alike(network: Tensor, graph: np.ndarray) -> None:
    difference = float(np.abs(network.detach().numpy() - graph).max())
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise ConfigError(
            f"a network with the bundle's weights answers otherwise (logits differ by {difference:.2g}, allowed are {MAX_LOGIT_DIFFERENCE}): "
            "make the checkpoint with the release that the manifest names in provenance"
        )


def _unfolded(policy: Policy, found: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of `policy`, whose batch norms shift as the convolutions of the folded one did."""
    folded_prefixes = []
    for prefix, module in policy.named_modules():
        if isinstance(module, ConvStem):
            for part in ("shrink", "around"):
                folded_prefixes.append(f"{prefix}.{part}.")
                yield from _unfolded_layers(f"{prefix}.{part}.", getattr(module, part), found)
    for name, tensor in found.items():
        if not name.startswith(tuple(folded_prefixes)):
            yield name, tensor


def _unfolded_layers(prefix: str, layers: nn.Sequential, found: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """[conv, norm, relu, ...] out of [conv with bias, relu, ...]."""
    for index, norm in enumerate(layers[1::3]):
        conv, into, out = f"{prefix}{2 * index}.", f"{prefix}{3 * index}.", f"{prefix}{3 * index + 1}."
        yield into + "weight", found[conv + "weight"]
        yield out + "weight", torch.full_like(norm.weight, (1.0 + norm.eps) ** 0.5)
        yield out + "bias", found[conv + "bias"]
        yield out + "running_mean", torch.zeros_like(norm.running_mean)
        yield out + "running_var", torch.ones_like(norm.running_var)
        yield out + "num_batches_tracked", torch.tensor(0)


def main(argv: Sequence[str] | None = None) -> int:
    """`vla checkpoint`: returns 0 when the checkpoint is written."""
    parser = argparse.ArgumentParser(prog="vla checkpoint", description="Make a checkpoint of a policy bundle, for `vla train --transfer` and `vla continual`.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that `vla export` wrote, such as models/tabletop")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="checkpoint to write, such as runs/tabletop.pt")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    state = bundle_state(arguments.bundle)
    save_checkpoint(arguments.out, state)
    _log.info("%s: %d tensors; not in a bundle, so new in training: %s", arguments.out, len(state["averaged"]), ", ".join(state[MISSING]) or "none")
    return 0
