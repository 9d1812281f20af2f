"""The public test kit: what tests, here and elsewhere, need to run Paceline's parts alone.

Nothing in the product imports it. Here: simulated time; beside it the suites that every
implementation of a seam runs (`model_contract`), apart, because they need what they test.
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

__all__ = [
    "Chance",
    "Deadlock",
    "LeftBehind",
    "Livelock",
    "NotSimulated",
    "SimulatedClock",
    "SimulationFailed",
    "run_simulated",
]
