"""Make the W&B workspace of a project: python -m uedpo.dashboard entity=TEAM [project=uedpo]

Needs `pip install 'uedpo[wandb]'` and a W&B key. Each call saves a new view; the runs are not touched.
"""

from __future__ import annotations

from typing import Any

from uedpo.errors import InputError
from uedpo.evaluation.options import command
from uedpo.logger import STEP
from uedpo.runtime.say import say

# section -> (title of a panel, metrics)
SECTIONS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "Training": [
        ("Loss", ("train/loss", "val/loss")),
        ("Margin", ("train/margin", "val/margin")),
        ("Accuracy", ("train/accuracy", "val/accuracy")),
        ("Log-ratio to the reference (nats)", ("train/log_ratio_chosen", "train/log_ratio_rejected")),
    ],
    "Token weights": [
        ("Mean lambda", ("weights/chosen", "weights/rejected")),
        ("Share of reweighted tokens", ("weights/reweighted",)),
        ("Share of selected chosen tokens with u = 0", ("weights/zero_uncertainty",)),
        ("Mean u", ("signals/uncertainty_chosen", "signals/uncertainty_rejected")),
        ("Mean Delta", ("signals/sensitivity_chosen", "signals/sensitivity_rejected")),
    ],
    "Speed": [
        ("Pairs per second", ("perf/pairs_per_second",)),
        ("Share of time waiting for data", ("perf/data_wait",)),
    ],
}
FINAL = ("chair_i", "chair_s", "coverage", "small_coverage", "attribute_accuracy")


def workspace(entity: str, project: str) -> Any:
    """The wandb_workspaces.Workspace, not saved yet.

    Raises:
        InputError: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2
    except ImportError:
        raise InputError("wandb-workspaces is not installed; pip install 'uedpo[wandb]'") from None
    wr: Any = v2  # its names are not declared as exports

    sections = [
        ws.Section(
            name=name,
            panels=[wr.LinePlot(title=title, x=STEP, y=list(metrics)) for title, metrics in panels],
            is_open=True,
        )
        for name, panels in SECTIONS.items()
    ]
    final = [f"eval/shift/{metric}" for metric in FINAL]
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in ("method", "seed", "optim.lr")]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(metric)) for metric in final]
    evaluation = ws.Section(
        name="Evaluation",
        panels=[
            *(wr.BarPlot(title=metric, metrics=[metric], groupby=wr.Config("method")) for metric in final),
            wr.ParallelCoordinatesPlot(title="Settings and results", columns=columns),
        ],
        is_open=True,
    )
    media = wr.MediaBrowser(
        media_keys=["signals/u_chosen", "signals/delta_chosen", "weights/lambda_chosen", "eval/samples"]
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name="uedpo",
        sections=[
            *sections,
            evaluation,
            ws.Section(name="Histograms and samples", panels=[media], is_open=True),
        ],
    )


def make_dashboard(entity: str, project: str = "uedpo") -> int:
    """Save the workspace and print its address."""
    made = workspace(entity, project)
    try:
        made.save()
    except Exception as error:  # the library passes on whatever its HTTP client raises
        line = str(error).strip().splitlines()[:1]
        raise InputError(
            f"entity={entity} project={project}: W&B did not take it ({' '.join(line)}); check the key with "
            "`wandb login --verify`, and that a run was synced to the project"
        ) from None
    say(f"dashboard: {made.url}")
    return 0


if __name__ == "__main__":
    command(make_dashboard)
