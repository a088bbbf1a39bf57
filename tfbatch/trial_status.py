"""How a trial can end."""

from __future__ import annotations

from typing import Literal

Status = Literal["completed", "diverged", "oom", "error", "killed", "timeout", "interrupted"]
"""See `tfbatch.trial.outcome.Outcome`."""
