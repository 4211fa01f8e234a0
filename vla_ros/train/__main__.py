# SPDX-License-Identifier: Apache-2.0
"""`python -m vla_ros.train`."""

import sys

from vla_ros.cli import run_module

if __name__ == "__main__":
    sys.exit(run_module("vla_ros.train.command", sys.argv[1:], program="vla train"))
