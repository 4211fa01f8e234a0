# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to policy bundle: `vla export`.

The ONNX graph is compared with the network on recorded frames before anything is written; a graph that differs is refused.
Axes: T text tokens, P proprioception entries, Q = H*D action tokens, A bins.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vla_ros import __version__
from vla_ros.core.action import ActionSpec
from vla_ros.core.embodiment import TABLETOP, embodiment_of
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import EXTENDED_VERSION, FORMAT_VERSION, ContextSpec, Manifest, VocabularySpec
from vla_ros.core.plan import PlanSlot, PlanSpec
from vla_ros.core.tabletop import PROMPT_TEMPLATE
from vla_ros.export_answers import FILES as ANSWER_FILES
from vla_ros.export_answers import ParityError, export_answers
from vla_ros.model.cross_attention import make_policy
from vla_ros.model.decoder import decode
from vla_ros.model.fused import OPSET, FusedBlock
from vla_ros.model.policy import Policy, keep_committed
from vla_ros.model.transformer import Block
from vla_ros.model.vision import ConvStem
from vla_ros.results import write_json
from vla_ros.runtime.bundle import file_sha256, load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, PLAN_TOKENS, PREFIX_TOKENS, PROPRIO, TEXT_IDS, image_input
from vla_ros.runtime.session import OnnxPolicy
from vla_ros.train.checkpoint import BEGUN_FROM, load_checkpoint, restore_policy, restore_tokenizer
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import BatchMaker, Dataset
from vla_ros.train.tokenizer import PAD_ID

_log = logging.getLogger(__name__)

# Sums of some thousand float32 products of size one, added in another order: about 1e-4 is usual, 1e-2 would be a fault.
MAX_LOGIT_DIFFERENCE = 2e-3
TOKENIZER_FILE, POLICY_FILE = "tokenizer.json", "policy.onnx"


class ExportedPolicy(nn.Module):
    """The policy with the graph's inputs and outputs: one frame, one instruction."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.cameras = [camera.name for camera in policy.config.cameras]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in the order of cameras, then text_ids, proprio, prefix_tokens; returns action_logits, plan_tokens."""
        *pictures, text_1T, proprio_1P, prefix_1Q = inputs
        say = partial(decode, self.policy) if self.policy.config.decoding == "autoregressive" else self.policy
        output = say(dict(zip(self.cameras, pictures)), text_1T, proprio_1P, prefix_1Q)
        logits_1QA = keep_committed(self.policy.chunk_logits(output), prefix_1Q, self.policy.config.first_action_token)
        plan_13 = torch.cat([output.phase_NC.argmax(-1, keepdim=True), output.point_N2A.argmax(-1)], dim=1)
        return logits_1QA, plan_13


def export_bundle(
    checkpoint: Path, out: Path, data: Path, *, frames: int = 64, threads: int = 2, description: str = "", plain_attention: bool = False
) -> dict[str, Any]:
    """Writes a bundle to `out`, replacing what an earlier export left there.

    Args:
        checkpoint, data: of the policy, and a dataset whose held-out frames are compared.
        out: folder of the bundle.
        frames: how many frames.
        threads: of the latency figure.
        description: one or two sentences for people.
        plain_attention: write attention out, for execution providers that do not know the operator.

    Returns:
        Parity and latency: `max_logit_difference`, `frames`, `inference_ms` (p50, p99), `threads`, `sha256`.

    Raises:
        ConfigError: checkpoint or data unusable.
        ParityError: the graph differs from the network; nothing is written.
    """
    state = load_checkpoint(checkpoint)
    policy = restore_policy(state)
    if policy.config.frames > 1 and (policy.answers is not None or policy.config.decoding == "autoregressive"):
        raise ConfigError(
            f"the policy sees {policy.config.frames} frames of each camera: such a bundle can neither answer questions nor decode token after token; "
            "train with model.frames=1, or with model.answer_tokens=0 and model.decoding=parallel"
        )
    samples = _samples(state, data, frames)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        staged = Path(folder) / out.name
        staged.mkdir()
        answers = export_graphs(policy, samples, staged, plain_attention)
        restore_tokenizer(state).save(str(staged / TOKENIZER_FILE))
        manifest = make_manifest(state, out.name, staged, description)
        text = yaml.safe_dump(manifest.to_dict(), sort_keys=False, allow_unicode=True)
        (staged / "manifest.yaml").write_text(text, encoding="utf-8")
        bundle = load_bundle(staged)
        session = OnnxPolicy(bundle, threads=threads)
        report = {**check_parity(ExportedPolicy(policy).eval(), session, samples), **answers, **measure(session, samples), "threads": threads, "sha256": bundle.sha256}
        if out.exists():
            shutil.rmtree(out)
        staged.rename(out)
    return report


