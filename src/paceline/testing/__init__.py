"""The public test kit: what tests, here and elsewhere, need to run Paceline's parts alone.

Nothing in the product imports it. So far: simulated time.
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
