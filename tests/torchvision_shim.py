"""Let PyPI's torchvision, built for CUDA, be imported next to a torch for the CPU."""

import importlib
import sys

import pytest

HOW = (
    "needs torch, sam2 and transformers: build/torch/bin/python -m pytest -m slow (make test-torch)"
)


def need(module: str):
    """The module, behind the shim; the test is skipped, saying how to run it, without it."""
    torch = pytest.importorskip("torch", reason=HOW)
    if "torchvision" not in sys.modules:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError):
            declare_missing_operators(declared)
    return pytest.importorskip(module, reason=HOW)


def declare_missing_operators(library) -> None:
    """Name the operators whose library cannot be loaded; nothing here calls them."""
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(library)
    importlib.import_module("torchvision")


KEPT: list = []  # a library takes its declarations along when it is collected
