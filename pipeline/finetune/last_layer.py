"""The linear layer that gives a network's logits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class LastLayer:
    """The linear layer that gives a network's logits, and where it stands."""

    parent: Any
    name: str
    linear: torch.nn.Linear

    @classmethod
    def of(cls, network: Any) -> LastLayer:
        """The last linear layer outside of the encoder."""
        inner = set(network.base_model.modules())
        own = [(name, part) for name, part in network.named_modules() if part not in inner]
        name, linear = [(name, part) for name, part in own if isinstance(part, torch.nn.Linear)][-1]
        parent, _, short = name.rpartition(".")
        return cls(network.get_submodule(parent), short, linear)

    def is_among(self, names: Collection[str], network: Any) -> bool:
        """Whether its weights are among some of the network's, by their names."""
        return any(weight is self.linear.weight for name, weight in network.named_parameters() if name in names)

    def replace_by(self, module: torch.nn.Module) -> None:
        """Put something else in its place, or itself back."""
        setattr(self.parent, self.name, module)
