"""``anomscan calibrate``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, Exclude, GroupBy, ModelFolder, Wait


def calibrate(
    normal: Annotated[str, typer.Argument(metavar="OTHER_NORMALS", help="Folder of other normal images.")],
    model: ModelFolder = DEFAULT_MODEL,
    group_by: GroupBy = None,
    exclude: Exclude = None,
    wait: Wait = 0.0,
) -> None:
    """Take p-values from other normals, such as another day's; index and network stay as they are."""
    from anomscan.cli.console import finish, progress_bar
    from anomscan.fit.feedback import calibrate as fit
    from anomscan.fit.normals import hold_out_rule

    rule = hold_out_rule(model, None, group_by)
    with progress_bar() as progress:
        fitted = fit(normal, model, rule.group_by, progress, wait, tuple(exclude or ()))
    finish(fitted, model)
