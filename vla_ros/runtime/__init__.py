# SPDX-License-Identifier: Apache-2.0
"""Running a policy. Imports neither torch nor rclpy.

bundle      a policy bundle on disk, verified
onnx_file   opset and external data of an ONNX file
providers   execution providers and verified sessions
session     a graph with bound buffers
contract    the graph's inputs and outputs as the manifest implies them
autoregressive  prefill and decode graphs with a cache, constrained decoding
continuous  a graph that gives actions themselves
codec       the codec of a bundle's action tokens
prompt      instructions to token ids
history     past pictures
waypoints   actions to joint waypoints
policy      observation in, action chunk out
exchange    newest-wins slots in shared memory between two processes
messages    what the control process and the worker tell each other
worker      the worker process's loop
"""
