"""`./bench watch` compares what comes out of the past with what went in; an hour of it."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import watch

from paceline.stats.sketch import UNDER, Sketch


def test_its_traffic_is_in_the_buckets_in_which_a_front_would_record_it() -> None:
    values = np.random.default_rng(1).lognormal(-5, 1.0, 500)
    sketch = Sketch()
    for value in values.tolist():
        sketch.record(value)
    assert watch._counts(values).tolist() == list(sketch._cells)[UNDER:]


@pytest.mark.slow
def test_an_hour_comes_out_as_it_went_in(tmp_path: Path) -> None:
    found = watch.lived(1, tmp_path)
    assert found.amiss == []
    assert found.compared == 2 * (60 + 1 + 1)
    assert found.bytes_per_model <= watch.MOST_BYTES
