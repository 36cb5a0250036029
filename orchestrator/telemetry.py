"""What the machine does while it trains: CPU, memory and GPUs, sampled once a minute by one worker of every node."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

__all__ = ["Gpus", "Sampler", "device", "installed_gpus", "machine"]

GB: Final = 1e9
_LIBRARY: Final = "libnvidia-ml.so.1"
_NAME_BYTES: Final = 96
"""NVML_DEVICE_NAME_V2_BUFFER_SIZE of nvml.h."""
_VERSION_BYTES: Final = 80
"""NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE of nvml.h."""


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """The GPUs that this process may use, read through the driver's NVML library; empty where there is none."""

    def __init__(self, visible: str | None = None) -> None:
        """`visible`: as in CUDA_VISIBLE_DEVICES (indices or UUIDs, comma separated); None: the environment's."""
        self._nvml: Any = None
        self._handles: list[ctypes.c_void_p] = []
        try:
            self._nvml = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        if self._nvml.nvmlInit_v2() == 0:
            self._handles = self._open(os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)

    def __len__(self) -> int:
        return len(self._handles)

    def _open(self, visible: str | None) -> list[ctypes.c_void_p]:
        if visible is None:
            count = ctypes.c_uint()
            self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
            names = [str(index) for index in range(count.value)]
        else:
            names = [name.strip() for name in visible.split(",") if name.strip()]
        handles = []
        for name in names:
            handle = ctypes.c_void_p()
            if name.isdigit():
                code = self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
            else:
                code = self._nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
            if code == 0:
                handles.append(handle)
        return handles

    @property
    def name(self) -> str | None:
        """Product name of the first GPU, such as `NVIDIA H200`; None without a GPU."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        if not self._handles or self._nvml.nvmlDeviceGetName(self._handles[0], text, _NAME_BYTES) != 0:
            return None
        return text.value.decode()

    def read(self) -> dict[str, float]:
        """Mean utilisation in percent, largest memory in use in units of 1e9 bytes, power of all in watts."""
        busy, memory, power = [], [], []
        for handle in self._handles:
            rates, bytes_, milliwatts = _Utilization(), _Memory(), ctypes.c_uint()
            if self._nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0:
                busy.append(float(rates.gpu))
            if self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(bytes_)) == 0:
                memory.append(bytes_.used / GB)
            if self._nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)) == 0:
                power.append(milliwatts.value / 1e3)
        found: dict[str, float] = {}
        if busy:
            found["gpu_percent"] = sum(busy) / len(busy)
        if memory:
            found["gpu_memory_gb"] = max(memory)
        if power:
            found["gpu_power_w"] = sum(power)
        return found


def installed_gpus() -> dict[str, Any]:
    """The machine's GPUs, whichever this process may use: `names`, and the `driver`'s version (None: no driver)."""
    gpus = Gpus("")
    if gpus._nvml is None:
        return {"driver": None, "names": []}
    version, count = ctypes.create_string_buffer(_VERSION_BYTES), ctypes.c_uint()
    if gpus._nvml.nvmlSystemGetDriverVersion(version, _VERSION_BYTES) != 0:
        return {"driver": None, "names": []}
    gpus._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    every = [Gpus(str(index)) for index in range(count.value)]
    return {"driver": version.value.decode(), "names": [gpu.name or "unnamed" for gpu in every]}


def machine(gpus: Gpus | None = None) -> dict[str, float]:
    """One sample: CPU load of the node since the last call in percent, memory and disk in units of 1e9 bytes."""
    memory = psutil.virtual_memory()
    sample = {
        "cpu_percent": psutil.cpu_percent(interval=None),
        "memory_gb": (memory.total - memory.available) / GB,
        "process_memory_gb": psutil.Process().memory_info().rss / GB,
        "disk_free_gb": psutil.disk_usage("/").free / GB,
    }
    return sample | (gpus.read() if gpus is not None else {})


def device(gpus: Gpus) -> str:
    """What a worker that sees these GPUs computes on: a GPU's name, or `CPU` and, where Linux tells it, its model."""
    if gpus.name is not None:
        return gpus.name
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {models[0]}" if models else "CPU"


class Sampler:
    """A thread that hands `system/node<rank>/...` metrics to a sink, at once, then at an interval and at the end."""

    def __init__(
        self, sink: Callable[[Mapping[str, float], int], None], *, node: int, start_ms: int, interval: float = 60.0
    ) -> None:
        """`sink` gets metrics and the whole seconds since `start_ms` (the start of the run), so that the series of a
        resumed run goes on where it was; `interval` in seconds."""
        self._sink = sink
        self._prefix = f"system/node{node}"
        self._start_ms = start_ms
        self._interval = interval
        self._end = threading.Event()
        self._gpus = Gpus()
        self._thread = threading.Thread(target=self._work, name="hrgrid-telemetry", daemon=True)
        psutil.cpu_percent(interval=None)
        self._thread.start()

    def _work(self) -> None:
        while not self._end.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        seconds = int(time.time() - self._start_ms / 1e3)
        self._sink({f"{self._prefix}/{name}": value for name, value in machine(self._gpus).items()}, seconds)

    def close(self) -> None:
        """Take a last sample and end the thread."""
        self._end.set()
        self._thread.join(5.0)
        self._sample()
