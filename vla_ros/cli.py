# SPDX-License-Identifier: Apache-2.0
"""The console script ``vla``: finds the command's module, and turns errors into one line and an exit code.

Imports nothing heavy: each command's module is imported when it runs, so that ``vla --help`` needs neither ROS, a
simulator nor torch.

Exit codes: 0 done, 1 failed as measured (no success, a figure out of its bound), 2 wrong use or a set-up that the user
can mend, 130 interrupted. ``VLA_DEBUG=1`` shows the traceback behind a one-line error.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros import __version__
from vla_ros.core.errors import ConfigError, InputError, VlaError
from vla_ros.extras import how_to_install

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: ``module`` has ``main(argv) -> int | None``."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "demo": Command(module="vla_ros.demo", summary="simulator and node do one instruction; leaves a video and a report"),
    "sim": Command(module="vla_ros.ros.sim_node", summary="the simulator as a ROS 2 node; `vla sim export-sdf` writes its worlds for Gazebo"),
    "run": Command(module="vla_ros.ros.run", summary="the policy node vla_policy"),
    "collect": Command(module="vla_ros.sim.collect", summary="record demonstrations of the scripted expert"),
    "dataset": Command(module="vla_ros.dataset.command", summary="check datasets, exchange them with LeRobot, import recordings of a robot"),
    "correct": Command(module="vla_ros.corrections", summary="record what a policy runs into, labelled by the expert"),
    "train": Command(module="vla_ros.train.command", summary="train a policy on collected demonstrations"),
    "train-image-tokens": Command(module="vla_ros.train.image_tokens", summary="train a VQ-VAE, dVAE or masked autoencoder on recorded pictures"),
    "continual": Command(module="vla_ros.train.continual", summary="teach a trained policy new demonstrations without losing the old"),
    "forgetting": Command(module="vla_ros.forgetting", summary="what was lost of old tasks when new ones were learned"),
    "generalisation": Command(module="vla_ros.generalisation", summary="success on tasks and scenes that demonstrations show, and on those that they do not"),
    "scaling": Command(module="vla_ros.train.scaling", summary="how performance grows with model, data and compute"),
    "ablate": Command(module="vla_ros.ablate", summary="what each idea is worth: variants with the same data, seeds and steps"),
    "checkpoint": Command(module="vla_ros.bundle_checkpoint", summary="policy bundle to checkpoint, so that its training can go on"),
    "export": Command(module="vla_ros.export", summary="checkpoint to ONNX policy bundle, with a parity check"),
    "renew": Command(module="vla_ros.renew", summary="policy bundle with the graphs that this release writes: same weights, faster"),
    "import": Command(module="vla_ros.importers.command", summary="checkpoint of OpenVLA or LeRobot's ACT to a policy bundle"),
    "quantize": Command(module="vla_ros.quantize", summary="a faster bundle in int8 or fp16 that is proven to do the same"),
    "evaluate": Command(module="vla_ros.evaluate", summary="how often the robot succeeds, with intervals"),
    "bench": Command(module="vla_ros.bench", summary="how fast: inference, control, transport and scale, beside baselines"),
    "ask": Command(module="vla_ros.ask", summary="a question about a picture, answered by a policy"),
    "inspect": Command(module="vla_ros.inspect_bundle", summary="show and verify a policy bundle"),
    "console": Command(module="vla_ros.ros.console.run", summary="the operator page: see, instruct and stop the robot in the browser"),
    "record": Command(module="vla_ros.record", summary="what the policy node sees, decides and commands, in one MCAP file"),
    "replay": Command(module="vla_ros.replay", summary="repeat a recording's decisions and compare them bit for bit"),
    "doctor": Command(module="vla_ros.doctor", summary="check this machine and say what to mend"),
}

#: Which extra of setup.py brings a top-level module; "" = the package's own requirements.
EXTRA_OF_MODULE = {
    "mujoco": "sim",
    "av": "sim",
    "pyarrow": "dataset",
    "metaworld": "metaworld",
    "gymnasium": "metaworld",
    "mcap": "record",
    "mcap_ros2": "record",
    "zmq": "gazebo",
    "google": "gazebo",
    "rclpy": "ros",
    "rcl_interfaces": "ros",
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "import",
    "onnxruntime": "cpu",
    "numpy": "",
    "yaml": "",
    "cv2": "",
    "pinocchio": "",
    "ruckig": "",
    "tokenizers": "",
    "tqdm": "",
    "rich": "",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``vla COMMAND ...`` and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        _say(usage())
        return EXIT_WRONG_USE
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return EXIT_DONE
    if name == "--version":
        sys.stdout.write(f"vla_ros {__version__}\n")
        return EXIT_DONE
    if (name, *rest[:1]) == ("sim", "export-sdf"):
        return run_module("vla_ros.sim.gazebo.export", rest[1:], program="vla sim export-sdf")
    if name not in COMMANDS:
        _say(f"vla: there is no command '{name}'; commands are {', '.join(COMMANDS)}")
        return EXIT_WRONG_USE
    return run_module(COMMANDS[name].module, rest, program=f"vla {name}")


def policy_main() -> int:
    """Console script ``vla_policy``, for ``ros2 run`` and launch files."""
    return run_module(COMMANDS["run"].module, sys.argv[1:], program="vla_policy")


def sim_main() -> int:
    """Console script ``vla_sim``, for ``ros2 run`` and launch files."""
    return run_module(COMMANDS["sim"].module, sys.argv[1:], program="vla_sim")


def usage() -> str:
    """The text of ``vla --help``."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vla COMMAND [options]      (vla COMMAND --help shows its options)",
            "",
            "Vision-language-action policies for ROS 2: a robot that follows a typed instruction.",
            "",
            *lines,
            "",
            "exit codes: 0 done, 1 failed as measured, 2 wrong use;  VLA_DEBUG=1 shows tracebacks",
        ]
    )


