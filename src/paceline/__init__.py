"""Paceline: say what an AI workload must achieve; it finds, runs and keeps proving the plan."""

__version__ = "0.1.0"
