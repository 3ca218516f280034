"""Where the stages of a network are, and how it is cut behind one."""

from __future__ import annotations

import re
from typing import Any

import timm.models
from torch import Tensor, fx, nn

from anomscan.adapt.backbones import Backbone
from anomscan.errors import UsageError


class _Tracer(fx.Tracer):
    """Symbolic tracing that leaves alone what timm marks as untraceable."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(timm.models.get_notrace_functions()))
        self._leaves = tuple(timm.models.get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for torch's own layers and for timm's untraceable ones."""
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)


def cut_for_tail(stages: tuple[tuple[str, int], ...]) -> str:
    """Name of the stage behind which the tail begins, see ``last_stages``."""
    fine = [name for name, stride in stages if stride <= 8]
    if fine and len(fine) < len(stages):
        return fine[-1]
    return stages[max(0, len(stages) - len(stages) // 4 - 1)][0]


def deep_stages(backbone: Backbone) -> tuple[list[str], int]:
    """Names of the stages behind the cut for the tail; position of the last one at their finest stride."""
    cut = cut_for_tail(backbone.stages)
    container = re.fullmatch(r"(.*)\.(\d+)", cut)
    strides = dict(backbone.stages)
    if container and container[1] in dict(backbone.model.named_modules()):
        children = [name for name, _ in backbone.model.get_submodule(container[1]).named_children()]
        names = [f"{container[1]}.{name}" for name in children if int(name) > int(container[2])]
    else:
        listed = [name for name, _ in backbone.stages]
        names = listed[listed.index(cut) + 1 :]
    known = [(strides[name], i) for i, name in enumerate(names) if name in strides]
    finest = min(stride for stride, _ in known)
    return names, max(i for stride, i in known if stride == finest)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model``; raises UsageError where it cannot be traced."""
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"the stages of {type(model).__name__} cannot be told apart: {error}") from error


def exposing(model: nn.Module, names: list[str], *, head: bool = True) -> fx.GraphModule:
    """The model, returning the outputs of the submodules ``names``, behind its features or alone."""
    graph = trace(model)
    nodes = [[n for n in graph.nodes if name in n.meta.get("nn_module_stack", {})][-1] for name in names]
    (output,) = [node for node in graph.nodes if node.op == "output"]
    output.args = ((*((output.args[0],) if head else ()), *nodes),)
    module = fx.GraphModule(model, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module.eval()


def channels_first(stage: Tensor) -> Tensor:
    """(N, H, W, C) of a square map to (N, C, H, W); anything else as it is."""
    if stage.ndim == 4 and stage.shape[1] == stage.shape[2] != stage.shape[3]:
        return stage.permute(0, 3, 1, 2)
    return stage


def split(model: nn.Module, after: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut ``model`` behind its submodule ``after``.

    Raises:
        UsageError: a later layer uses more than that submodule's output, or tracing fails.
    """
    graph = trace(model)
    inside = [node for node in graph.nodes if after in node.meta.get("nn_module_stack", {})]
    boundary = inside[-1]
    _, *options = [node for node in graph.nodes if node.op == "placeholder"]
    defaults = {option: option.args[0] for option in options}
    head, tail = fx.Graph(), fx.Graph()
    into_head: dict[fx.Node, Any] = dict(defaults)
    into_tail: dict[fx.Node, Any] = {**defaults, boundary: tail.placeholder("activations")}
    for node in graph.nodes:
        if node in defaults:
            continue
        if boundary not in into_head:
            into_head[node] = head.node_copy(node, into_head.__getitem__)
            continue
        missing = [source for source in node.all_input_nodes if source not in into_tail]
        if missing:
            raise UsageError(
                f"{type(model).__name__} cannot be cut behind {after}: {node} also needs {missing[0]}"
            )
        into_tail[node] = tail.node_copy(node, into_tail.__getitem__)
    head.output(into_head[boundary])
    return _module(model, head), _module(model, tail)


def _module(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(model, graph)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return module.eval()