def export_graphs(policy: Policy, samples: Sequence[dict[str, np.ndarray]], folder: Path, plain_attention: bool = False) -> dict[str, Any]:
    """Writes the policy's graph, and the one that answers questions if the policy does; returns the latter's parity."""
    export_graph(policy, samples[0], folder / POLICY_FILE, plain_attention)
    if policy.answers is None:
        return {}
    return export_answers(policy, _for_graph(policy, plain_attention), samples, folder, write_graph, MAX_LOGIT_DIFFERENCE)


def export_graph(policy: Policy, sample: dict[str, np.ndarray], path: Path, plain_attention: bool = False) -> None:
    """Writes the policy's ONNX graph with the weights inside the file."""
    write_graph(ExportedPolicy(_for_graph(policy, plain_attention)).eval(), sample, [ACTION_LOGITS, PLAN_TOKENS], path)


def _for_graph(policy: Policy, plain_attention: bool) -> Policy:
    """A copy with batch norms folded and, unless it shall be plain, attention as one operator."""
    folded = fold_batch_norm(policy)
    return folded if plain_attention else fuse_attention(folded)


def write_graph(module: nn.Module, sample: dict[str, np.ndarray], outputs: Sequence[str], path: Path) -> None:
    """Writes a module as an ONNX graph whose inputs are `sample`'s, by name and in its order."""
    inputs = tuple(torch.from_numpy(array) for array in sample.values())
    with torch.inference_mode():
        program = torch.onnx.export(
            module, inputs, input_names=list(sample), output_names=list(outputs),
            opset_version=OPSET, dynamo=True, external_data=False, optimize=True, verbose=False,
        )
    model = program.model_proto
    _strip_traces(model)
    replace_open_clips(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_parity(reference: ExportedPolicy, session: OnnxPolicy, samples: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Compares every sample's logits and tokens.

    Tokens count as equal if the network itself puts them within the tolerance of its best, since such a tie has no winner.

    Raises:
        ParityError: naming the sample and the difference.
    """
    worst, plan_differences = 0.0, 0
    for index, sample in enumerate(samples):
        with torch.inference_mode():
            logits_1QA, plan_13 = (tensor.numpy() for tensor in reference(*(torch.from_numpy(array) for array in sample.values())))
        answer = session.infer(sample)
        difference = float(np.abs(answer[ACTION_LOGITS] - logits_1QA).max())
        worst = max(worst, difference)
        if not difference <= MAX_LOGIT_DIFFERENCE:
            raise ParityError(f"frame {index}: logits differ by {difference:.2g}, allowed are {MAX_LOGIT_DIFFERENCE}: the export is faulty")
        chosen_1Q = answer[ACTION_LOGITS].argmax(-1)
        loss_1Q = logits_1QA.max(-1) - np.take_along_axis(logits_1QA, chosen_1Q[..., None], -1)[..., 0]
        if (loss_1Q > 2 * MAX_LOGIT_DIFFERENCE).any():
            raise ParityError(f"frame {index}: the graph chooses other action tokens than the network: the export is faulty")
        plan_differences += int((answer[PLAN_TOKENS] != plan_13).any())
    if plan_differences > max(1, len(samples) // 50):  # a tie may flip, a fault flips most
        raise ParityError(f"{plan_differences} of {len(samples)} plans differ: the export is faulty")
    return {"frames": len(samples), "max_logit_difference": worst, "plans_that_differ": plan_differences}


def measure(session: OnnxPolicy, samples: Sequence[dict[str, np.ndarray]], runs: int = 100) -> dict[str, Any]:
    """Latency of one inference in ms, inputs copied in."""
    session.warm_up()
    times_ms = []
    for run in range(runs):
        started = time.perf_counter()
        session.infer(samples[run % len(samples)])
        times_ms.append(1e3 * (time.perf_counter() - started))
    cuts = statistics.quantiles(times_ms, n=100)
    return {"inference_ms": {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}}


def make_manifest(state: dict[str, Any], name: str, folder: Path, description: str) -> Manifest:
    """The contract of the files in `folder`."""
    policy = restore_policy(state)
    config, data = policy.config, state["data"]
    body = embodiment_of(data.get("embodiment", TABLETOP.name))
    state_tokens, plan = 1 + bool(config.touch_dim), _plan_spec(data, body.base_frame)
    files = {"policy": POLICY_FILE, **(ANSWER_FILES if policy.answers is not None else {})}
    return Manifest(
        name=name,
        description=description or "Tabletop arm that reaches, pushes, picks, puts and stacks what a typed instruction names.",
        robot=body.robot,
        cameras=config.cameras,
        proprio=body.proprio,
        action=ActionSpec.from_dict(data["action"]),
        vocabulary=VocabularySpec(
            size=config.vocab_size, first_action_token=config.first_action_token, num_action_tokens=config.num_bins,
            pad_token=PAD_ID, tokenizer=TOKENIZER_FILE,
        ),
        plan=plan,
        prompt_template=PROMPT_TEMPLATE,
        decoding=config.decoding,
        context=ContextSpec(
            length=config.num_vision_tokens + config.text_tokens + state_tokens + len(plan.slots) + config.num_action_tokens,
            image_tokens=config.num_vision_tokens, text_tokens=config.text_tokens, state_tokens=state_tokens,
            action_tokens=config.num_action_tokens,
        ),
        frames=config.frames,
        format_version=FORMAT_VERSION if config.frames == 1 else EXTENDED_VERSION,
        norm_stats={"proprio_mean": _rounded(policy.state.mean_S), "proprio_std": _rounded(policy.state.std_S), "image": "x / 127.5 - 1"},
        files=files,
        sha256={file: file_sha256(folder / file) for file in (*files.values(), TOKENIZER_FILE)},
        opset=OPSET,
        provenance=_provenance(state),
    )


def _samples(state: dict[str, Any], data: Path, frames: int) -> list[dict[str, np.ndarray]]:
    """Graph inputs from held-out frames; every fourth one has its first step committed."""
    train = TrainConfig.from_dict(state["train_config"])
    config = restore_policy(state).config
    maker = BatchMaker(Dataset([data], None, train.data.val_fraction), restore_tokenizer(state), train.data, seed=1, model=config)
    text_tokens = config.text_tokens
    first_action_token = state["model_config"]["first_action_token"]
    samples = []
    for batch in maker.validation_batches(frames):
        labels = len(batch.text_NT) // len(batch.proprio_BS)
        dims = batch.actions_NHD.shape[2]
        for frame in range(len(batch.proprio_BS)):
            label = frame * labels + frame % labels
            text_1T = np.full((1, text_tokens), PAD_ID, dtype=np.int64)
            text_1T[0, : batch.text_NT.shape[1]] = batch.text_NT[label].numpy()
            prefix_1Q = batch.prefix_NQ[label : label + 1].numpy().copy()
            if frame % 4 == 0:
                prefix_1Q[0, :dims] = first_action_token + np.arange(dims) * 37
            pictures = {image_input(name): picture[frame : frame + 1].numpy() for name, picture in batch.images.items()}
            samples.append({**pictures, TEXT_IDS: text_1T, PROPRIO: batch.proprio_BS[frame : frame + 1].numpy(), PREFIX_TOKENS: prefix_1Q})
    return samples


def fold_batch_norm(policy: Policy) -> Policy:
    """A copy in eval mode whose convolutions carry their batch norm's scale and shift."""
    copy = make_policy(policy.config)
    copy.load_state_dict(policy.state_dict())
    copy.eval()
    for encoder in getattr(copy.vision, "cameras", {}).values():
        if isinstance(encoder.stem, ConvStem):
            encoder.stem.shrink, encoder.stem.around = _fold(encoder.stem.shrink), _fold(encoder.stem.around)
    return copy


def fuse_attention(policy: Policy) -> Policy:
    """The same policy, whose own blocks attend by one operator; others (`cross`, questions) stay."""
    if isinstance(getattr(policy, "blocks", None), nn.ModuleList):
        policy.blocks = nn.ModuleList(FusedBlock(block) if type(block) is Block else block for block in policy.blocks)
    return policy


def _fold(layers: nn.Sequential) -> nn.Sequential:
    """Convolutions with the batch norm behind them folded in."""
    triples = zip(layers[0::3], layers[1::3], layers[2::3])
    return nn.Sequential(*(layer for conv, norm, relu in triples for layer in (fuse_conv_bn_eval(conv, norm), relu)))


def replace_open_clips(model: onnx.ModelProto) -> None:
    """Writes a Clip without an upper bound as the Max that it is: OpenVINO's provider (1.24.1) clips integers to 0 otherwise."""
    for node in model.graph.node:
        if node.op_type == "Clip" and len([name for name in node.input if name]) == 2 and node.input[1]:
            inputs = [node.input[0], node.input[1]]
            del node.input[:]
            node.op_type = "Max"
            node.input.extend(inputs)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Removes what the exporter notes about source files: it is of no use to a robot and would name folders of this machine."""
    model.doc_string = ""
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        holder.ClearField("metadata_props")
    for node in model.graph.node:
        node.doc_string = ""


def _plan_spec(data: dict[str, Any], frame: str) -> PlanSpec:
    places = [
        PlanSlot(name=name, low=low, high=high, unit="m", frame=frame)
        for name, low, high in zip("xy", data["point_low"], data["point_high"])
    ]
    return PlanSpec(slots=(PlanSlot(name="phase", words=tuple(data["phases"])), *places))


def _provenance(state: dict[str, Any]) -> dict[str, Any]:
    """Where the weights come from; what a run learned of answers alone is said beside what is known of the policy that acts."""
    own = {
        "git": git_hash(),
        "training": {"steps": state["step"], "minutes": round(state["elapsed_s"] / 60, 1), "seed": state["train_config"]["run"]["seed"]},
        "data": {"frames": state["data"]["frames"], "labels_per_frame": state["data"]["labels"], **json.loads(json.dumps(state["data"]["provenance"]))},
        "validation": {name: round(value, 5) for name, value in state["metrics"].items()},
    }
    if state["train_config"]["run"].get("only") == "answers" and state.get(BEGUN_FROM):
        answers = {name: own[name] for name in ("git", "training")} | {"questions": state["questions"]}
        answers["validation"] = {name: value for name, value in own["validation"].items() if name.startswith(("answer_", "loss_language", "loss_objects"))}
        own = {**state[BEGUN_FROM], "answers": answers}
    return {
        "vla_ros": __version__,
        "torch": str(torch.__version__),
        "parameters": sum(tensor.numel() for tensor in state["averaged"].values()),
        "model": json.loads(json.dumps(state["model_config"])),
        **own,
    }


def git_hash() -> str:
    """Commit of the source tree, with `+` if files differ from it; `unknown` outside a clone."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*words: str) -> str:
    folder = Path(__file__).resolve().parent
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]


def main(argv: Sequence[str] | None = None) -> int:
    """`vla export`: returns 0 when the bundle is written, 1 when the graph differs from the network."""
    parser = argparse.ArgumentParser(prog="vla export", description="Turn a checkpoint into a policy bundle that is proven to answer alike.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt of a training run")
    parser.add_argument("--out", type=Path, default=Path("models/tabletop"), metavar="DIR", help="folder of the bundle (default models/tabletop)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset whose held-out frames are compared")
    parser.add_argument("--frames", type=int, default=64, help="how many of them (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the latency figure (default 2)")
    parser.add_argument("--description", default="", help="one or two sentences for people")
    parser.add_argument("--plain-attention", action="store_true", help="write attention out, for OpenVINO, which does not know ONNX's operator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write parity and latency as JSON")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # the exporter's libraries say much at INFO
    _log.setLevel(logging.INFO)
    if arguments.frames < 1:
        raise ConfigError(f"--frames must be at least 1, got {arguments.frames}")
    try:
        report = export_bundle(
            arguments.checkpoint, arguments.out, arguments.data,
            frames=arguments.frames, threads=arguments.threads, description=arguments.description, plain_attention=arguments.plain_attention,
        )
    except ParityError as error:
        _log.error("vla export: %s", error)
        return 1
    if arguments.json:
        write_json(arguments.json, report)
    latency = report["inference_ms"]
    _log.info(
        "%s: %d frames alike, logits differ by at most %.1e; %.1f ms an inference (p99 %.1f) on %d threads",
        arguments.out, report["frames"], report["max_logit_difference"], latency["p50"], latency["p99"], report["threads"],
    )
    return 0
