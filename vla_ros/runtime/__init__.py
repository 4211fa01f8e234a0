# SPDX-License-Identifier: Apache-2.0
"""Running a policy. Imports neither torch nor rclpy.

bundle      a policy bundle on disk, verified
session     ONNX Runtime session with bound buffers
policy      observation in, action chunk out
exchange    newest-wins slots in shared memory between two processes
worker      the worker process's loop
"""
