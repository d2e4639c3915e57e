"""What can go wrong with the local stack.

StackError
├── ProgramMissing     a program that the stack runs is not installed
└── ChildFailed        a child did not start, or did not become ready in time
"""

from pathlib import Path


class StackError(Exception):
    """Base of everything in this module."""


class ProgramMissing(StackError):
    """A program that the stack runs is not installed."""


class ChildFailed(StackError):
    """A child did not start or did not become ready in time; its log is at `log_path`."""

    def __init__(self, name: str, why: str, log_path: Path, tail: str) -> None:
        super().__init__(f"{name} {why}; its log {log_path} ends:\n{tail or '(nothing)'}")
        self.name = name
        self.why = why
        self.log_path = log_path
