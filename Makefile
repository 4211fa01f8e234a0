# SPDX-License-Identifier: Apache-2.0
# make demo    the robot does one instruction in the embedded simulator; no ROS installation needed
# make policy  from nothing to a policy bundle in $(POLICY_DIR), overnight on two cores (MINUTES=240 of training)
# make soak    an hour of random faults on the running node (SOAK_ARGS="--minutes 10 --seed 1"), report in soak.json
# make gazebo-test  the tests in a real Gazebo Classic 11, which it sets up in a folder of its own (as root; explicit skip elsewhere)
# make test    all tests;  make lint   style;  make clean   what builds and runs leave (make distclean: and .venv)
VENV ?= .venv
INSTRUCTION ?=
PYTEST_ARGS ?=
SOAK_ARGS ?=
BOOTSTRAP_INPUTS := setup.py pyproject.toml requirements/constraints.txt tools/bootstrap.sh

# The environment brings ROS 2 of its own: a sourced installation must not leak into it.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH RMW_IMPLEMENTATION
export INSTRUCTION
export MUJOCO_GL ?= egl

POLICY_DIR ?= runs/tabletop
MINUTES ?= 240

.PHONY: help demo policy soak gazebo-test test lint clean distclean
help:
	@sed -n '2,7p' Makefile

demo: $(VENV)/.ready-demo
	@$(VENV)/bin/vla demo $(if $(INSTRUCTION),--instruction "$$INSTRUCTION") $(DEMO_ARGS)

policy: $(VENV)/.ready-test
	@VLA=$(VENV)/bin/vla bash tools/make_policy.sh "$(POLICY_DIR)" "$(MINUTES)"

test: $(VENV)/.ready-test
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

soak: $(VENV)/.ready-test
	@$(VENV)/bin/python tools/soak.py --json soak.json $(SOAK_ARGS)

gazebo-test: $(VENV)/.ready-test
	@tools/gazebo_classic.sh setup; status=$$?; [ $$status != 77 ] || exit 0; [ $$status = 0 ] || exit $$status; \
	  VLA_GAZEBO_TEST=1 $(VENV)/bin/python -m pytest test/sim/gazebo $(PYTEST_ARGS)

lint: $(VENV)/.ready-test
	@$(VENV)/bin/ruff check vla_ros test launch setup.py
	@$(VENV)/bin/python -m compileall -q vla_ros test launch

$(VENV)/.ready-%: $(BOOTSTRAP_INPUTS)
	@bash tools/bootstrap.sh "$*" "$(VENV)"

clean:
	rm -rf build dist install log demo *.egg-info .pytest_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
	find vla_ros test launch -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"
