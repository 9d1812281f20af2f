"""The GPUs of NVIDIA that a machine has, as the library of their driver tells (NVML).

Loaded by its name when first asked, without any package; a machine without it has no GPUs, which is
found once. What a GPU cannot tell is left out. Called by the owner for `/metrics` and the history,
which look at it no more often than GPU_S: a call may wait for the driver.

The calls: https://docs.nvidia.com/deploy/nvml-api, "Device Queries".
"""

import ctypes
from collections.abc import Callable

import msgspec

from paceline.observe import log
from paceline.terms.limits import GPUS

logger = log.get(__name__)

LIBRARY = "libnvidia-ml.so.1"
GPU_S = 5.0

SENSOR = 0
SLOWDOWN = 1
"""Of NVML: the sensor of the GPU itself, and the temperature at which it slows down."""


class Gpu(msgspec.Struct, frozen=True):
    """`busy` is the share of the last moments, up to a second, in which a kernel ran; from
    `slow_celsius` on it computes more slowly to cool down."""

    index: int
    busy: float | None
    memory_used_bytes: int | None
    memory_bytes: int | None
    watts: float | None
    celsius: float | None = None
    slow_celsius: float | None = None


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class Gpus:
    """Answers with what it saw at most GPU_S ago."""

    def __init__(self, now: Callable[[], float], library: str = LIBRARY) -> None:
        self._now = now
        self._library = library
        self._nvml: ctypes.CDLL | None = None
        self._handles: list[ctypes.c_void_p] | None = None
        self._seen: list[Gpu] = []
        self._seen_s = float("-inf")

    def __call__(self) -> list[Gpu]:
        if self._handles is None:
            self._handles = self._found()
        now = self._now()
        if self._handles and now - self._seen_s >= GPU_S:
            self._seen = [self._gpu(index, each) for index, each in enumerate(self._handles)]
            self._seen_s = now
        return self._seen

    def _found(self) -> list[ctypes.c_void_p]:
        try:
            self._nvml = ctypes.CDLL(self._library)
        except OSError:  # no driver, no GPUs
            return []
        count = ctypes.c_uint()
        said = self._call("nvmlInit_v2") or self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if said:
            logger.warning(
                "the driver of the GPUs does not answer; they are not watched", says=said
            )
            return []
        handles = []
        for index in range(min(count.value, GPUS)):
            handle = ctypes.c_void_p()
            call = self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            handles += [] if call else [handle]
        return handles

    def _gpu(self, index: int, handle: ctypes.c_void_p) -> Gpu:
        busy, memory, milliwatts = _Utilization(), _Memory(), ctypes.c_uint()
        celsius, slow = ctypes.c_uint(), ctypes.c_uint()
        no_busy = self._call("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(busy))
        no_memory = self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        no_watts = self._call("nvmlDeviceGetPowerUsage", handle, ctypes.byref(milliwatts))
        no_celsius = self._call("nvmlDeviceGetTemperature", handle, SENSOR, ctypes.byref(celsius))
        no_slow = self._call(
            "nvmlDeviceGetTemperatureThreshold", handle, SLOWDOWN, ctypes.byref(slow)
        )
        return Gpu(
            index,
            None if no_busy else busy.gpu / 100,
            None if no_memory else memory.used,
            None if no_memory else memory.total,
            None if no_watts else milliwatts.value / 1e3,
            None if no_celsius else float(celsius.value),
            None if no_slow or not slow.value else float(slow.value),
        )

    def _call(self, name: str, *given: object) -> int:
        """0 where it did what was asked; a number of NVML's, or -1 where there is no such call."""
        try:
            return int(getattr(self._nvml, name)(*given))
        except AttributeError:  # an older library
            return -1
