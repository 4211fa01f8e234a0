# SPDX-License-Identifier: Apache-2.0
"""``vla doctor``: looks at this machine, the bundle, the robot and the ROS graph, and says what is not as it should be and what to do.

Whatever may crash or hang (drivers, DDS) runs in a child process with a time limit.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_ros.core.errors import VlaError
from vla_ros.core.paths import share_dir
from vla_ros.extras import how_to_install
from vla_ros.finding import FAIL, OK, WARN, Finding
from vla_ros.finding import last_line as _last_line
from vla_ros.inspect_bundle import FILE_OK, check_files
from vla_ros.results import write_json
from vla_ros.runtime.bundle import read_manifest

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
CHILD_TIME_LIMIT_S = 60
MIN_SHARED_MEMORY_BYTES = 64 << 20  # six participants with the profile's segment of 10 MiB
NUMPY_REMEDY = 'a later numpy hides the one that the system\'s packages are built for: pip uninstall numpy, and add "numpy<2" to what pip installs'
_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name}: {error}")
"""
APT_EGL = "sudo apt-get install -y --no-install-recommends libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
BASE_MODULES = ("numpy", "yaml", "pinocchio", "ruckig", "tokenizers", "cv2", "tqdm", "rich")


MACHINE, ROBOT = "machine", "robot"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if nothing is broken (warnings are allowed), else 1."""
    options = parse(argv)
    console = Console(highlight=False)
    findings: list[Finding] = []
    with console.status("looking at this machine"):
        if options.only != ROBOT:
            findings += [finding for check in CHECKS for finding in check()]
    with console.status(f"looking at the ROS graph for {options.seconds:g} s"):
        if options.only != MACHINE:
            from vla_ros.doctor_robot import check_robot_and_graph

            findings += check_robot_and_graph(options, _child)
    console.print(_table(findings))
    if options.json:
        write_json(options.json, {"findings": [asdict(finding) for finding in findings]})
    return int(any(finding.state == FAIL for finding in findings))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vla doctor", description="Check this machine, the bundle, the robot and the ROS graph; say what to mend."
    )
    parser.add_argument(
        "--only", choices=(MACHINE, ROBOT), help="machine: what is installed; robot: bundle, robot and graph (default: both)"
    )
    parser.add_argument("--node", default="/vla_policy", help="fully qualified name of the policy node (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to listen to the topics (default: %(default)s)")
    text = "where the node does not run yet: "
    parser.add_argument("--model", help=text + "its policy bundle, a folder or a name below models/")
    parser.add_argument("--robot", help=text + "its robot description (YAML)")
    parser.add_argument("--params-file", type=Path, help=text + "its ROS parameters (YAML)")
    parser.add_argument("--use-sim-time", action="store_true", help=text + "it will take its time from /clock")
    parser.add_argument("--json", metavar="FILE", help="write the findings as JSON")
    options = parser.parse_args(argv)
    if not 0.5 <= options.seconds <= 60.0:
        parser.error("--seconds must be between 0.5 and 60")
    return options


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(show_lines=False)
    for column in ("", "check", "found, and what to do"):  # fold: paths must stay complete
        table.add_column(column, overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style=STYLES[finding.state])
        table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, text)
    return table


def check_python() -> list[Finding]:
    """Interpreter and the package's own requirements."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    remedy = "" if good else "use Python 3.10, 3.11 or 3.12: the ROS 2 and Pinocchio wheels are tested with these"
    return [Finding(name="Python", state=OK if good else FAIL, found=f"{version} ({sys.executable})", remedy=remedy), check_packages()]