def run_module(module: str, argv: Sequence[str], *, program: str) -> int:
    """Imports ``module`` and runs its ``main(argv)``; a user's mistake becomes one line on stderr."""
    try:
        return _exit_code(importlib.import_module(module).main(list(argv)))
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong use
        return _exit_code(stop.code)
    except KeyboardInterrupt:
        _say(f"{program}: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `vla inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except ModuleNotFoundError as error:
        return _report(program, error, missing_module_hint(error), EXIT_WRONG_USE)
    except (ConfigError, InputError) as error:
        return _report(program, error, str(error), EXIT_WRONG_USE)
    except VlaError as error:  # what was tried and did not hold: parity, a node that does not answer
        return _report(program, error, str(error), EXIT_FAILED)


def missing_module_hint(error: ModuleNotFoundError) -> str | None:
    """Which extra to install for a missing module; None where the module is none of ours to advise on."""
    module = (error.name or "").partition(".")[0]
    if module.endswith(("_msgs", "_srvs", "_interfaces")):
        module = "rclpy"
    if module not in EXTRA_OF_MODULE:
        return None
    extra = EXTRA_OF_MODULE[module]
    hint = f"{error.name} is not installed: {how_to_install(extra)}"
    return f"{hint}; with an NVIDIA card the extra gpu instead of cpu" if extra == "cpu" else hint


def _report(program: str, error: Exception, message: str | None, code: int) -> int:
    if message is None:
        raise error
    if os.environ.get("VLA_DEBUG") == "1":
        traceback.print_exception(error)
    _say(f"{program}: {message}")
    return code


def _exit_code(code: object) -> int:
    """What a ``main`` returned, or ``SystemExit`` carried, as an exit code."""
    if code is None:
        return EXIT_DONE
    if isinstance(code, int):
        return int(code)
    _say(str(code))
    return EXIT_WRONG_USE


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
