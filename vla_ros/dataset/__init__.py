# SPDX-License-Identifier: Apache-2.0
"""Datasets from and to others: LeRobotDataset v3 written and read, recordings of robots imported, checks. No torch, simulator or rclpy."""
