# SPDX-License-Identifier: Apache-2.0
"""The operator page: ``vla console`` shows a robot in the browser, takes instructions, and stops it.

``access`` says who may, ``server`` speaks HTTP, ``web_socket`` keeps the stop button's own connection, ``link`` is the node on the ROS graph,
``pictures`` and ``seen`` hold what is shown, ``e_stop`` knows whose press it is. ``page/`` is what the browser loads.
"""
