"""Configurations of the measurements of the landscape: one frozen record per stage, as in `jaxscape.runs.config`.

This module imports only the standard library, so that `--help` does not wait for jax.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Kinds of planes -> their descriptions in captions.
PLANES = {
    "filter": "filter-normalised random directions from the minimum",
    "trajectory": "the leading principal axes of the trajectories",
}
# Kinds of paths between two minima -> their descriptions in captions.
WAYS = {"straight": "straight line", "matched": "straight line, units matched", "curve": "curve"}
# The setting `split` -> the argument `split` of the functions of `jaxscape.landscape`.
SPLITS = {"train": "train", "test": "test", "evaluate": None}


def describe_mode(record: Mapping[str, Any]) -> str:
    """Describe from the record of a measurement how the network ran; "" for a record that does not say it.

    Records of version 0.1 have no mode, but those of training mode with running statistics say it by their statistics.
    """
    batch = record.get("statistics") == "batch"
    match record.get("mode", "train" if batch else None):
        case "evaluate":
            return "evaluation mode"
        case "function":
            return "values of the problem's evaluate"
        case "train" if record.get("fixed_key"):
            return "training mode, one draw of dropout and augmentation"
        case "train":
            return "training mode" if batch else "loss of training, which draws no random numbers"
    return ""


@dataclass(frozen=True)
class MeasurementSettings:
    """Settings of every measurement of the loss."""

    split: Literal["train", "test", "evaluate"] = "train"
    """Data to evaluate on: train or test, without augmentation; evaluate uses the problem's own evaluate function."""
    batch_size: int = 1000
    """Examples per batch; it changes the result only by rounding."""
    strategy: str | None = None
    """Execution strategy for evaluating networks: loop, threads, threads:4, vmap or vmap:8; by default threads on a
    CPU, vmap on a GPU or TPU."""


@dataclass(frozen=True)
class SurfaceConfig(MeasurementSettings):
    """Settings of a surface: the loss on a plane or a line."""

    plane: Literal["filter", "trajectory"] = "filter"
    """filter: spanned by filter-normalised random directions from the minimum; trajectory: spanned by the leading
    principal axes of the trajectories, which are projected onto it."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the directions of a filter plane: two, or one for a line."""
    axes: tuple[int, ...] = (0, 1)
    """Principal axes of a trajectory plane: two, or one for a line; 0 is the leading one."""
    extent: float | None = None
    """Extent of the surface. For filter: in filter norms, 1 by default; for trajectory: margin beyond the points, as a
    fraction of their range, 0.25 by default."""
    points: int = 25
    """Grid points per side."""
    statistics: Literal["recalibrated", "kept"] = "recalibrated"
    """Running statistics of batch norm: recalibrated at each point, or kept from the minimum."""
    every: int = 5
    """Evaluate the loss at every n-th snapshot of the trajectories; the others are drawn without a loss."""

    @property
    def reach(self) -> float:
        """The extent, or its default."""
        return (1.0 if self.plane == "filter" else 0.25) if self.extent is None else self.extent

    @property
    def name(self) -> str:
        """The settings as a folder name, such as "filter-seed0+1-25-train"."""
        filters = self.plane == "filter"
        along = ("seed" if filters else "axis") + "+".join(map(str, self.seeds if filters else self.axes))
        parts = [self.plane, along, f"{self.points}", self.split]
        parts += [f"extent{self.extent:g}"] if self.extent is not None else []
        parts += [self.statistics] if self.statistics != "recalibrated" else []
        parts += [f"every{self.every}"] if not filters and self.every != 5 else []
        return "-".join(parts)


@dataclass(frozen=True)
class PathConfig(MeasurementSettings):
    """Settings of the paths between two minima."""

    kind: Literal["bezier", "polygon"] = "bezier"
    """The curve: bezier, or polygon (piecewise linear)."""
    bends: int = 1
    """Number of trained control points between the two minima."""
    epochs: int = 50
    """Epochs to train the curve for."""
    learning_rate: float = 0.01
    """Initial learning rate of Adam, decaying to 0 along a half cosine; constant if the data are not arrays, because
    the number of steps is then unknown."""
    train_batch: int | None = None
    """Examples per step of the curve's training; by default the batch size of the minimum, or all examples if there
    are fewer."""
    match: bool = True
    """Also permute the units of the second network to match those of the first before measuring the straight line; for
    the built-in network."""
    seed: int = 0
    """Seed of the sampled points and batches of the curve, and of the matching."""
    points: int = 31
    """Points along each path."""

    @property
    def name(self) -> str:
        """The settings as the end of a folder name."""
        parts = [self.kind, f"bends{self.bends}", f"epochs{self.epochs}", f"{self.points}", self.split]
        parts += [f"lr{self.learning_rate:g}"] if self.learning_rate != 0.01 else []
        parts += [f"batch{self.train_batch}"] if self.train_batch is not None else []
        parts += ["unmatched"] if not self.match else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)


@dataclass(frozen=True)
class CurvatureConfig(MeasurementSettings):
    """Settings of the curvature at a minimum."""

    matrix: Literal["hessian", "gauss_newton"] = "hessian"
    """Matrix whose spectrum is measured."""
    k: int = 5
    """Number of largest eigenvalues."""
    steps: int = 40
    """Lanczos steps."""
    probes: int = 4
    """Random probe vectors for the density and the trace."""
    leaves: tuple[str, ...] = ()
    """Restrict to the parameters whose names match these patterns, such as group1*; all by default."""
    at: Literal["minimum", "starts", "ends"] = "minimum"
    """Where to measure: at the minimum only; or also at the start, or at the end, of every copy."""
    seed: int = 0
    """Seed of the probe vectors."""

    @property
    def name(self) -> str:
        """The settings as a folder name."""
        parts = [self.matrix.replace("_", "-"), self.at, self.split, f"k{self.k}"]
        parts += [f"steps{self.steps}"] if self.steps != 40 else []
        parts += [f"probes{self.probes}"] if self.probes != 4 else []
        parts += ["+".join(leaf.replace("/", "_").replace("*", "x") for leaf in self.leaves)] if self.leaves else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)
