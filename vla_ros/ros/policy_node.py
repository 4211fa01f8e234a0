# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``vla_policy``: configure loads, verifies and warms up; activate may move; deactivate holds; cleanup frees.

This process holds the control thread, joint states, e-stop, instruction and the command; cameras and inference live in the worker process.
rclpy logs nothing when a lifecycle callback raises: every transition is guarded here.
"""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from vla_ros.core.control import ControlLoop, ControlOutput
from vla_ros.core.errors import InputError, VlaError
from vla_ros.core.safety import StatusCode
from vla_ros.ros.clock import PolledClock
from vla_ros.ros.parameter_server import ParameterServer
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.policy_interface import PolicyInterface
from vla_ros.ros.replay_topics import TapePublisher
from vla_ros.ros.robot_inputs import RobotInputs
from vla_ros.ros.session import Contract, PolicySession, worker_config

RCLError = rclpy_implementation.RCLError
_FIRST_JOINTS_S = 2.0  # how long activation waits for a first joint state
_LOOK_S, _LOOKS_PER_REPORT = 0.2, 5
_STOP_S = 3.0  # how long deactivation waits for the robot to come to rest

_SUCCESS, _FAILURE, _ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR


def _guarded(transition: Callable[..., None]) -> Callable[..., TransitionCallbackReturn]:
    """A refusal with a reason is FAILURE (the state stays); anything unexpected is ERROR (the node is cleaned up)."""

    @functools.wraps(transition)
    def wrapper(self: PolicyNode, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix("on_")
        try:
            transition(self, state)
        except VlaError as error:
            self._say_refusal(f"cannot {name}: {error}")
            return _FAILURE
        except Exception as error:  # the transition must end in a state, whatever happened
            self.get_logger().debug(traceback.format_exc())
            self.get_logger().error(f"cannot {name}: {type(error).__name__}: {error} (traceback at log level debug)")
            return _ERROR
        self._last_refusal = ""
        return _SUCCESS

    return wrapper


class PolicyNode(LifecycleNode):
    """Follows typed instructions. One executor thread; the control thread is its own."""

    def __init__(self, overrides: list[Any] | None = None, stop_requested: threading.Event | None = None, **kwargs: Any) -> None:
        """Declares parameters and what exists in every state.

        Raises:
            ConfigError: a parameter is wrong.
        """
        self._session: PolicySession | None = None
        self._inputs: RobotInputs | None = None
        self._control_clock: PolledClock | None = None
        self._tape: TapePublisher | None = None
        self._last_refusal = ""
        self.repeats_requests = False
        super().__init__("vla_policy", parameter_overrides=overrides or [], **kwargs)
        self._server = ParameterServer(self, PolicyNodeParameters, lambda: self._session is not None)
        self._stop_requested = stop_requested or threading.Event()
        self.interface = PolicyInterface(self)
        # rclpy's own answer raises where a transition is impossible, through the executor and out of the process.
        self._change_state, self._service_change_state.callback = self._service_change_state.callback, self._on_change_state
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(Trigger, "~/resume", self._on_resume)
        self._looks = 0
        self.interface.every(_LOOK_S, self._look)

    @property
    def parameters(self) -> PolicyNodeParameters:
        """The current parameters."""
        return self._server.current

    def _say_refusal(self, sentence: str) -> None:
        """Says it once where requests are repeated by a program (autostart waits so for a driver)."""
        if not (self.repeats_requests and sentence == self._last_refusal):
            self.get_logger().error(sentence)
        self._last_refusal = sentence

    @property
    def _uses_sim_time(self) -> bool:
        return bool(self.get_parameter("use_sim_time").value)

    @property
    def label(self) -> str:
        """Lifecycle state: unconfigured, inactive, active or finalized."""
        return self._state_machine.current_state[1]

    def every(self, period_s: float, callback: Callable[[], None]) -> Any:
        """Calls ``callback`` in the executor's thread by the steady clock; returns the timer."""
        return self.interface.every(period_s, callback)

    @property
    def session(self) -> PolicySession | None:
        """The running parts, None while unconfigured."""
        return self._session

    # ---- transitions ----

    @_guarded
    def on_configure(self, state: LifecycleState) -> None:
        try:
            self._configure(Contract.load(self.parameters), self.parameters)
        except BaseException:
            self._free()
            raise

    def _configure(self, contract: Contract, parameters: PolicyNodeParameters) -> None:
        self._control_clock = PolledClock(self, self._uses_sim_time)
        self._inputs = RobotInputs(
            self,
            contract.robot.joint_names,
            self._control_clock,
            max_age_ns=round(parameters.max_joint_age_s * 1e9),
            max_future_ns=round(parameters.max_future_s * 1e9),
            drops=self.interface.drops,
            say=self.interface.say,
        )
        session = PolicySession(contract, parameters, self._inputs, self._control_clock.now_ns, self.interface.sinks, self.get_logger().warning)
        self._session = session
        self._tape = TapePublisher(self, session.loop)
        self.interface.open(contract, parameters, self._control_clock.to_ros, session.link.detail)
        node = {
            "node_name": f"{self.get_name()}_worker",
            "namespace": self.get_namespace(),
            "use_sim_time": self._uses_sim_time,
            "clock_offset_ns": self._control_clock.offset_ns,
            "log_level": self.get_logger().get_effective_level().name.lower(),
        }
        topics = self.interface.camera_topics(contract, parameters)
        session.start_worker(worker_config(contract, parameters, session.link.name, topics, node), self._stop_requested)
        session.start_control()
        bundle = contract.bundle
        self.get_logger().info(
            f"ready: bundle {bundle.manifest.name} ({bundle.sha256[:12]}) for {contract.robot.name}, provider {session.link.provider}, "
            f"control at {parameters.control_rate_hz:g} Hz, command {parameters.command_interface}"
        )

    @_guarded
    def on_activate(self, state: LifecycleState) -> None:
        session = self._need_session()
        if self.parameters.require_subscriber and self.interface.command_subscribers() == 0:
            raise InputError(
                "nobody subscribes to the command: start the robot's controller, or set command.require_subscriber to false",
                code="no_subscriber",
            )
        self._await_joints(session)
        session.runner.call(lambda loop, joint_age_ns: loop.activate(joint_age_ns))
        self.get_logger().info("active: the robot may move")
        if self.interface.command_subscribers() == 0:
            self.get_logger().warning("nobody subscribes to the command yet")

    def _await_joints(self, session: PolicySession) -> None:
        deadline = time.monotonic() + _FIRST_JOINTS_S
        fresh_ns = round(self.parameters.max_joint_age_s * 0.5e9)
        while session.runner.joint_age_ns > fresh_ns and time.monotonic() < deadline and not self._stop_requested.is_set():
            time.sleep(0.005)

    @_guarded
    def on_deactivate(self, state: LifecycleState) -> None:
        self._hold()

    @_guarded
    def on_cleanup(self, state: LifecycleState) -> None:
        self._free()

    @_guarded
    def on_shutdown(self, state: LifecycleState) -> None:
        self._hold()
        self._free()

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, so that the node can be configured again."""
        try:
            self._free()
        except Exception as error:  # a second failure must not end the process
            self.get_logger().error(f"cleaning up after an error failed: {type(error).__name__}: {error}")
            return _FAILURE
        return _SUCCESS

    def close(self) -> None:
        """HOLD, then frees everything: for the end of the process. Publishing must still be possible."""
        try:
            self._hold()
        except VlaError as error:
            self.get_logger().error(f"could not hold: {error}")
        self._free()

    def _hold(self) -> None:
        """Decelerates to rest and stops commanding."""
        session = self._session
        if session is None:
            return
        generation = session.runner.call(_deactivate)
        deadline = time.monotonic() + _STOP_S
        while not _is_over(session.runner.output, generation) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.get_logger().info("holding: nothing is commanded any more")

    def _free(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
        tape, self._tape = self._tape, None
        if tape is not None:
            tape.close()
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
        clock, self._control_clock = self._control_clock, None
        if clock is not None:
            clock.close()
        self.interface.close()

    def _need_session(self) -> PolicySession:
        if self._session is None:
            raise InputError("the node is not configured", code="not_configured")
        return self._session

    # ---- inputs ----

    def _on_change_state(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return self._change_state(request, response)
        except RCLError:
            asked = request.transition.label or request.transition.id
            self._say_refusal(f"transition {asked!r} is not possible while the node is {self.label}")
            response.success = False
            return response

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, lambda loop, _: loop.stop(), "stopped: call resume to go on")

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, lambda loop, joint_age_ns: loop.resume(joint_age_ns), "resumed")

    def _answer(self, response: Trigger.Response, function: Callable[..., Any], sentence: str) -> Trigger.Response:
        try:
            self._need_session().runner.call(function)
            response.success, response.message = True, sentence
        except VlaError as error:
            response.success, response.message = False, str(error)
        return response

    # ---- once in a while ----

    def _look(self) -> None:
        """All that is done now and then: each wake-up of the executor costs a millisecond in which the control thread cannot have the interpreter."""
        for part in (self.interface.publish_events, self._publish_tape, self._watch_worker):
            self.interface.run(part)
        if self._looks % _LOOKS_PER_REPORT == 0:
            self.interface.run(self._report)
        self._looks += 1

    def _publish_tape(self) -> None:
        if self._tape is not None:
            self._tape.publish()

    def _watch_worker(self) -> None:
        if self._session is not None:
            sentence = self._session.watch_worker(self.parameters.worker_timeout_s)
            if sentence is not None:
                self.get_logger().error(sentence)

    def _report(self) -> None:
        extra = [StatusCode.INFERENCE_FAILED] if self._session is not None and self._session.gave_up else []
        self.interface.report(self._session, extra)


def _deactivate(loop: ControlLoop, _: int) -> int:
    """Returns the generation that begins with it, by which its output is told from one before."""
    loop.deactivate()
    return loop.generation


def _is_over(output: ControlOutput | None, generation: int) -> bool:
    return output is not None and output.generation >= generation and not output.is_commanded
