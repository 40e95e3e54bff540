"""The door of every room: what cannot be meant is refused there, in one way for all public functions.

A public function says in its annotations what it takes. At the door of its room (``guard(globals(), __all__)`` in the
room's ``__init__``) a call is compared with them: no unknown keyword, no None, text, class or number where something else
belongs, no NaN and no infinity, no empty tensor and none without data. What a function refuses by itself stays its affair. An
error that a library raises about arguments that do not fit together is said in the same words, with the shapes of what came.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import inspect
import linecache
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import BadInput, check_finite

__all__ = ["guard", "guarded"]

_HERE = str(Path(__file__).resolve().parent)
_LIBRARIES = ("site-packages", "dist-packages", str(Path(inspect.__file__).resolve().parent))
_RAW = (TypeError, ValueError, IndexError, KeyError, AttributeError, ZeroDivisionError, OverflowError, RuntimeError)
_PLAIN = (str, bytes, numbers.Number, Tensor, type, types.NoneType)


def guard(room: dict[str, Any], names: Iterable[str], *, infinite: Iterable[str] = (), classes: tuple[type, ...] = ()) -> None:
    """Put every public function of a room behind its door, and the constructor of each public class that is one of ``classes``;
    infinite: names of functions that take NaN or infinity on purpose."""
    for name in names:
        thing = room.get(name)
        if isinstance(thing, types.FunctionType):
            room[name] = guarded(thing, finite=name not in set(infinite))
        elif isinstance(thing, type) and issubclass(thing, classes) and thing.__init__ is not object.__init__:
            thing.__init__ = guarded(inspect.unwrap(thing.__init__), name=name)  # type: ignore[misc]


def guarded(function: Callable[..., Any], *, finite: bool = True, name: str = "") -> Callable[..., Any]:
    """``function`` behind its annotations; the function itself is its ``__wrapped__``. name: what errors call it."""
    name = name or function.__name__
    signature = inspect.signature(function)
    hints: dict[str, Any] = {}
    home = inspect.unwrap(function).__globals__
    loop = inspect.isgeneratorfunction(inspect.unwrap(function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not hints:
            hints.update({name: _hint(p.annotation, home) for name, p in signature.parameters.items()})
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise _unbound(name, signature, kwargs, error) from None
        try:
            for key, value in given.items():
                p = signature.parameters[key]
                if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or value is p.default:
                    continue
                if finite or not isinstance(value, float) or math.isfinite(value):
                    _check(key, value, hints[key], p.annotation, finite)
            _one_rank({key: value for key, value in given.items() if hints[key] is Tensor})
        except BadInput:
            if loop:
                _speak_first(function, args, kwargs)
            raise
        try:
            return function(*args, **kwargs)
        except BadInput:
            raise
        except _RAW as error:
            if _deliberate(error):
                raise
            came = ", ".join(f"{key} {_short(value)}" for key, value in given.items() if key != "self")
            raise BadInput(f"{name}()", came, f"arguments that fit together ({str(error).strip().splitlines()[:1]})",
                           f"help({name}) names shapes and ranges") from error

    return call


def _speak_first(loop: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call a loop whose arguments were refused: its own checks, which run at the call and before any work, say more."""
    try:
        loop(*args, **kwargs)
    except BadInput:
        raise
    except _RAW:
        pass


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation names; the annotation itself where it is imported for type checkers alone."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # noqa: S307 (the package's own source)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return annotation


def _unbound(name: str, signature: inspect.Signature, kwargs: dict[str, Any], error: TypeError) -> BadInput:
    strange = [key for key in kwargs if key not in signature.parameters]
    near = difflib.get_close_matches(strange[0], signature.parameters, n=1) if strange else []
    known = ", ".join(key for key in signature.parameters if key != "self")
    return BadInput(f"{name}()", str(error), f"{name}({known})", f"{near[0]}=" if near else "")


