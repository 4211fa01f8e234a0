# SPDX-License-Identifier: Apache-2.0
"""``vla bench``: how fast, beside what somebody would otherwise use, and beside what cannot be beaten.

command       the command line
rounds        variants in turn, and what becomes an entry of the results
floor         the least time that a graph can take on this machine, measured in the same run
inference     our runtime beside PyTorch and plain ONNX Runtime
control       how even the node's control period is, idle and under load
stops         how soon the node stops and is back, as the robot sees it
end_to_end    camera stamp to published action
transport     how many pictures arrive over DDS, and how late
scale         cost against image size, cameras, chunk length and model size
nodes         the real node and a robot that makes work, recorded condition by condition
programs      child processes that answer
plot          figures as SVG
markdown      tables in a document

Nothing here says whether a policy is good (``vla evaluate`` does).
"""

from vla_ros.bench.command import main

__all__ = ["main"]
