"""The public test kit: what tests, here and elsewhere, need to run Paceline's parts alone.

Nothing in the product imports it. Here: simulated time, and a journal's store in memory; beside it
the suites that every implementation of a seam runs (`model_contract`, `store_contract`,
`limiter_contract`, `provider_contract`), apart, because they need what they test; and stand-ins
for the APIs of two vendors of LLMs (`llm_upstream`), which need the vendors' own packages.
"""

from paceline.clock import (
    Chance,
    Deadlock,
    LeftBehind,
    Livelock,
    NotSimulated,
    SimulatedClock,
    SimulationFailed,
    run_simulated,
)
from paceline.testing.list_store import Kept, ListStore

__all__ = [
    "Chance",
    "Deadlock",
    "Kept",
    "LeftBehind",
    "ListStore",
    "Livelock",
    "NotSimulated",
    "SimulatedClock",
    "SimulationFailed",
    "run_simulated",
]
