# SPDX-License-Identifier: Apache-2.0
"""The exception tree. Everything that this package raises on purpose is a ``VlaError``.

VlaError
├── ConfigError            something a user can mend, raised while configuring
│   └── BundleError        a policy bundle that breaks its contract
├── ActionError            an action of the wrong shape, not finite or out of its bounds
├── InputError             one input is dropped; ``code`` names the reason
│   └── InstructionTooLong the instruction does not fit the context window
├── DecodeError            the policy's answer is no action
└── InferenceError         the policy could not answer (out of memory, provider failure)
"""


class VlaError(Exception):
    """Base of all errors of this package."""


class ConfigError(VlaError):
    """A configuration that a user can mend. The message says what to do."""


class BundleError(ConfigError):
    """A policy bundle that is missing, damaged or breaks its manifest."""


class ActionError(VlaError, ValueError):
    """An action that its specification refuses."""


class InputError(VlaError):
    """One message or observation is dropped.

    Attributes:
        code: short stable name of the reason, such as ``image_truncated``; drops are counted by it.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class InstructionTooLong(InputError):
    """An instruction that needs more tokens than the context window holds. It is never cut.

    Attributes:
        length: tokens that the whole prompt needs.
        limit: tokens that the bundle allows.
    """

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(
            f"the instruction needs {length} tokens with its prompt and the policy reads {limit}: shorten it",
            code="instruction_too_long",
        )
        self.length = length
        self.limit = limit


class DecodeError(VlaError):
    """The policy's answer is no action: a token outside the action vocabulary, NaN logits, a wrong shape."""


class InferenceError(VlaError):
    """The inference back end failed while running."""
