# SPDX-License-Identifier: Apache-2.0
"""Pictures with questions and answers for co-training: ``vla collect --questions``.

Each picture is another scene, posed like a snapshot. A shard holds `front.npy` (uint8 [N, H, W, 3]), `question.npy`, `answer.npy`
and `kind.npy` (int32 [N, K]: indices of the lists in `texts.json`, and of the meta's kinds), `place.npy` (float32 [N, R, 2]: where the centre of
each of the R objects that a scene may have appears, 0..1 to the right and down, NaN where it cannot be seen; colour by colour, all kinds of
each), `tool.npy` (float32 [N, 4]: where the point between the fingertips appears, its height over the table and the half opening in m) and
`episode.npy` (int32 [N], the scene's seed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import yaml

from vla_ros.core import tabletop
from vla_ros.core.image import prepare_image
from vla_ros.sim.questions import QUESTION_KINDS, Question, all_texts, draw_questions, inside, places_in_picture
from vla_ros.sim.scene import COLOURS, KINDS
from vla_ros.sim.snapshots import SnapshotRecorder
from vla_ros.sim.tasks import ObjectRef, Task
from vla_ros.sim.world import WorldState

FORMAT_VERSION = 2
CAMERA = tabletop.CAMERAS[0]
OBJECTS = tuple(ObjectRef(colour, kind) for colour in COLOURS for kind in KINDS)


class QuestionRecorder(SnapshotRecorder):
    """Yields one picture a seed, with ``questions_per_frame`` questions that the picture settles.

    Args:
        questions_per_frame: how many.
        split: phrasings (and, of what comes next, tasks) that training sees, or that it never does.
        randomize_look: how much light, colours and camera vary, 0 to 1.
    """

    def __init__(self, questions_per_frame: int, split: str = "seen", randomize_look: float = 1.0) -> None:
        super().__init__(labels_per_frame=1, randomize_look=randomize_look)
        self._count, self._split = questions_per_frame, split

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the picture of ``seed``, or none where it settles nothing."""
        for frame in super().episode(seed):
            if frame["questions"]:
                yield frame

    def frame(
        self, task: Task, world: WorldState, rng: np.random.Generator, finished: list[Task], images: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Any]:
        """The first camera's picture, its questions, and where everything is."""
        seen = places_in_picture(self.env, CAMERA.name, border=0.0)
        drawn = draw_questions(rng, self._count, world, inside(seen), self._split)
        picture = prepare_image(self.env.render(CAMERA.name), CAMERA.height, CAMERA.width)
        place_R2 = np.array([seen.get(ref, (np.nan, np.nan)) for ref in OBJECTS], dtype=np.float32)
        tool_4 = np.array([*self.env.project(CAMERA.name, world.tool), world.tool[2], world.gripper], dtype=np.float32)
        return {CAMERA.name: picture, "questions": drawn, "place": place_R2, "tool": tool_4}


def write_question_shard(folder: Path, frames: list[dict[str, Any]], episodes: list[int], first_frame: list[int]) -> None:
    """Writes one shard; it appears under its name only when complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    asked: list[list[Question]] = [frame["questions"] for frame in frames]
    texts = {"questions": sorted({q.text for row in asked for q in row}), "answers": sorted({q.answer for row in asked for q in row})}
    question_index, answer_index = ({text: i for i, text in enumerate(texts[name])} for name in ("questions", "answers"))
    arrays = {
        CAMERA.name: np.stack([frame[CAMERA.name] for frame in frames]),
        "question": np.array([[question_index[q.text] for q in row] for row in asked], dtype=np.int32),
        "answer": np.array([[answer_index[q.answer] for q in row] for row in asked], dtype=np.int32),
        "kind": np.array([[QUESTION_KINDS.index(q.kind) for q in row] for row in asked], dtype=np.int32),
        "place": np.stack([frame["place"] for frame in frames]),
        "tool": np.stack([frame["tool"] for frame in frames]),
        "episode": np.array(episodes, dtype=np.int32),
    }
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    (partial / "texts.json").write_text(json.dumps(texts, indent=0), encoding="utf-8")
    partial.rename(folder)


def write_question_meta(folder: Path, labels: int, seed: int) -> None:
    """Writes ``meta.yaml``, and ``texts.txt`` with everything that can be asked and answered, from which the tokenizer learns words."""
    meta = {"format_version": FORMAT_VERSION, "content": "questions", "K": labels, "camera": CAMERA.to_dict(), "kinds": list(QUESTION_KINDS), "objects": [str(ref) for ref in OBJECTS], "first_seed": seed}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(all_texts()) + "\n", encoding="utf-8")
