"""The tap: lets hooks read and change a U-Net's attention and module outputs, and proves that they ran."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.errors import BadInput, require
from minidiff.steer.attention import ExplicitAttnProcessor, Site, sites
from minidiff.steer.hooks import Hook, Row, StepContext, check_branches, check_hooks

__all__ = ["Tap"]

KNOWN = ("AttnProcessor", "AttnProcessor2_0", "ExplicitAttnProcessor")  # processors that ExplicitAttnProcessor equals


class Tap:
    """``with Tap(unet, recorder, rows=[Row("source", "empty"), Row("source", "prompt")]): pipe(prompt)``

    Around any loop that is not ours; :func:`minidiff.steer.run` uses one for each of its calls. rows: what the blocks of the
    batch are, in order. Sites that an active hook selects get an explicit attention (equal to the fused one to float error),
    the others keep their own; U-Net and hooks are put back whatever happens. A network that ``unet.compile()`` made fast runs
    plainly meanwhile: compiled code does not know of hooks, and would be compiled anew for each of them. Raises RuntimeError
    when a selected site or module does not run exactly once in a call, when another tap holds the site already, and when no
    call came at all.
    """

    def __init__(self, unet: nn.Module, *hooks: Hook, rows: Iterable[Row] = ()) -> None:
        require(isinstance(unet, nn.Module), "unet", type(unet).__name__, "a network (torch.nn.Module)", "pipe.unet")
        self.unet, self.hooks, self.rows = unet, check_hooks(list(hooks)), tuple(Row(*row) for row in rows)
        require(len(set(self.rows)) == len(self.rows), "rows", self.rows, "blocks that differ")
        if self.rows:
            check_branches(self.hooks, tuple(dict.fromkeys(row.branch for row in self.rows)))
        self.sites: dict[str, Site] = sites(unet)
        self.wanted = {s.name: [h for h in self.hooks if h.selects(s)] for s in self.sites.values()}
        self.wanted = {name: chosen for name, chosen in self.wanted.items() if chosen}
        for hook in self.hooks:
            chosen = getattr(hook, "choose", None) or getattr(getattr(hook, "energy", None), "selects", None)
            there = [site.name for site in self.sites.values()]
            for name in sorted(getattr(chosen, "names", frozenset()).difference(there)):
                near = difflib.get_close_matches(name, there, n=1, cutoff=0.0)
                raise BadInput("sites", repr(name), "the name of an attention site of this network", "".join(map(repr, near)))
        known = {name for name, _ in unet.named_modules()}
        self.paths: dict[str, list[Hook]] = {}
        for hook in self.hooks:
            for path in hook.modules:
                if path not in known:
                    raise BadInput("modules", repr(path), "the path of a module of this network", "'mid_block'")
                self.paths.setdefault(path, []).append(hook)
        self.calls = 0
        self.context: StepContext | None = None  # set by the loop; else made from the call itself
        self._own = True
        self._ran: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """True where some hook wants something inside this network."""
        return bool(self.wanted or self.paths)

    def __enter__(self) -> Tap:
        self._before: dict[str, Any] = {}
        self._handles: list[Any] = []
        compiler = "torch._dynamo" in sys.modules  # nothing is compiled before it is there, and it takes a second to import
        self._plainly: AbstractContextManager[object] = torch.compiler.set_stance("force_eager") if compiler else nullcontext()
        self._plainly.__enter__()
        try:
            for name in self.wanted:
                module = self.unet.get_submodule(name)
                before = module.processor
                if isinstance(before, ExplicitAttnProcessor):
                    raise RuntimeError(f"Tap: another tap holds {name} already; give all hooks to one tap or to one run")
                require(
                    type(before).__name__ in KNOWN,
                    "unet",
                    f"a {type(before).__name__} at {name}",
                    f"one of {', '.join(KNOWN[:2])}",
                    "unet.set_default_attn_processor()",
                )
                self._before[name] = before
                module.processor = ExplicitAttnProcessor(lambda q, k, v, plain, name=name: self._attend(name, q, k, v, plain))
            for path in self.paths:
                module = self.unet.get_submodule(path)
                self._handles.append(
                    module.register_forward_hook(
                        lambda m, args, kwargs, out, path=path: self._module(path, m, args, kwargs, out), with_kwargs=True
                    )
                )
            self._handles.append(self.unet.register_forward_pre_hook(self._begin, with_kwargs=True))
            self._handles.append(self.unet.register_forward_hook(self._end))
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._restore()
        if kind is None and self and not self.calls:
            raise RuntimeError("Tap: the network never ran inside this tap; is it around another U-Net than the one that runs?")

    def _restore(self) -> None:
        for name, processor in self._before.items():
            self.unet.get_submodule(name).processor = processor
        for handle in self._handles:
            handle.remove()
        self._before, self._handles = {}, []
        self._plainly.__exit__(None, None, None)

    def _begin(self, _: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        self.calls += 1
        self._ran.clear()
        if self._own:
            x = args[0] if args else kwargs["sample"]
            t = args[1] if len(args) > 1 else kwargs.get("timestep", -1)
            blocks = max(len(self.rows), 1)
            require(len(x) % blocks == 0, "rows", f"{len(self.rows)} blocks", f"a number that divides the batch of {len(x)} rows")
            level = float(torch.as_tensor(t, dtype=torch.float64).flatten()[0])
            self.context = StepContext(
                self.calls - 1, 0, level, -1, float("nan"), float("nan"), tuple(x.shape[-2:]), len(x) // blocks, self.rows
            )

    def _end(self, *_: object) -> None:
        missed = [name for name in (*self.wanted, *self.paths) if self._ran[name] != 1]
        if missed:
            raise RuntimeError(
                f"Tap: {', '.join(f'{name} ran {self._ran[name]} times' for name in missed[:3])} in one call of the "
                "network; each must run exactly once (a module whose forward is bypassed never shows its output)"
            )

    def within(self, context: StepContext) -> Tap:
        """The same tap for one call of a loop that knows where it is."""
        self._own, self.context = False, context
        return self

    def _attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, plain: Any) -> Tensor:
        self._ran[name] += 1
        site, ctx = self.sites[name], self.context
        hooks = [h for h in self.wanted[name] if self._own or h.active(ctx)]
        readers = [h for h in hooks if type(h).on_probs is not Hook.on_probs]

        def change(probs: Tensor) -> Tensor:
            for h in readers:
                changed = h.on_probs(site, probs, ctx)
                probs = probs if changed is None else changed
            return probs

        def level(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if i == len(hooks):
                return plain(q, k, v, change if readers else None)
            out = hooks[i].attend(site, q, k, v, ctx, lambda q, k, v: level(i + 1, q, k, v))
            return level(i + 1, q, k, v) if out is None else out

        return level(0, q, k, v)

    def _module(self, path: str, module: nn.Module, args: tuple, kwargs: Mapping[str, Any], out: Any) -> Any:
        self._ran[path] += 1
        inputs = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        for h in self.paths[path]:
            if self._own or h.active(self.context):
                changed = h.on_module(path, out, self.context, inputs)
                if changed is not None:
                    same = not isinstance(out, Tensor) or (isinstance(changed, Tensor) and changed.shape == out.shape)
                    require(
                        same,
                        "on_module",
                        getattr(changed, "shape", type(changed).__name__),
                        f"what {path} returned: {tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}",
                    )
                    out = changed
        return out
