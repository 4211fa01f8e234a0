# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other projects to policy bundles: ``vla import``. torch is allowed; nothing of a checkpoint is executed or unpickled.

command        the command line
checkpoint     a folder of safetensors files, read without trust
interface      what a checkpoint does not say: robot, cameras, units, rate
openvla        OpenVLA's folder to its parts
act            LeRobot's ACT folder to its parts
towers         vision transformers (DINOv2, SigLIP)
llama          the language model, with a cache of fixed size
fused_policy   towers, projector and language model as the two graphs of a bundle
act_network    ACT's network
resnet         ACT's picture encoder
pixels         camera picture to what a network was trained on
graphs         torch modules to ONNX, weights beside it
bundle         files to a bundle that is verified
"""
