"""Which part of a backbone learns: everything before it is frozen and runs once an image.

Each function splits a backbone into ``(trunk, tail)`` with ``tail(trunk(x))`` equal to the whole before
training. Parameters are shared with the backbone under their timm names; those that learn require
gradients. Both stay in evaluation mode: batch norm keeps the pretrained statistics.
"""

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


def last_stages(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """Split a backbone into a frozen trunk and a trainable tail, its last stages.

    In a network of decreasing resolution the tail is what works at a stride of 16 or more (blocks 3 and
    4 of a ResNet, PANDA sec. 4.2.2 and tab. 5); in one of constant resolution, such as a plain ViT, the
    last quarter of the blocks.

    Raises:
        UsageError: the network cannot be cut there into two parts joined by one tensor.
    """
    cut = cut_for_tail(backbone.stages)
    trunk, tail = split(backbone.model, cut)
    tail.requires_grad_(True)
    return trunk, tail


def last_stage(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """The same, but only the very last stage and the head learn: little, quickly, with little to lose."""
    names, _ = deep_stages(backbone)
    trunk, tail = split(backbone.model, names[-2] if len(names) > 1 else cut_for_tail(backbone.stages))
    tail.requires_grad_(True)
    return trunk, tail


def everything(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """All parameters learn; the trunk passes the normalised pixels on."""
    backbone.model.requires_grad_(True)
    return nn.Identity(), backbone.model


def residual_adapters(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """Only 1x1 convolutions beside the frozen spatial ones learn, and begin at zero.

    ADRA, Transfer-Based Semantic AD, eq. 3.

    Raises:
        UsageError: the network has no spatial convolution that keeps its input's extent.
    """
    model = backbone.model
    adapted = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and _keeps_extent(module)
    ]
    if not adapted:
        raise UsageError(f"{backbone.info.name} has no 3x3 convolutions to adapt beside")
    for name, module in adapted:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, AdaptedConvolution(module))
    return nn.Identity(), model


class AdaptedConvolution(nn.Module):
    """f_0(x) + V x: a frozen convolution and a 1x1 convolution V of the same stride, which learns.

    V sees every stride-th pixel: that is the same, and a 1x1 convolution of stride 2 on the 3 channels of an
    image overruns its memory in torch 2.14 (oneDNN, weights' gradient, channels last).
    """

    def __init__(self, frozen: nn.Conv2d) -> None:
        super().__init__()
        self.frozen = frozen
        self.adapter = nn.Conv2d(frozen.in_channels, frozen.out_channels, 1, bias=False)
        nn.init.zeros_(self.adapter.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to what the frozen convolution gives, plus the correction."""
        rows, columns = self.frozen.stride
        output: Tensor = self.frozen(x) + self.adapter(x[:, :, ::rows, ::columns])
        return output


def _keeps_extent(convolution: nn.Conv2d) -> bool:
    """Whether the output is as large as the input divided by the stride, rounded up."""
    if type(convolution) is not nn.Conv2d:  # timm's Conv2dSame pads by itself
        return True
    kernel, padding, dilation = convolution.kernel_size, convolution.padding, convolution.dilation
    if isinstance(padding, str):
        return padding == "same"
    return all(2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True))


TRAINABLES = {
    "last stages": last_stages,
    "last stage": last_stage,
    "all": everything,
    "adapters": residual_adapters,
}


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