def _deliberate(error: Exception) -> bool:
    """True for what must not be reworded: raised on purpose, in a caller's own function, or for want of memory."""
    if isinstance(error, NotImplementedError | torch.OutOfMemoryError):
        return True
    frames = []
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    if any(not name.startswith((_HERE, "<")) and not any(part in name for part in _LIBRARIES) for name, _ in frames):
        return True
    return bool(frames) and frames[-1][0].startswith(_HERE) and linecache.getline(*frames[-1]).strip().startswith("raise")


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    spoken = isinstance(value, str | numbers.Number | bytes | list | tuple | range | types.NoneType)
    text = repr(value) if spoken else f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _check(name: str, value: Any, hint: Any, annotation: Any, finite: bool) -> None:
    if isinstance(value, Tensor) and _fits(value, hint):
        _holds_numbers(name, value)
        if value.numel() == 0:
            raise BadInput(name, f"an empty tensor of shape {tuple(value.shape)}", "at least one row")
        # a GPU would have to wait for the answer
        if finite and value.is_floating_point() and value.device.type == "cpu" and not torch.compiler.is_compiling():
            try:
                # an additive attention mask holds -inf where nothing may be seen
                check_finite(name, value.masked_fill(value == -math.inf, 0.0) if name == "mask" else value)
            except RuntimeError:  # inside torch.func.vmap, where nobody may ask
                pass
    elif isinstance(value, type) and name in ("model", "net"):
        raise BadInput(name, _short(value), "an instance of it", f"{name}={value.__name__}(...)")
    elif not _fits(value, hint):
        want = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        for word, spoken in (("int", "whole number"), ("float|Scale", "finite number"), ("str", "text")):
            want = re.sub(rf"\b(?:{word})\b", spoken, want)
        raise BadInput(name, _short(value), want)


def _holds_numbers(name: str, value: Tensor) -> None:
    if value.is_meta:
        raise BadInput(name, "a tensor on the device meta, which holds no numbers", "a tensor on cpu or cuda")


def _one_rank(given: dict[str, Any]) -> None:
    """Pictures beside pictures: one (C, H, W) beside (B, C, H, W) would be spread over the batch without a word."""
    tensors = {name: x for name, x in given.items() if isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 3}
    for odd, x in tensors.items():
        for name, y in tensors.items():
            if x.ndim + 1 == y.ndim and x.shape == y.shape[1:]:
                raise BadInput(odd, f"shape {tuple(x.shape)} beside {name} {tuple(y.shape)}",
                               "tensors of one number of dimensions", f"{odd}[None] if it is one picture")


def _fits(value: Any, hint: Any) -> bool:
    """False only for what cannot be meant."""
    if isinstance(hint, str):  # a class that is imported for type checkers alone: anything but a plain value
        words = set(re.findall(r"\w+", hint))
        if words & {"Any", "object"}:
            return True
        if value is None or isinstance(value, str):
            return ("None" if value is None else "str") in words
        return bool(words & {"int", "float", "Tensor"}) if isinstance(value, _PLAIN) else True
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts or isinstance(value, str)                # the function names the choices
    if hint is Tensor:
        return isinstance(value, Tensor)
    if hint is bool:
        return not isinstance(value, str | types.NoneType | type) and not (isinstance(value, float) and math.isnan(value))
    if hint in (int, float):
        if isinstance(value, Tensor):
            return value.ndim == 0
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        return math.isfinite(value) and (hint is float or float(value).is_integer())
    if hint is str:
        return isinstance(value, str)
    kind = origin or hint
    if kind is collections.abc.Callable:
        return callable(value)
    if not isinstance(kind, type):
        return True
    if issubclass(kind, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping)
    if issubclass(kind, collections.abc.Iterable) and kind.__module__ in ("collections.abc", "builtins"):
        if isinstance(value, str | bytes | types.NoneType | type) or not hasattr(value, "__iter__"):
            return False
        inner = parts[:1] if parts and parts[0] is not Ellipsis else ()
        if not inner or not isinstance(value, list | tuple):
            return True
        return all(isinstance(one, type) or _fits(one, inner[0]) for one in value)     # the function says which instances
    if isinstance(value, _PLAIN) and not isinstance(value, kind):
        return kind in (torch.device, torch.dtype) and isinstance(value, str)
    return True
