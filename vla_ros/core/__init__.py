# SPDX-License-Identifier: Apache-2.0
"""The words of the domain. Imports numpy and the standard library only.

errors          exception tree
schema          strict reading of plain mappings (YAML, JSON)
action          what one action dimension means: unit, frame, bounds, bins
action_tokens   actions to token ids and back: uniform bins (RT-2)
quantile_bins   the same with quantile-normalised bins (OpenVLA), from dataset_statistics.json (dataset_statistics)
fast_tokens     the same for whole chunks: cosine spectrum and byte-pair merges (FAST)
constrained     which ids may come next, so that every answer decodes
context         how the context window is shared, and what is shortened
observation     what the policy sees at one moment
image, text     the only preparation of pictures and instructions, for training and for serving
paths           where configuration, launch files and bundles lie
plan            the words and numbers that a policy says before it acts
task_language   instructions and plans as acts; task_scene: what the table looks like to them
task_check      preconditions, effects, verdicts before the arm moves; plan_check: the same for a plan
manifest        the contract between a policy bundle and a robot
tabletop        that contract for the robot that ships with the package
chunk           action chunks and the newest-wins buffer that the control loop samples
safety          status codes and pure checks
states          the transition table of the control state
control         the control loop as a pure ``step(now_ns)``
"""
