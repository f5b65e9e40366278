"""Arrays to the model's device and back: with a GPU through page-locked memory, while both sides go on working."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor there; on CPU it is the array's own memory."""
    tensor = torch.from_numpy(array)
    # From other memory the driver copies twice, and may wait for the work that is under way.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostCopies:
    """Tensors that are copied to the host while the device goes on with other work.

    Args:
        tensors: By name, all of one device.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        # torch makes these page-locked.
        self._copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        self._arrival: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Their values, once they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return {name: copy.numpy() for name, copy in self._copies.items()}
