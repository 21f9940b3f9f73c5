"""Run auto_LiRPA 0.3, the last release on PyPI, with newer versions of PyTorch and NumPy.

auto_LiRPA reads the graph of a module by functions of PyTorch's ONNX exporter that later versions moved or removed.
This module restores them at their old places. It changes neither the code of auto_LiRPA nor the operations that it
runs.
"""

import sys
import types
from typing import Any

import numpy as np
import torch
import torch.onnx.symbolic_helper
import torch.onnx.utils
from torch.onnx._internal.torchscript_exporter import _globals, utils


def _set_opset_version(version: int) -> None:
    _globals.GLOBALS.export_onnx_opset_version = version


def _attribute(node: torch.Node, name: str) -> Any:
    return getattr(node, node.kindOf(name))(name)


_old: Any = types.ModuleType("numpy.lib.arraysetops")
_old.isin = np.isin
sys.modules.setdefault("numpy.lib.arraysetops", _old)
for _module, _name, _moved in (
    (torch.onnx.utils, "_optimize_graph", utils._optimize_graph),
    (torch.onnx.symbolic_helper, "_set_opset_version", _set_opset_version),
    (torch.Node, "__getitem__", _attribute),
):
    setattr(_module, _name, _moved)

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # noqa: E402


class Peer:
    """Lower bounds `[B, K - 1]` of the margins of one network over boxes, like `invjax.bounds.margins`."""

    def __init__(self, net: torch.nn.Module, lower: torch.Tensor, upper: torch.Tensor, labels: torch.Tensor, k: int):
        self.parameters = list(net.parameters())
        # the adaptive slopes are those of Zhang et al. 2018: 1 below a ReLU if upper > -lower, else 0
        self.net = BoundedModule(net, lower, bound_opts={"activation_bound_option": "adaptive"})
        box = PerturbationLpNorm(norm=np.inf, x_L=lower, x_U=upper)
        self.x = BoundedTensor((lower + upper) / 2, box)
        eye = torch.eye(k)
        others = torch.stack([torch.cat([eye[:y], eye[y + 1 :]]) for y in labels.tolist()])
        self.rows = eye[labels][:, None] - others

    def margins(self, method: str) -> torch.Tensor:
        """Lower bounds of the margins by the method "IBP" or "CROWN-IBP"."""
        return self.net.compute_bounds(x=(self.x,), C=self.rows, method=method, bound_upper=False)[0]

    def gradient(self, method: str) -> tuple[torch.Tensor, ...]:
        """Gradient of the mean cross-entropy of the logits `(0, -margins)`, by every parameter of the network."""
        worst = torch.nn.functional.pad(-self.margins(method), (1, 0))
        loss = torch.nn.functional.cross_entropy(worst, torch.zeros(len(worst), dtype=torch.long))
        return torch.autograd.grad(loss, self.parameters)
