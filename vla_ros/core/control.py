# SPDX-License-Identifier: Apache-2.0
"""The control loop as a pure ``step(now_ns)``: it never sleeps, reads no clock and raises nothing while stepping.

Every control period it samples the newest chunk, lets the motion generator follow it inside the limits,
checks the result and says why it does what it does. A *generation* numbers the situations in which the
policy is asked: a new instruction, a stop, a lost input or a clock that jumps back begins a new one, and
answers to an older one never act. Axes: J joints, H steps, D action dimensions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from vla_ros.core.arm_watch import ArmWatch, FrozenWatch, StandstillWatch
from vla_ros.core.chunk import ActionChunk, ChunkBuffer, PutResult, Reference
from vla_ros.core.clock import ClockState, ControlClock
from vla_ros.core.command import ControlConfig, ControlOutput, Watch
from vla_ros.core.completion import Completion
from vla_ros.core.danger import BlockedChunk, Depth, PathCheck
from vla_ros.core.errors import DecodeError, InputError, VlaError
from vla_ros.core.guard import CommandGuard, MotionGenerator, PathBlocked
from vla_ros.core.joints import JointMonitor
from vla_ros.core.safety import JointLimits, StatusCode, outside_limits
from vla_ros.core.states import ControlState, Event, is_allowed, next_state
from vla_ros.core.stream import CommandStream
from vla_ros.core.takeover import Takeover, TemporalEnsemble
from vla_ros.core.text import normalize_instruction

__all__ = ["ControlConfig", "ControlLoop", "ControlOutput", "MotionGenerator", "Watch"]


class ControlLoop:
    """Turns chunks into safe commands. One thread only; no method blocks.

    Args:
        config: settings.
        limits: of the joints.
        motion: motion generator with the same period.
        workspace_excess_m: joint positions [J] to the tool's distance outside its workspace, m; None: unchecked.
        collision_depth_m: joint positions [J] to how deep the robot is in itself or in the table, m, 0 where it is clear; None: unchecked.
        gripper: index of the gripper's joint, which may spring faster than its limit (``JointMonitor``); None: there is none.
    """

    def __init__(
        self,
        *,
        config: ControlConfig,
        limits: JointLimits,
        motion: MotionGenerator,
        workspace_excess_m: Depth | None = None,
        collision_depth_m: Depth | None = None,
        gripper: int | None = None,
    ) -> None:
        self._config = config
        self._limits = limits
        self._guard = CommandGuard(motion, limits, config.period_s)
        self._danger = PathCheck(workspace_excess_m, collision_depth_m, config.workspace_margin_m)
        self._blocked_chunk = BlockedChunk(config.blocked_brake_ns // config.period_ns, config.max_blocked_ns // config.period_ns)
        self._stream = CommandStream()
        self._clock = ControlClock(config.period_ns, config.max_clock_gap_ns)
        self._buffer = ChunkBuffer(TemporalEnsemble() if config.takeover is Takeover.ENSEMBLE else None)
        self._joints = JointMonitor(
            limits.velocity, min_dt_s=config.period_s, velocity_factor=config.jump_velocity_factor, slack=config.jump_slack, gripper=gripper
        )
        self._arm = ArmWatch(
            FrozenWatch(config.joints_frozen_displacement, config.joints_frozen_after_ns // config.period_ns),
            StandstillWatch(config.resume_slack, config.settle_ns // config.period_ns),
        )
        self._completion = Completion(config.terminate_chunks)
        self.state = ControlState.INACTIVE
        self.code = StatusCode.INACTIVE
        self.instruction = ""
        self.task_done = False
        self.counts: Counter[str] = Counter()
        self._e_stop = False
        self._blocked: StatusCode | None = None
        self._unresumed: StatusCode | None = None
        self._rejected_run = 0
        self._begin_generation()

    # What the surroundings may read.

    @property
    def generation(self) -> int:
        """The number to send with every request to the policy."""
        return self._buffer.generation

    @property
    def wants_inference(self) -> bool:
        """Whether an answer of the policy could act."""
        return self.state in (ControlState.HOLDING, ControlState.ACTING)

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk in use."""
        return self._buffer.chunk

    @property
    def reference(self) -> Reference | None:
        """The motion that goes on until another answer arrives; while nothing is followed, the point where the command comes to rest.

        None where the policy is not told (``takeover``).
        """
        if self._config.takeover is not Takeover.PREFIX:
            return None
        if self.wants_inference and self._buffer.reference is not None:
            return self._buffer.reference
        stop_J = self._guard.last[0] if self._guard.is_at_rest else self._guard.stopping_point()
        return Reference.at_rest(self._due_ns, stop_J)

    # Requests. They raise InputError where a person has to know that nothing happened.

    def activate(self, joint_age_ns: int) -> None:
        """Starts from the measured state; the instruction is empty.

        Args:
            joint_age_ns: since the last accepted joint state, monotonic clock.

        Raises:
            InputError: ``joints_missing``, ``joints_stale``, ``joints_outside_limits`` or ``transition_refused``.
        """
        measured = self._joints.latest
        if measured is None:
            raise InputError("no joint state has come: start the robot's driver and check the topic joint_states", code="joints_missing")
        if joint_age_ns > self._config.max_joint_age_ns:
            raise InputError(f"the last joint state is {joint_age_ns * 1e-9:.2f} s old: check the robot's driver", code="joints_stale")
        self._check_inside(measured.positions_J)
        next_state(self.state, Event.ACTIVATE)
        self._start_from(measured.positions_J, slack=-1.0)
        self._go(Event.ACTIVATE, StatusCode.IDLE)
        self._clock.reset()
        self.instruction, self.task_done, self._rejected_run, self._blocked = "", False, 0, None
        self._begin_generation()
        if self._e_stop:
            self._latch(StatusCode.E_STOP)
        elif self._unresumed is not None:
            self._latch(self._unresumed)

    def deactivate(self) -> None:
        """Decelerates to rest; then nothing is commanded. A latch outlives it: only ``resume`` ends one."""
        self._unresumed = self.code if self.state is ControlState.LATCHED else self._unresumed
        self._go(Event.DEACTIVATE, StatusCode.INACTIVE)
        self.instruction, self.task_done = "", False
        self._begin_generation()

    def set_instruction(self, text: str) -> bool:
        """Takes a new instruction; blank means: hold. The same one again while it is being followed changes nothing.

        Returns:
            False if it was ignored, because nothing is active.
        """
        text = normalize_instruction(text)
        if self.state in (ControlState.INACTIVE, ControlState.FAULT):
            return False
        if text == self.instruction and not self.task_done and self.state is not ControlState.IDLE:
            return True
        self.instruction, self.task_done = text, False
        self._begin_generation()
        if self.state is not ControlState.LATCHED:
            self._go(Event.INSTRUCT if text else Event.CLEAR, StatusCode.WAITING if text else StatusCode.IDLE)
        return True

    def refuse_instruction(self, generation: int, code: StatusCode) -> None:
        """The policy cannot read this generation's instruction: hold as idle and say so."""
        if generation == self.generation and self.wants_inference:
            self.instruction = ""
            self._begin_generation()
            self._go(Event.CLEAR, code)

    def set_e_stop(self, pressed: bool) -> None:
        """Pressed latches; released changes nothing before ``resume``."""
        self._e_stop = pressed
        if pressed:
            self._latch(StatusCode.E_STOP)

    def stop(self) -> None:
        """Latches by request."""
        self._latch(StatusCode.STOPPED)

    def resume(self, joint_age_ns: int = 0) -> None:
        """Leaves the latch: goes on with the instruction, or waits for one.

        Raises:
            InputError: ``e_stop_pressed``, ``joints_stale``, ``joints_outside_limits`` or ``transition_refused``.
        """
        if self._e_stop:
            raise InputError("the emergency stop is still pressed: release it first", code="e_stop_pressed")
        event = Event.RESUME_TASK if self.instruction and not self.task_done else Event.RESUME
        next_state(self.state, event)
        if self._joints.latest is None or joint_age_ns > self._config.max_joint_age_ns:
            raise InputError("joint states are missing or stale: check the robot's driver", code="joints_stale")
        self._check_inside(self._joints.latest.positions_J)
        self._start_from(self._joints.latest.positions_J, self._config.resume_slack)
        self._rejected_run, self._unresumed = 0, None
        self._begin_generation()
        self._go(event, StatusCode.WAITING if event is Event.RESUME_TASK else StatusCode.IDLE)

    # Inputs.

    def put_joints(self, stamp_ns: int, positions_J: np.ndarray) -> None:
        """Takes a measurement. A jump is dropped once and latches when it repeats.

        Raises:
            InputError: the measurement was dropped; ``code`` says why.
        """
        try:
            self._joints.accept(stamp_ns, positions_J)
        except InputError as error:
            self.counts[error.code] += 1
            if self._joints.jumps_in_a_row >= 2:
                self._latch(StatusCode.JOINT_JUMP)
                self._joints.reset()
            raise

    def put_chunk(self, chunk: ActionChunk, now_ns: int) -> PutResult:
        """Offers the policy's answer.

        Raises:
            DecodeError: the chunk is no valid motion; it counts as rejected.
        """
        if chunk.generation != self.generation or not self.wants_inference:
            self.counts["chunk_old_generation"] += 1
            return PutResult.OLD_GENERATION
        try:
            self._check_chunk(chunk)
        except DecodeError:
            self.reject_chunk(chunk.generation)
            raise
        self._rejected_run = 0
        if self._is_unsure(chunk, now_ns):
            self.counts["chunk_low_confidence"] += 1
            self.code = StatusCode.LOW_CONFIDENCE if self.state is ControlState.HOLDING else self.code
            return PutResult.NOT_CONFIDENT
        result = self._buffer.put(chunk, max(now_ns, self._due_ns), *self._guard.last[:2])
        self.counts[f"chunk_{result.name.lower()}"] += 1
        if result is PutResult.TAKEN:
            self._blocked_chunk.try_again()
            self._completion.note(chunk, now_ns)
        return result

    def reject_chunk(self, generation: int) -> None:
        """Counts an answer that was no action; several in a row latch."""
        if generation != self.generation or not self.wants_inference:
            return
        self.counts["chunk_rejected"] += 1
        self._rejected_run += 1
        if self._rejected_run >= self._config.max_rejected_chunks:
            self._latch(StatusCode.CHUNKS_REJECTED)

    # The tick.

    def step(self, now_ns: int, watch: Watch) -> ControlOutput:
        """Advances one control period and gives the command that is due at its end. Raises nothing.

        Args:
            now_ns: ROS clock. Watchdogs do not use it: their ages come in ``watch``.
            watch: ages by a monotonic clock, and outside reasons to hold.
        """
        clock = self._clock.advance(now_ns)
        if clock is ClockState.PAUSED:
            return self._pause()
        if clock is ClockState.JUMPED_BACK:
            self._joints.reset()
            self._lose(StatusCode.CLOCK_JUMPED)
        try:
            self._judge(watch)
            self._finish()
            self._move()
            self._watch_joints()
        except Exception as error:  # a fault becomes a status and a stop, never a dead loop; its name is counted
            self._guard.brake()
            self._fail(StatusCode.INTERNAL_ERROR, type(error).__name__)
        return self._output(self.code)

    def _pause(self) -> ControlOutput:
        """Comes to rest while the clock stands, since the robot may move on without it; the chunk waits, latches stay."""
        fault = self._guard.stop()
        if fault is not None:
            self._fail(StatusCode.INVALID_COMMAND, fault)
        tells_more = self.state in (ControlState.LATCHED, ControlState.FAULT)
        return self._output(self.code if tells_more else StatusCode.CLOCK_PAUSED)

    def _judge(self, watch: Watch) -> None:
        """Holds on a lost input; asks anew when it is back."""
        code = self._lost_input(watch)
        if code is not None and self._blocked is None:
            self._lose(code)
        elif code is None and self._blocked is not None:
            self._begin_generation()
            self.code = StatusCode.WAITING if self.state is ControlState.HOLDING else self.code
        self._blocked = code
        if code is not None and self.wants_inference:
            self._buffer.flush()
            self._lose(code, begin_generation=False)

    def _lost_input(self, watch: Watch) -> StatusCode | None:
        # A pause of the simulation ages nothing.
        if self._clock.since_pause_ns(watch.joint_age_ns) > self._config.max_joint_age_ns:
            return StatusCode.JOINTS_STALE
        if watch.hold is not None:
            return watch.hold
        if self.wants_inference and self._clock.since_pause_ns(watch.worker_age_ns) > self._config.max_worker_age_ns:
            return StatusCode.WORKER_STALLED
        return None

    def _move(self) -> None:
        if self._stream.pauses():
            return
        reference = self._buffer.sample(self._due_ns) if self.wants_inference else None
        if reference is None:
            self._blocked_chunk.forget()
            if self.state is ControlState.ACTING:
                self._lose(StatusCode.CHUNK_USED_UP, begin_generation=False)
        elif self.state is ControlState.HOLDING:
            self._go(Event.ACT, StatusCode.ACTING)
        fault = self._guard.stop() if reference is None or self._blocked_chunk.brakes() else self._follow(reference)
        if fault is not None:
            self._fail(StatusCode.INVALID_COMMAND, fault)

    def _follow(self, reference: tuple[np.ndarray, np.ndarray]) -> str | None:
        """One period towards the chunk, or of braking where that leads into danger; returns what is wrong with it, or None."""
        now_J = self._guard.last[0]
        try:
            fault = self._guard.follow(reference, lambda path_NJ: self._danger.of(path_NJ, now_J, self._buffer.ahead(self._due_ns)))
        except PathBlocked as blocked:
            if self._blocked_chunk.is_given_up():
                self._lose(blocked.code)
            else:
                self._go(Event.ACT, blocked.code)
        except VlaError:
            self.counts["motion_failed"] += 1
            self._lose(StatusCode.MOTION_FAILED)
        else:
            self._blocked_chunk.went_on()
            self._go(Event.ACT, StatusCode.ACTING)
            return fault
        return self._guard.stop()

    def _fail(self, code: StatusCode, reason: str) -> None:
        self.counts[f"fault_{reason}"] += 1
        self._begin_generation()
        if self.state is not ControlState.INACTIVE:
            self._go(Event.FAIL, code)

    def _output(self, code: StatusCode) -> ControlOutput:
        position_J, velocity_J, acceleration_J = self._guard.last
        step = self._buffer.step_index(self._clock.time_ns) if self.state is ControlState.ACTING else None
        return ControlOutput(
            stamp_ns=self._clock.time_ns,
            positions_J=position_J.copy(),
            velocities_J=velocity_J.copy(),
            accelerations_J=acceleration_J.copy(),
            state=self.state,
            code=code,
            warnings=self._arm.warnings(self.code),
            generation=self.generation,
            is_commanded=self._stream.sends(
                is_silenced=self._arm.was_moved, is_inactive=self.state is ControlState.INACTIVE, is_at_rest=self._guard.is_at_rest
            ),
            task_done=self.task_done,
            action_D=None if step is None else self._buffer.chunk.actions_HD[step].copy(),
        )

    # Parts.

    @property
    def _due_ns(self) -> int:
        """When the last command is due, ROS clock: at the end of its period, and so is the reference that it follows."""
        return self._clock.time_ns + self._config.period_ns

    def _begin_generation(self) -> None:
        self._buffer.flush(self._buffer.generation + 1)
        self._blocked_chunk.forget()
        self._completion.forget()

    def _go(self, event: Event, code: StatusCode) -> None:
        self.state = next_state(self.state, event)
        if code is not self.code:
            self.counts[f"status_{code.name.lower()}"] += 1
        self.code = code

    def _lose(self, code: StatusCode, begin_generation: bool = True) -> None:
        """Leaves the motion towards a hold; without an instruction only the generation changes."""
        if begin_generation:
            self._begin_generation()
        if is_allowed(self.state, Event.LOSE):
            self._go(Event.LOSE, code)

    def _latch(self, code: StatusCode) -> None:
        if not is_allowed(self.state, Event.LATCH):
            return
        keeps_reason = self.state is ControlState.LATCHED and code is not StatusCode.E_STOP
        self._begin_generation()
        self._go(Event.LATCH, self.code if keeps_reason else code)

    def _check_chunk(self, chunk: ActionChunk) -> None:
        chunk.validate(len(self._limits.velocity))
        outside = {int(j) for row in chunk.joint_positions_HJ for j in outside_limits(row, self._limits, self._config.limit_slack)}
        if outside:
            raise DecodeError(f"chunk's waypoints leave the limits of joints {sorted(outside)}")

    def _is_unsure(self, chunk: ActionChunk, now_ns: int) -> bool:
        return bool(chunk.confidence_HD[chunk.next_free_step(now_ns)].min() < self._config.min_confidence)

    def _finish(self) -> None:
        """Ends the task when its last step has been reached."""
        if self.wants_inference and self._completion.is_reached(self._clock.time_ns):
            self.task_done = True
            self._begin_generation()
            self._go(Event.CLEAR, StatusCode.TASK_DONE)

    def _watch_joints(self) -> None:
        measured = self._joints.latest
        is_blind = self._blocked is StatusCode.JOINTS_STALE  # the last measurement may be from before the stop
        rests = self._guard.is_at_rest and not is_blind and self.state in (ControlState.IDLE, ControlState.HOLDING, ControlState.LATCHED)
        measured_J = None if measured is None else measured.positions_J
        if self._arm.finds_moved(measured_J, self._guard.last[0], is_followed=self.state is ControlState.ACTING, rests=rests):
            self._latch(StatusCode.ARM_MOVED)

    def _check_inside(self, measured_J: np.ndarray) -> None:
        outside = outside_limits(measured_J, self._limits, self._config.limit_slack)
        if outside.size:
            where = f"joints {outside.tolist()} are outside their limits at {measured_J}"
            raise InputError(f"{where}: move them inside", code="joints_outside_limits")

    def _start_from(self, measured_J: np.ndarray, slack: float) -> None:
        """Goes on from the measurement. Where that moves the command, the old stream ends first: a stream never jumps."""
        before_J = self._guard.last[0]
        self._guard.restart(measured_J, slack)
        self._arm.start_again(before_J)
        jumps = (np.abs(self._guard.last[0] - before_J) > self._limits.velocity * self._config.period_s).any()
        self._stream.begin(elsewhere=bool(jumps))
        self._danger.start_at(self._guard.last[0])