def check_packages(modules: Sequence[str] = BASE_MODULES) -> Finding:
    """Whether the package's own requirements are there and can be loaded: those of the system may be built for an older numpy than pip's."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(name="packages", state=FAIL, found=f"missing: {', '.join(missing)}", remedy=how_to_install(""))
    code, text = _child(_IMPORT, *modules)
    if code == 0:
        return Finding(name="packages", state=OK, found="all required ones are installed")
    remedy = "install it again" if "numpy" not in text else NUMPY_REMEDY
    return Finding(name="packages", state=FAIL, found=f"cannot be loaded: {_last_line(text)}", remedy=remedy)


def check_onnxruntime() -> list[Finding]:
    """Which wheel, which providers, and whether a card lies idle."""
    wheels = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    card = Path("/proc/driver/nvidia/version").exists()
    if importlib.util.find_spec("onnxruntime") is None:
        remedy = how_to_install("gpu" if card else "cpu")
        return [Finding(name="onnxruntime", state=FAIL, found="not installed", remedy=remedy)]
    if len(wheels) == 2:
        remedy = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of the extras cpu and gpu"
        return [Finding(name="onnxruntime", state=FAIL, found="both wheels are installed and overwrite each other", remedy=remedy)]
    code, text = _child("import onnxruntime as o; print(o.__version__, *o.get_available_providers())")
    if code != 0:
        remedy = "install it again: pip install --force-reinstall --no-deps " + " ".join(wheels)
        return [Finding(name="onnxruntime", state=FAIL, found=_last_line(text), remedy=remedy)]
    if card and "CUDAExecutionProvider" not in text:
        remedy = f"pip uninstall -y onnxruntime, then {how_to_install('gpu')}"
        return [Finding(name="onnxruntime", state=WARN, found=f"{text}; the NVIDIA card is not used", remedy=remedy)]
    return [Finding(name="onnxruntime", state=OK, found=text)]


def check_ros() -> list[Finding]:
    """rclpy, and whether two distributions are mixed."""
    code, text = _child("import rclpy; rclpy.init(); print(rclpy.get_rmw_implementation_identifier()); rclpy.shutdown()")
    wheel = _version("ros-rclpy")
    if code != 0:
        remedy = how_to_install("ros")
        return [Finding(name="ROS 2", state=FAIL, found=_last_line(text), remedy=remedy)]
    origin = f"rclpy wheel {wheel}" if wheel else f"distribution {os.environ.get('ROS_DISTRO', 'unknown')}"
    mixed = wheel and "/opt/ros/" in os.environ.get("AMENT_PREFIX_PATH", "") + os.environ.get("PYTHONPATH", "")
    findings = [Finding(name="ROS 2", state=OK, found=f"{origin}, {text}")]
    if mixed:
        remedy = "use one: a shell in which no ROS is sourced, or an environment without the extra ros"
        findings = [Finding(name="ROS 2", state=WARN, found=f"{origin} beside a sourced installation", remedy=remedy)]
    return [*findings, _fastdds_profile(text), *_camera_over_dds()]


def _fastdds_profile(rmw: str) -> Finding:
    if "fastrtps" not in rmw:
        remedy = "measured with Fast DDS only; with another RMW check that no image is lost: ros2 topic hz"
        return Finding(name="DDS profile", state=WARN, found=f"{rmw} does not read it", remedy=remedy)
    chosen = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    shipped = share_dir() / "config" / "fastdds_profile.xml"
    if chosen and not Path(chosen).is_file():
        remedy = f"export FASTRTPS_DEFAULT_PROFILES_FILE={shipped}"
        return Finding(name="DDS profile", state=FAIL, found=f"{chosen} does not exist", remedy=remedy)
    if chosen:
        return Finding(name="DDS profile", state=OK, found=chosen)
    remedy = f"for your own camera nodes: export FASTRTPS_DEFAULT_PROFILES_FILE={shipped}"
    return Finding(name="DDS profile", state=WARN, found="not set; vla's own commands set it themselves", remedy=remedy)


def _camera_over_dds() -> list[Finding]:
    """Sends pictures from one process to another and counts those that arrive."""
    code, text = _child("import sys; from vla_ros.ros.camera_probe import main; sys.exit(main())")
    name = "camera over DDS"
    if code != 0:
        remedy = "processes cannot talk: look at the firewall, /dev/shm and ROS_LOCALHOST_ONLY"
        return [Finding(name=name, state=FAIL, found=_last_line(text), remedy=remedy)]
    share = float(text.split()[-1])
    lossy = share < 0.9
    remedy = "set the DDS profile (above), and look at the size of /dev/shm" if lossy else ""
    return [Finding(name=name, state=WARN if lossy else OK, found=f"{share:.0%} of 640x480 pictures at 30 Hz arrive", remedy=remedy)]


def check_cv_bridge() -> list[Finding]:
    """Whether an installed cv_bridge can be used."""
    if importlib.util.find_spec("cv_bridge") is None:
        return []  # nothing is missing: every encoding is converted without it
    code, text = _child("import sys; from vla_ros.ros.cv_bridge_images import problem; print(problem()); sys.exit(problem() != '')")
    if code == 0:
        return [Finding(name="cv_bridge", state=OK, found="its pictures are the same bit for bit")]
    remedy = "nothing has to be done for vla_ros, which converts without it; for other nodes install the NumPy that it was built for: pip install 'numpy<2'"
    return [Finding(name="cv_bridge", state=WARN, found=f"not used: {_last_line(text)}", remedy=remedy)]


def check_shared_memory() -> list[Finding]:
    """Room for the exchange between control and inference, and for DDS."""
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    small = free < MIN_SHARED_MEMORY_BYTES
    remedy = "containers: docker run --shm-size=512m (or --ipc=host)" if small else ""
    return [Finding(name="/dev/shm", state=WARN if small else OK, found=f"{free / 2**20:.0f} MiB free", remedy=remedy)]


def check_rendering() -> list[Finding]:
    """MuJoCo renders a picture without a screen."""
    if importlib.util.find_spec("mujoco") is None:
        remedy = f"only for the embedded simulator: {how_to_install('sim')}"
        return [Finding(name="MuJoCo", state=WARN, found="not installed", remedy=remedy)]
    code, text = _child(_RENDER, MUJOCO_GL=os.environ.get("MUJOCO_GL", "egl"))
    if code != 0:
        return [Finding(name="MuJoCo", state=FAIL, found=f"cannot render: {_last_line(text)}", remedy=APT_EGL)]
    return [Finding(name="MuJoCo", state=OK, found=text)]


_RENDER = """
import time, mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom type='box' size='.1 .1 .1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 128, 128)
times = []
for _ in range(5):
    start = time.perf_counter()
    renderer.update_scene(data)
    picture = renderer.render()
    times.append(time.perf_counter() - start)
