"""The console's lines of an epoch."""

from __future__ import annotations

from core.console import wrap_items
from core.figures import format_figure
from core.i18n import tr
from core.reporting import notify
from core.safety.terminal import escape_line
from segmentation.means import format_mean
from train.base_train import EpochResult


def report_epoch(label: str, result: EpochResult) -> None:
    """Report the loss and speed of an epoch, and its metrics and each class's IoU if it was measured on val.

    '*' marks the best so far.
    """
    v = result.validation
    if v is None:
        notify(
            tr(
                "{epoch}  train loss {train_loss:.4f}  {speed:.1f} images/s",
                epoch=label,
                train_loss=result.train_loss,
                speed=result.images_per_second,
            )
        )
        return
    notify(
        tr(
            "{epoch}  loss {train_loss:.4f}, val {val_loss:.4f}  accuracy {accuracy:.4f}  mIoU {miou}{mark}  "
            "{speed:.1f} images/s",
            epoch=label,
            train_loss=result.train_loss,
            val_loss=v.loss,
            accuracy=v.accuracy,
            miou=format_mean(v.miou, v.coverage),
            mark="*" if result.best else " ",
            speed=result.images_per_second,
        )
    )
    absent = tr("absent")
    classes = [escape_line(f"{name} {absent if iou is None else format_figure(iou)}") for name, iou in v.iou.items()]
    notify(wrap_items(classes, "    IoU  "))
