"""Where a rank computes: plain CPU, CUDA, or the virtual device, whose streams run on CPU in any legal order.

`open_device` gives the device of a rank; a `Policy` orders the virtual device's work, and an `Observer` sees it.
"""

from harness.device.counters import Counters, Traffic, link_bytes, step_traffic
from harness.device.device import Device
from harness.device.errors import DeviceError, MixedDevices, Unmapped
from harness.device.observe import Access, Collective, Observer, OpRecord, Site, WaitTarget
from harness.device.opening import cuda_was_started, open_device, open_process_device
from harness.device.schedule import Policy
from harness.device.virtual import VirtualDevice

__all__ = [
    "Access",
    "Collective",
    "Counters",
    "Device",
    "DeviceError",
    "MixedDevices",
    "Observer",
    "OpRecord",
    "Policy",
    "Site",
    "Traffic",
    "Unmapped",
    "VirtualDevice",
    "WaitTarget",
    "cuda_was_started",
    "link_bytes",
    "open_device",
    "open_process_device",
    "step_traffic",
]
