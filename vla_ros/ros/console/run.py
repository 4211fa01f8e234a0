# SPDX-License-Identifier: Apache-2.0
"""Entry of ``vla console``: the operator page as one process."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from vla_ros.ros.console.access import Access, is_open_to_others, read_token
from vla_ros.ros.console.link import RobotLink
from vla_ros.ros.console.server import ConsoleServer
from vla_ros.ros.log_pump import LogPump
from vla_ros.ros.process import StopSignals, split_ros_arguments

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8710
_UNHEARD_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until SIGINT or SIGTERM. Returns 0.

    Raises:
        ConfigError: the address is taken or open to the network without a token, or the token's file is no good.
    """
    ours, ros = split_ros_arguments(sys.argv[1:] if argv is None else list(argv))
    options = parse(ours)
    token = None if options.token_file is None else read_token(options.token_file)
    server = ConsoleServer(options.host, options.port, Access(options.host, token))
    say = Console(stderr=True, highlight=False)
    if token is not None and is_open_to_others(options.token_file):
        say.print(
            Text(f"others on this machine can read {options.token_file}: chmod 600 {options.token_file}", style="yellow"), soft_wrap=True
        )
    with LogPump(), StopSignals() as signals:
        link = RobotLink(options.namespace.strip("/") and "/" + options.namespace.strip("/"), ros)
        server.robot = link
        threading.Thread(target=server.serve_forever, name="vla_console_web", daemon=True).start()
        sys.stdout.write(f"operator page of {link.policy_node}: {address(options.host, server.port)}   (Ctrl-C ends it)\n")
        sys.stdout.flush()
        _watch(link, signals.requested, say)
        server.close()
        link.close()
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, without what follows ``--ros-args``."""
    parser = argparse.ArgumentParser(
        prog="vla console",
        description="The operator page: cameras, plan, charts and status in the browser; instruct, stop and resume the robot.",
        epilog="ROS arguments, such as remapping rules, follow --ros-args.",
    )
    parser.add_argument(
        "--host", default=DEFAULT_HOST, help="address to listen on; any but this machine's own needs a token (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="ask for the token that is in this file")
    parser.add_argument("--namespace", default="", help="ROS namespace of the policy node (default: none)")
    options = parser.parse_args(argv)
    if not 0 <= options.port <= 65535:
        parser.error("--port must be between 0 and 65535")
    return options


def address(host: str, port: int) -> str:
    """What to type into the browser."""
    name = {"0.0.0.0": "localhost", "::": "localhost", "127.0.0.1": "localhost"}.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _watch(link: RobotLink, stop: threading.Event, say: Console) -> None:
    """Says once when the node has not been heard for a while, and each time it comes or goes."""
    start, heard = time.monotonic(), None
    while not stop.wait(0.5):
        hears = not link.seen.is_silent()
        if hears != heard and (hears or heard or time.monotonic() - start > _UNHEARD_S):
            heard = hears
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            lost = (
                f"{link.policy_node} is not heard in ROS domain {domain}: start it with vla run, or ask vla doctor. The page waits for it."
            )
            say.print(Text(f"{link.policy_node} is heard" if hears else lost, style="green" if hears else "yellow"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
