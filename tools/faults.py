# SPDX-License-Identifier: Apache-2.0
"""Runs the test of every fault that the node must survive and writes the table of results: ``python tools/faults.py [--write docs/faults.md]``.

A test belongs to the rows that its name says (``test_row_9_...``, ``test_rows_57_and_58_...``); POINTERS names the others. Rows are those of
the list of faults below. Exit code 0 if every row has a test and none failed; skipped rows are shown as such and fail nothing.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

TABLE = """
## Joint state
| 1 | NaN or infinite value | dropped; HOLD once the last good one is stale |
| 2 | a joint is missing | dropped and named |
| 3 | extra joints | ignored |
| 4 | other order of joints | mapped by name |
| 5 | arrays and names of different length | dropped |
| 6 | velocities empty | difference of positions, marked as derived |
| 7 | a name twice | dropped |
| 8 | outside its limits at start | activation is refused |
| 9 | jump larger than v_max·dt | dropped once, LATCH when it repeats |
| 10 | same values forever with fresh stamps while commanded to move | warning |
| 11 | two publishers | error status |

## Images
| 12 | unknown encoding | dropped; names it and the known ones |
| 13 | bgr8, rgba8, bgra8, mono8, bayer, 16-bit | converted explicitly and exactly |
| 14 | padded rows (`step` larger than the row) | read by stride |
| 15 | `step` smaller than the row | dropped |
| 16 | data shorter than `step`·`height` | dropped |
| 17 | zero width or height | dropped |
| 18 | big-endian 16-bit | byte order swapped |
| 19 | corrupt JPEG or PNG | dropped |
| 20 | decompression bomb | header dimensions checked against a cap before decoding |
| 21 | size changes while running | resized inside bounds, else dropped |
| 22 | frozen or black picture | warning after a time, HOLD if the camera is required |
| 23 | one of several cameras gone | HOLD if the manifest requires it |
| 24 | wrong `frame_id` | warning |

## Time
| 25 | stale stamp | dropped by age |
| 26 | stamp from the future beyond tolerance | dropped |
| 27 | zero stamp | receipt time, counted |
| 28 | simulation jumps back | chunk and caches flushed, HOLD, goes on after fresh inputs |
| 29 | simulation paused | the chunk is not consumed; no LATCH |
| 30 | step of the wall clock | no effect: time and watchdogs are monotonic |
| 31 | sparse `/clock` | tolerated |
| 32 | image and joints too far apart in time | no inference from that pair |

## Instruction
| 33 | empty or blank | idle HOLD |
| 34 | longer than the context window allows | refused with the limit, never cut in silence |
| 35 | not UTF-8 | refused, spinning goes on |
| 36 | NUL, control or bidirectional characters | normalised (NFC), stripped, never logged raw |
| 37 | 1,000 messages a second | newest wins; the control period goes on |
| 38 | change in the middle of a chunk | the rest is flushed; no jump in the command |

## Model
| 39 | missing or unreadable | configuring is refused |
| 40 | cut short, wrong hash, wrong opset | refused with the reason |
| 41 | names, shapes or types differ from the manifest | refused, listing both |
| 42 | external data that points outside the bundle | refused |
| 43 | CUDA asked for and absent | refused unless CPU is allowed; the providers in use are verified and shown |
| 44 | out of device memory at load / while running | refused / HOLD, bounded retries with growing pauses, then error |
| 45 | inference stalls | HOLD at the end of the chunk or at the watchdog, whichever is first; the worker is replaced |
| 46 | NaN logits, a token outside the action vocabulary, wrong width | chunk rejected; LATCH after k in a row |
| 47 | chunk used up | HOLD; a velocity is never repeated |
| 48 | chunk arrives late | elapsed steps dropped; HOLD if none is left |
| 49 | slow first inference | warmed up while configuring |

