"""Oracles for anybody's KerasTuner search; no more of tfbatch is needed.

`SobolOracle` spreads its trials over the space. `with_memory_bound` teaches any oracle which batch
sizes do not fit in memory.
"""

from __future__ import annotations

from tfbatch.oracles.memory_bound import with_memory_bound
from tfbatch.oracles.sobol import SobolOracle

__all__ = ["SobolOracle", "with_memory_bound"]
