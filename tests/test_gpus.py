"""GPUs through their driver's library: a planted one, which says what it is asked to."""

import subprocess
from pathlib import Path

import pytest

from paceline.observe.gpus import GPU_S, Gpu, Gpus
from paceline.web.probe import of_gpus

NVML = """
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    static int gpus[2];
    *handle = &gpus[index]; return 0;
}
static unsigned asked;
int nvmlDeviceGetUtilizationRates(void *gpu, unsigned rates[2]) {
    rates[0] = 25 + asked++; rates[1] = 99; return 0;
}
int nvmlDeviceGetMemoryInfo(void *gpu, unsigned long long bytes[3]) {
    bytes[0] = 1ull << 40; bytes[1] = 7; bytes[2] = 3ull << 33; return 0;
}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts) {
    static int calls;
    *milliwatts = 123456; return calls++ % 2 ? 3 : 0;  /* the second cannot tell */
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius) {
    *celsius = 61; return sensor;
}
int nvmlDeviceGetTemperatureThreshold(void *gpu, int which, unsigned *celsius) {
    static int calls;
    *celsius = which == 1 ? 89 : 95; return calls++ % 2 ? 3 : 0;
}
"""


def planted(folder: Path, init: int = 0) -> str:
    source, library = folder / "nvml.c", folder / f"libnvml{init}.so"
    source.write_text(NVML.replace("INIT", str(init)))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


@pytest.mark.needs("cc")
def test_gpus_are_what_their_driver_says(tmp_path: Path) -> None:
    now = 100.0
    gpus = Gpus(lambda: now, planted(tmp_path))
    seen = [
        Gpu(0, 0.25, 3 << 33, 1 << 40, 123.456, 61.0, 89.0),
        Gpu(1, 0.26, 3 << 33, 1 << 40, None, 61.0, None),
    ]
    assert gpus() == seen
    assert gpus() == seen  # it is not asked again so soon
    now += GPU_S
    assert [each.busy for each in gpus()] == [0.27, 0.28]
    told = {(each.metric.name, each.labels): each.value for each in of_gpus(seen)}
    assert told["paceline_gpu_busy_ratio", ("1",)] == 0.26
    assert told["paceline_gpu_power_watts", ("0",)] == 123.456
    assert ("paceline_gpu_power_watts", ("1",)) not in told
    assert told["paceline_gpu_temperature_celsius", ("1",)] == 61
    assert told["paceline_gpu_temperature_limit_celsius", ("0",)] == 89
    assert ("paceline_gpu_temperature_limit_celsius", ("1",)) not in told


@pytest.mark.needs("cc")
def test_a_driver_that_does_not_answer_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = Gpus(lambda: 0.0, planted(tmp_path, init=9))
    assert gpus() == gpus() == []
    assert caplog.text.count("does not answer") == 1


def test_a_machine_without_the_driver_has_none(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(lambda: 0.0, "libnothing-of-this-name.so.1")
    assert gpus() == []
    assert not caplog.text
