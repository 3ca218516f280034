"""Networks of many families with random weights."""

from __future__ import annotations

import timm
import torch

from anomscan.adapt.backbones import Backbone
from anomscan.network.network import BackboneInfo
from anomscan.types import Preprocessing


def random_backbone(name: str, size: int) -> Backbone:
    """A timm model without its classifier, for square images of ``size`` pixels."""
    torch.manual_seed(0)
    fixed = {"img_size": size} if "vit" in name else {}
    model = timm.create_model(name, num_classes=0, **fixed).eval()
    info = model.feature_info
    stages = tuple((e["module"], e["reduction"]) for e in (info.info if hasattr(info, "info") else info))
    preprocessing = Preprocessing(size, size, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return Backbone(model, None, stages, preprocessing, BackboneInfo(name, "random", "", model.num_features))
