# SPDX-License-Identifier: Apache-2.0
"""How a policy is asked about a picture: the file `answers.yaml` of a bundle that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vla_ros.core.errors import BundleError
from vla_ros.core.schema import Fields
from vla_ros.core.text import PLACEHOLDER

ROLE, SPEC_ROLE = "answer", "answers"  # of the graph and of the file with its `AnswerSpec`, in the manifest's files
QUESTION_TEMPLATE = "Q: {instruction} A:"


@dataclass(frozen=True, kw_only=True)
class AnswerSpec:
    """Facts of the graph that answers questions.

    Attributes:
        camera: whose picture is asked about, one of the manifest's cameras.
        prompt_template: text with ``{instruction}`` exactly once, where the question goes.
        tokens: longest answer, the end included.
        end_token: text id that ends an answer.
    """

    camera: str
    prompt_template: str
    tokens: int
    end_token: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> AnswerSpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        spec = cls(
            camera=fields.text("camera"),
            prompt_template=fields.text("prompt_template"),
            tokens=fields.integer("tokens", 2),
            end_token=fields.integer("end_token", 0),
        )
        fields.finish()
        if spec.prompt_template.count(PLACEHOLDER) != 1:
            raise fields.refuse(f"prompt_template must contain {PLACEHOLDER} exactly once, got {spec.prompt_template!r}")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; the inverse of ``from_dict``."""
        return asdict(self)
