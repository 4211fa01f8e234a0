# SPDX-License-Identifier: Apache-2.0
"""The words of the domain. Imports numpy and the standard library only.

errors          exception tree
schema          strict reading of plain mappings (YAML, JSON)
action          what one action dimension means: unit, frame, bounds, bins
action_tokens   actions to token ids and back
observation     what the policy sees at one moment
image, text     the only preparation of pictures and instructions, for training and for serving
paths           where configuration, launch files and bundles lie
plan            the words and numbers that a policy says before it acts
manifest        the contract between a policy bundle and a robot
tabletop        that contract for the robot that ships with the package
chunk           action chunks and the newest-wins buffer that the control loop samples
safety          status codes and pure checks
states          the transition table of the control state
control         the control loop as a pure ``step(now_ns)``
"""