assert picture.max() > 0, "the picture is black"
renderer.close()
print(f"{mujoco.__version__}, renders 128x128 in {1e3 * min(times):.1f} ms")
"""


def check_real_time() -> list[Finding]:
    """Whether the control process may have a real-time priority, and how many cores there are."""
    code, _ = _child("import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))")
    nice_code, _ = _child("import os; os.setpriority(os.PRIO_PROCESS, 0, -20)")
    cores = len(os.sched_getaffinity(0))
    if code != 0:
        remedy = "'@realtime - rtprio 90' in /etc/security/limits.conf and your user in group realtime; containers: --cap-add sys_nice"
        return [Finding(name="real time", state=WARN, found=f"SCHED_FIFO not allowed, {cores} cores", remedy=remedy)]
    if nice_code != 0:
        remedy = "'@realtime - nice -20' in /etc/security/limits.conf; containers: --cap-add sys_nice"
        return [Finding(name="real time", state=WARN, found=f"SCHED_FIFO allowed, niceness -20 not, {cores} cores", remedy=remedy)]
    return [Finding(name="real time", state=OK, found=f"SCHED_FIFO and niceness -20 allowed, {cores} cores")]


def check_bundles() -> list[Finding]:
    """Every policy bundle below models/."""
    try:
        folders = sorted(path.parent for path in (share_dir() / "models").glob("*/manifest.yaml"))
    except VlaError as error:
        return [Finding(name="bundles", state=FAIL, found=str(error))]
    if not folders:
        remedy = "train and export one (vla train, vla export), or give its folder as parameter model"
        return [Finding(name="bundles", state=WARN, found="none below models/", remedy=remedy)]
    return [_bundle(folder) for folder in folders]


def _bundle(folder: Path) -> Finding:
    name = f"bundle {folder.name}"
    try:
        files = check_files(folder, read_manifest(folder))
    except VlaError as error:
        return Finding(name=name, state=FAIL, found=str(error), remedy="export it again: vla export")
    broken = [f"{file} {entry['state']}" for file, entry in files.items() if entry["state"] != FILE_OK]
    if broken:
        return Finding(name=name, state=FAIL, found=", ".join(broken), remedy=f"restore it: git checkout -- {folder}, or vla export")
    return Finding(name=name, state=OK, found=f"{len(files)} files as measured")


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_onnxruntime,
    check_ros,
    check_cv_bridge,
    check_shared_memory,
    check_rendering,
    check_real_time,
    check_bundles,
)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _child(code: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Runs Python code in a child process; returns its exit code and what it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CHILD_TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {CHILD_TIME_LIMIT_S} s"
    return done.returncode, done.stdout.strip()
