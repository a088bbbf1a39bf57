"""The first argument of a task, for tests that call one in their own process."""

import types


def context_of(programs, heartbeat=lambda: None):
    """Stands in for a tfbatch.training.context.TaskContext with these programs."""
    return types.SimpleNamespace(
        programs=programs, heartbeat=heartbeat, heartbeat_or_stop=heartbeat
    )
