"""What the owner measures of its processes."""

import subprocess
import sys

from paceline.terms.metric import CPU_SECONDS
from paceline.web.probe import ModelCpu, ended_cpu_s, probe


def test_what_ended_before_the_first_front_is_not_its_cpu_time() -> None:
    """The launcher becomes the owner, so an installation is among its children that have ended."""
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    before_s = ended_cpu_s()
    assert before_s > 0
    (front,) = [
        one.value
        for one in probe([], before_s, ModelCpu())
        if one.metric is CPU_SECONDS and one.labels == ("front",)
    ]
    assert front == 0


def test_cpu_time_of_model_processes_never_falls() -> None:
    of_models = ModelCpu()
    assert of_models.seen({1: 2.0, 2: 1.0}) == 3.0
    assert of_models.seen({1: 2.5}) == 3.5, "one has ended"
    assert of_models.seen({1: 0.5}) == 4.0, "the other too, and a new one has its number"
    assert of_models.seen({}) == 4.0