## System
| 50 | e-stop during inference | HOLD in the next period; late results belong to an older generation and never publish |
| 51 | e-stop released | no motion before an explicit resume; an arm that was moved meanwhile is not commanded until then |
| 52 | SIGKILL of the node / of the inference worker | downstream stops by its own timeout / HOLD, worker restarted |
| 53 | restart | begins inactive, from the measured state |
| 54 | network partition | HOLD; fresh state before going on |
| 55 | nobody subscribes to the command | warning, or refused by parameter |
| 56 | a second commander | error status |
| 57 | bad parameter at run time | refused as a whole |
| 58 | change of joints or model while active | refused |
| 59 | SIGINT or SIGTERM during inference | HOLD, then exit within 5 s |
| 60 | exception in a callback | caught there, counted, loop goes on |
| 61 | disk full, log blocked | the loop does not notice |
| 62 | 100 × deactivate and activate | no growth in threads, descriptors or memory |
| 63 | a participant that is not allowed (SROS2 enclave) | cannot publish an instruction, command or parameter |
"""

POINTERS = {
    13: ("test/ros/test_images.py::test_colour_encodings_are_converted_exactly",),
    20: ("test/ros/test_images.py::test_decompression_bombs_are_refused_by_their_header",),
    40: ("test/runtime/test_bundle.py::test_another_opset_is_refused",),
    42: ("test/runtime/test_bundle.py::test_external_data_outside_the_manifest_is_refused",),
    44: (
        "test/runtime/test_worker.py::test_a_failing_back_end_is_tried_again_and_then_given_up",
        "test/ros/test_restarts.py::test_lives_without_an_answer_end_in_giving_up",
    ),
    46: ("test/runtime/test_policy.py::test_a_prefix_outside_the_action_vocabulary_is_refused",),
}
_NAME = re.compile(r"test_rows?_(\d+(?:_and_\d+)*)_")


@dataclass
class Row:
    """One fault, with what its tests came to."""

    number: int
    section: str
    fault: str
    answer: str
    outcomes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def result(self) -> str:
        """In one word."""
        found = {outcome for outcomes in self.outcomes.values() for outcome in outcomes}
        if not found:
            return "no test"
        return "failed" if "failed" in found else "passed" if "passed" in found else "skipped"


def rows() -> dict[int, Row]:
    """Every fault by number."""
    found, section = {}, ""
    for line in TABLE.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| "):
            number, fault, answer = (cell.strip() for cell in line.strip("| ").split(" | "))
            found[int(number)] = Row(int(number), section, fault, answer)
    return found


def rows_of(node_id: str) -> set[int]:
    """The rows that a test proves."""
    path = node_id.split("[")[0]
    named = _NAME.match(path.rsplit("::", 1)[-1])
    numbers = {int(n) for n in named.group(1).split("_and_")} if named else set()
    return numbers | {number for number, pointed in POINTERS.items() if path in pointed}


def tests_in_files(folder: Path = ROOT / "test") -> list[str]:
    """Node ids of all test functions, without running anything."""
    found = []
    for path in sorted(folder.rglob("test_*.py")):
        functions = (n.name for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef))
        found += [f"{path.relative_to(ROOT)}::{name}" for name in functions if name.startswith("test_")]
    return found


class Recorder:
    """A pytest plugin: runs only tests of rows, and notes how they ended."""

    def __init__(self, table: dict[int, Row], wanted: set[int]) -> None:
        self._table, self._wanted = table, wanted

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Leaves out the rest."""
        kept = [item for item in items if rows_of(item.nodeid) & self._wanted]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes a test's outcome; a set-up that fails counts as failed."""
        if report.when == "call" or report.outcome != "passed":
            for number in rows_of(report.nodeid) & self._table.keys():
                self._table[number].outcomes[report.nodeid.split("[")[0]].append(report.outcome)


def document(table: dict[int, Row]) -> str:
    """The table of results as Markdown."""
    counts = defaultdict(int)
    for row in table.values():
        counts[row.result] += 1
    lines = [
        "# Faults that the node survives",
        "",
        "Made by `python tools/faults.py --write docs/faults.md`, which runs the tests. HOLD: the motion is left by a deceleration inside the",
        "limits and the rest of the chunk thrown away. LATCH: HOLD, and nothing moves before an explicit resume. Rows about messages,",
        "processes or time are tested with the real node over DDS. A row is skipped where the machine lacks what its test needs.",
        "",
        ", ".join(f"{count} {result}" for result, count in sorted(counts.items())) + ".",
    ]
    section = ""
    for row in table.values():
        if row.section != section:
            section = row.section
            lines += ["", f"## {section}", "", "| # | fault | what the node does | tests | result |", "|---|---|---|---|---|"]
        tests = "<br>".join(f"`{node}`" for node in sorted(row.outcomes))
        lines.append(f"| {row.number} | {row.fault} | {row.answer} | {tests} | {row.result} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tests and writes the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="where the table goes; without it only the run's summary is shown")
    parser.add_argument("--rows", type=int, nargs="+", help="only these rows")
    arguments = parser.parse_args(argv)
    table = rows()
    wanted = set(arguments.rows or table)
    files = sorted({node.split("::")[0] for node in tests_in_files() if rows_of(node) & wanted})
    pytest.main([f"--rootdir={ROOT}", "-q", *(str(ROOT / file) for file in files)], plugins=[Recorder(table, wanted)])
    bad = [row for row in table.values() if row.number in wanted and row.result in ("failed", "no test")]
    for row in bad:
        sys.stderr.write(f"row {row.number} ({row.fault}): {row.result}\n")
    if arguments.write is not None:
        arguments.write.write_text(document(table), encoding="utf-8")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
