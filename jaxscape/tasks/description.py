"""The description of the paper's problem in captions, from its settings alone.

A separate module, since it needs neither jax nor the network: captions of finished runs are written without them.
"""

from typing import Protocol


class ImageSettings(Protocol):
    """The settings of an image classification problem that its description tells; `ImageTask` has them."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def train_size(self) -> int | None:
        """Number of training images; None takes all."""

    @property
    def images_seed(self) -> int | None:
        """Seed that draws the training images; None takes the first of each class."""

    @property
    def depth(self) -> int:
        """Depth of the network."""

    @property
    def widen_factor(self) -> int:
        """Widening factor of the network."""


def describe_images(task: ImageSettings) -> dict[str, str]:
    """Return data and model as captions for `Problem.describe`; loads nothing."""
    drawn = "" if task.images_seed is None else f", drawn with seed {task.images_seed}"
    part = f" ({task.train_size} training images{drawn})" if task.train_size else ""
    return {"data": f"{task.dataset}{part}", "model": f"WRN-{task.depth}-{task.widen_factor}"}
