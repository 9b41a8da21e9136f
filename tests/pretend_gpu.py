"""A GPU that is none: its tensors are computed on the CPU, and refuse to meet the CPU's own.

It shows, without a GPU, that work is put where it belongs and that tensors of two devices never meet. It
shows nothing of a GPU's arithmetic, memory or time. torch's name for the pretended device is `meta`, because
a torch without CUDA takes gradients there, which it refuses to do on `cuda`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
_CPU = torch.device("cpu")
_aten = torch.ops.aten
_INDEXED = (
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
)  # by the CPU's too


@contextlib.contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch have a GPU while the block runs."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        # A tensor around a tensor does not go with inference mode; without gradients it does.
        patch.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
        patch.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
        # A module that moves changes its parameters in place, as a real one does: tied ones stay tied.
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
        with _Words(), _Everything():
            yield


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU, around one that is on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=GPU,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Everything(TorchDispatchMode):
    """Sees operations without any tensor of the GPU, too: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Words(TorchFunctionMode):
    """Keeps the word `cuda` from what would ask the driver; does what torch refuses to subclasses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].to(GPU)
        if func is torch.Tensor.tolist:
            return _inner(args[0]).tolist()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])  # else torch makes it, past every mode
        if func is torch.tensor and kwargs.get("device") is not None:
            made = func(*args, **(kwargs | {"device": "cpu"}))
            return made.to(_named(torch.device(kwargs["device"])))
        args, kwargs = tree_map(_named, (args, kwargs))
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the CPU; its result is where a GPU's would be."""
    if func is _aten.copy_.default:
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    on_gpu = _meets_its_like(func, args, kwargs)
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == GPU.type
        kwargs = kwargs | {"device": _CPU}
    plain_args, plain_kwargs = tree_map(_inner, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if not on_gpu:
        return result
    if func._schema.name.endswith("_") and isinstance(args[0], OnGpu):
        return args[0]  # changed in place
    return tree_map(lambda leaf: OnGpu(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)


def _meets_its_like(func: Any, args: Any, kwargs: Any) -> bool:
    """Say whether an operation is one of the GPU; numbers without dimensions go with it, as on a real one."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim()]
    indexed = func in _INDEXED and isinstance(args[0], OnGpu)
    assert not (there and here) or indexed, f"{func} was given tensors of two devices"
    return bool(there)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def _named(leaf: Any) -> Any:
    return GPU if isinstance(leaf, (str, torch.device)) and str(leaf).startswith("cuda") else leaf
