"""Which part of a backbone learns: everything before it is frozen and runs once an image."""

from __future__ import annotations

from typing import Any

import timm.models
from torch import fx, nn

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


def last_stages(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """Split a backbone into a frozen trunk and a trainable tail, its last stages.

    In a network of decreasing resolution the tail is what works at a stride of 16 or more (blocks 3 and
    4 of a ResNet, PANDA sec. 4.2.2 and tab. 5); in one of constant resolution, such as a plain ViT, the
    last quarter of the blocks.

    Returns:
        ``(trunk, tail)`` with ``tail(trunk(x)) == backbone.model(x)``; parameters are shared with the
        backbone under their timm names, those of the tail require gradients. Both stay in evaluation
        mode: batch norm keeps the pretrained statistics.

    Raises:
        UsageError: the network cannot be cut there into two parts joined by one tensor.
    """
    cut = _cut(backbone.stages)
    trunk, tail = split(backbone.model, cut)
    tail.requires_grad_(True)
    return trunk, tail


def _cut(stages: tuple[tuple[str, int], ...]) -> str:
    fine = [name for name, stride in stages if stride <= 8]
    if fine and len(fine) < len(stages):
        return fine[-1]
    return stages[max(0, len(stages) - len(stages) // 4 - 1)][0]


def split(model: nn.Module, after: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut ``model`` behind its submodule ``after``.

    Raises:
        UsageError: a later layer uses more than that submodule's output, or tracing fails.
    """
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{type(model).__name__} cannot be split into stages for adapting: {error}"
        ) from error
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
