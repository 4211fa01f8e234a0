# SPDX-License-Identifier: Apache-2.0
"""What a thread may ask the kernel for, to be woken in time. Each call is for the thread that makes it, unless it says otherwise.

Only the control thread gets SCHED_FIFO. But it shares the interpreter's lock with the executor's thread, and waits for that one's next turn if
another program takes the core away while it holds the lock: so that one is given the least niceness.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

TIME_SLICE_NS = 100_000  # the shortest that the kernel takes
_PR_SET_NAME, _PR_SET_TIMERSLACK = 15, 29
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of the system call, which the C library does not wrap
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14
_libc = ctypes.CDLL(None, use_errno=True)


def be_punctual() -> None:
    """Asks for exact timers and a short time slice, for which no privilege is needed.

    The default timer slack of 50 us delays every wake-up of a normal thread. A normal thread with a short slice has an early deadline, so that it is run
    soon after it wakes (Linux 6.12 and newer; older ones ignore it).
    """
    with contextlib.suppress(OSError, AttributeError):  # nobody could allow what is refused here
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        _set_time_slice(TIME_SLICE_NS)


def set_name(name: str) -> None:
    """Shows this thread under a name in ``top -H``, at most 15 characters of it (Python does so from 3.14 on)."""
    with contextlib.suppress(AttributeError):
        _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def set_fifo(priority: int) -> None:
    """Asks for SCHED_FIFO; what this thread starts does not inherit it.

    Raises:
        OSError: it needs RLIMIT_RTPRIO or CAP_SYS_NICE.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def niceness() -> int:
    """Of this thread."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def set_niceness(nice: int) -> None:
    """Sets it; threads and processes that this thread starts inherit it.

    Raises:
        OSError: a lower one needs RLIMIT_NICE or CAP_SYS_NICE.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)


def lock_memory() -> None:
    """Keeps all pages of this process, also later ones once they are touched, from being swapped out.

    Raises:
        OSError: it needs CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK (below a finite one an allocation could fail at any later time).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _has_capability(_CAP_IPC_LOCK):
        raise OSError(0, f"at most {limit // 1024} KiB may be locked")
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def unlock_memory() -> None:
    """The inverse of :func:`lock_memory`."""
    _libc.munlockall()


def _set_time_slice(slice_ns: int) -> None:
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, niceness(), 0, slice_ns, 0, 0)
    _libc.syscall(number, 0, attributes, 0)


def _has_capability(number: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False
