# SPDX-License-Identifier: Apache-2.0
"""Vision-language-action policies for ROS 2: a robot that follows a typed instruction.

Importing the package imports nothing else, so that each room (``core``, ``robot``, ``model``,
``train``, ``sim``, ``runtime``, ``ros``) pulls in only what it needs.
"""

__version__ = "0.1.0"
