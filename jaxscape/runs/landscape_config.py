"""What a measurement of the landscape is asked: frozen records, one a stage, as in `jaxscape.runs.config`.

Nothing here needs more than the standard library and tyro, so that `--help` need not wait for jax.
"""

from dataclasses import dataclass
from typing import Literal

# What a surface's plane may be along, in words.
PLANES = {
    "filter": "filter-normalised random directions from the minimum",
    "trajectory": "the leading principal axes of the trajectories",
}
# The ways between two minima, in words.
WAYS = {"straight": "straight line", "matched": "straight line, units matched", "curve": "curve"}
# What is asked of the data -> `split` of the functions of `jaxscape.landscape`.
SPLITS = {"train": "train", "test": "test", "evaluate": None}


@dataclass(frozen=True)
class MeasurementSettings:
    """How the loss is measured."""

    split: Literal["train", "test", "evaluate"] = "train"
    """The data: train or test, without augmentation; evaluate takes what the problem's own evaluate gives."""
    batch_size: int = 1000
    """Examples a batch; the result does not depend on it, but for rounding."""
    strategy: str | None = None
    """How networks are evaluated together: loop, threads, threads:4, vmap or vmap:8; by default threads on a CPU, vmap
    on a GPU or TPU."""


@dataclass(frozen=True)
class SurfaceConfig(MeasurementSettings):
    """What is asked of a surface."""

    plane: Literal["filter", "trajectory"] = "filter"
    """filter: along filter-normalised random directions from the minimum; trajectory: along the leading principal axes
    of the trajectories, which are drawn on it."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the directions of filter: two, or one for a line."""
    axes: tuple[int, ...] = (0, 1)
    """Which principal axes of trajectory: two, or one for a line; 0 is the leading one."""
    extent: float | None = None
    """How far it reaches: of filter in norms of the filters, 1 by default; of trajectory beyond the points, as a share
    of their range, 0.25 by default."""
    points: int = 25
    """Points a side."""
    statistics: Literal["recalibrated", "kept"] = "recalibrated"
    """Batch norm's running statistics: measured anew at each point, or those of the minimum kept."""
    every: int = 5
    """Evaluate every that many snapshots of the trajectories; the others are drawn without their loss."""

    @property
    def reach(self) -> float:
        """How far it reaches."""
        return (1.0 if self.plane == "filter" else 0.25) if self.extent is None else self.extent

    @property
    def name(self) -> str:
        """The setting as the name of its folder, such as "filter-seed0+1-25-train"."""
        filters = self.plane == "filter"
        along = ("seed" if filters else "axis") + "+".join(map(str, self.seeds if filters else self.axes))
        parts = [self.plane, along, f"{self.points}", self.split]
        parts += [f"extent{self.extent:g}"] if self.extent is not None else []
        parts += [self.statistics] if self.statistics != "recalibrated" else []
        parts += [f"every{self.every}"] if not filters and self.every != 5 else []
        return "-".join(parts)


@dataclass(frozen=True)
class PathConfig(MeasurementSettings):
    """What is asked of the way between two minima."""

    kind: Literal["bezier", "polygon"] = "bezier"
    """The curve: bezier, or polygon, straight from bend to bend."""
    bends: int = 1
    """How many points between the ends are trained."""
    epochs: int = 50
    """Epochs to train the curve for."""
    learning_rate: float = 0.01
    """Of Adam at first, falling to 0 by half a cosine; constant where the data are no arrays, whose steps nobody
    knows before."""
    train_batch: int | None = None
    """Examples a step of the curve's training; by default as many as the minimum was found with, or all of fewer."""
    match: bool = True
    """Put the units of the second network in the order nearest to the first one's before the straight line is drawn;
    for the built-in network."""
    seed: int = 0
    """Of the curve's places and batches, and of the matching."""
    points: int = 31
    """Points along each way."""

    @property
    def name(self) -> str:
        """The setting as the end of the name of its folder."""
        parts = [self.kind, f"bends{self.bends}", f"epochs{self.epochs}", f"{self.points}", self.split]
        parts += [f"lr{self.learning_rate:g}"] if self.learning_rate != 0.01 else []
        parts += [f"batch{self.train_batch}"] if self.train_batch is not None else []
        parts += ["unmatched"] if not self.match else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)


@dataclass(frozen=True)
class CurvatureConfig(MeasurementSettings):
    """What is asked of the curvature at a minimum."""

    matrix: Literal["hessian", "gauss_newton"] = "hessian"
    """Whose spectrum it is."""
    k: int = 5
    """How many of the largest eigenvalues."""
    steps: int = 40
    """Steps of Lanczos."""
    probes: int = 4
    """Random vectors, for the density and the trace."""
    leaves: tuple[str, ...] = ()
    """Parameters to take, by patterns of their names such as group1*; all by default."""
    at: Literal["minimum", "starts", "ends"] = "minimum"
    """Where: at the minimum; or also at every copy's start, or every copy's end."""
    seed: int = 0
    """Of the random vectors."""

    @property
    def name(self) -> str:
        """The setting as the name of its folder."""
        parts = [self.matrix.replace("_", "-"), self.at, self.split, f"k{self.k}"]
        parts += [f"steps{self.steps}"] if self.steps != 40 else []
        parts += [f"probes{self.probes}"] if self.probes != 4 else []
        parts += ["+".join(leaf.replace("/", "_").replace("*", "x") for leaf in self.leaves)] if self.leaves else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)
