"""jaxscape: loss landscapes as training meets them.

Copies of a trained network are perturbed, retrained all at once, and recorded: their parameters go to a store, exact
distances and geometry are computed from it, and an embedding draws them. This file is the table of contents, in the
order in which data pass through the package; every name can be used alone, on your own pytrees and arrays.

Names are loaded when they are first used, so that a part of the package costs the import of that part alone.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

_CONTENTS = {
    "problem": ("Problem",),
    "tasks.data": ("Dataset", "corrupt_labels", "load_dataset", "pair_images", "take_training"),
    "tasks.models": ("WideResNet", "wide_resnet_axes"),
    "tasks.classification": ("flax_evaluate", "flax_loss"),
    "tasks.flax": ("flax_problem",),
    "tasks.nnx": ("nnx_problem",),
    "tasks.equinox": ("equinox_problem",),
    "training.batches": ("SharedBatches", "batches_for_each"),
    "training.optimizers": ("decay_factors", "make_optimizer", "step_decay"),
    "training.train": ("Epoch", "TrainState", "concatenate_states", "init_states", "train"),
    "jumps.directions": (
        "JumpGrid",
        "filter_normalize",
        "filter_normalized_distance",
        "jump",
        "jump_grid",
        "random_direction",
    ),
    "jumps.scale_free": ("ScaleFree", "scale_free"),
    "jumps.retrain": ("retrain", "start_states"),
    "curvature.products": ("gauss_newton", "hessian", "hvp"),
    "curvature.spectrum": ("hessian_spectrum", "spectral_density"),
    "curvature.traces": ("trace",),
    "curvature.sharpness": ("sharpness",),
    "curvature.margins": ("margins", "norms", "path_norm"),
    "trajectories.store": ("TrajectoryStore",),
    "trajectories.gram": ("IncrementGram", "gram"),
    "trajectories.distances": ("pairwise_distances",),
    "trajectories.geometry": ("Departure", "Geometry", "trajectory_departure", "trajectory_geometry"),
    "trajectories.drift": ("Drift", "drift"),
    "trajectories.null": ("Split", "null_trajectories", "split_displacements"),
    "trajectories.checkpoints": ("import_checkpoints",),
    "landscape.points": ("evaluate_networks", "evaluate_points"),
    "landscape.planes": (
        "Plane",
        "filter_plane",
        "plane",
        "plane_point",
        "plane_weights",
        "principal_shares",
        "random_walk_shares",
        "trajectory_plane",
    ),
    "landscape.lines": ("Barrier", "Line", "barrier", "line", "line_barrier"),
    "landscape.surfaces": ("Surface", "surface"),
    "landscape.projections": ("Projection", "TrajectoryOnPlane", "project_on_plane", "trajectory_on_plane"),
    "landscape.paths": ("Curve", "PathProfile", "connect", "connect_epochs", "path_profile"),
    "landscape.matching": ("Matching", "array_names", "match_units", "permute_units"),
    "embedding.phate": ("PhateResult", "phate", "project"),
    "embedding.baselines": ("Embedding", "pca", "random_plane", "tsne", "umap"),
    "embedding.fidelity": ("Fidelity", "fidelity"),
    "embedding.mds": ("mds",),
    "embedding.measures": (
        "degeneracy",
        "demap",
        "procrustes_disparity",
        "radial_trend",
        "rank_correlation",
        "successor_rank",
    ),
    "embedding.tree": ("Tree", "artificial_tree", "count_noise"),
    "topology.domain": ("NeighbourGraph", "neighbour_graph"),
    "topology.persistence": ("Persistence", "persistence"),
    "topology.tree": ("MergeTree", "merge_tree"),
    "topology.null": ("PersistenceNull", "persistence_null"),
    "generalization.rank": (
        "GranulatedTau",
        "StratifiedTau",
        "adjusted_tau",
        "factor_cells",
        "granulated_tau",
        "kendall_tau",
        "partial_tau",
        "stratified_tau",
    ),
    "generalization.information": ("ConditionalInformation", "conditional_information"),
    "generalization.environments": ("SignError", "SignErrorEnvironment", "sign_error"),
    "generalization.selection": ("Regret", "hit_rate", "regret"),
    "generalization.resampling": (
        "Bootstrap",
        "LeaveOneOut",
        "PermutationTest",
        "bootstrap",
        "leave_one_out",
        "permutation_test",
    ),
    "generalization.inference": (
        "Equivalence",
        "MeanInterval",
        "equivalence_test",
        "holm",
        "mean_interval",
        "mean_test",
        "sign_flip_test",
    ),
    "generalization.verdicts": ("Verdict", "holm_verdicts", "judge_claim", "judge_intervals"),
    "runs.run": ("Run",),
}
_ROOMS = ("figures", "report")  # whose names are their own
# Former name -> new name. A former name works for one version, with a DeprecationWarning.
_RENAMED = {"Gram": "IncrementGram", "continuity": "successor_rank"}
_ROOM_OF = {name: module for module, names in _CONTENTS.items() for name in names}

if TYPE_CHECKING:  # the same for type checkers and editors; a test holds the two together
    from jaxscape.curvature.margins import margins, norms, path_norm
    from jaxscape.curvature.products import gauss_newton, hessian, hvp
    from jaxscape.curvature.sharpness import sharpness
    from jaxscape.curvature.spectrum import hessian_spectrum, spectral_density
    from jaxscape.curvature.traces import trace
    from jaxscape.embedding.baselines import Embedding, pca, random_plane, tsne, umap
    from jaxscape.embedding.fidelity import Fidelity, fidelity
    from jaxscape.embedding.mds import mds
    from jaxscape.embedding.measures import (
        degeneracy,
        demap,
        procrustes_disparity,
        radial_trend,
        rank_correlation,
        successor_rank,
    )
    from jaxscape.embedding.phate import PhateResult, phate, project
    from jaxscape.embedding.tree import Tree, artificial_tree, count_noise
    from jaxscape.generalization.environments import SignError, SignErrorEnvironment, sign_error
    from jaxscape.generalization.inference import (
        Equivalence,
        MeanInterval,
        equivalence_test,
        holm,
        mean_interval,
        mean_test,
        sign_flip_test,
    )
    from jaxscape.generalization.information import ConditionalInformation, conditional_information
    from jaxscape.generalization.rank import (
        GranulatedTau,
        StratifiedTau,
        adjusted_tau,
        factor_cells,
        granulated_tau,
        kendall_tau,
        partial_tau,
        stratified_tau,
    )
    from jaxscape.generalization.resampling import (
        Bootstrap,
        LeaveOneOut,
        PermutationTest,
        bootstrap,
        leave_one_out,
        permutation_test,
    )
    from jaxscape.generalization.selection import Regret, hit_rate, regret
    from jaxscape.generalization.verdicts import Verdict, holm_verdicts, judge_claim, judge_intervals
    from jaxscape.jumps.directions import (
        JumpGrid,
        filter_normalize,
        filter_normalized_distance,
        jump,
        jump_grid,
        random_direction,
    )
    from jaxscape.jumps.retrain import retrain, start_states
    from jaxscape.jumps.scale_free import ScaleFree, scale_free
    from jaxscape.landscape.lines import Barrier, Line, barrier, line, line_barrier
    from jaxscape.landscape.matching import Matching, array_names, match_units, permute_units
    from jaxscape.landscape.paths import Curve, PathProfile, connect, connect_epochs, path_profile
    from jaxscape.landscape.planes import (
        Plane,
        filter_plane,
        plane,
        plane_point,
        plane_weights,
        principal_shares,
        random_walk_shares,
        trajectory_plane,
    )
    from jaxscape.landscape.points import evaluate_networks, evaluate_points
    from jaxscape.landscape.projections import Projection, TrajectoryOnPlane, project_on_plane, trajectory_on_plane
    from jaxscape.landscape.surfaces import Surface, surface
    from jaxscape.problem import Problem
    from jaxscape.runs.run import Run
    from jaxscape.tasks.classification import flax_evaluate, flax_loss
    from jaxscape.tasks.data import Dataset, corrupt_labels, load_dataset, pair_images, take_training
    from jaxscape.tasks.equinox import equinox_problem
    from jaxscape.tasks.flax import flax_problem
    from jaxscape.tasks.models import WideResNet, wide_resnet_axes
    from jaxscape.tasks.nnx import nnx_problem
    from jaxscape.topology.domain import NeighbourGraph, neighbour_graph
    from jaxscape.topology.null import PersistenceNull, persistence_null
    from jaxscape.topology.persistence import Persistence, persistence
    from jaxscape.topology.tree import MergeTree, merge_tree
    from jaxscape.training.batches import SharedBatches, batches_for_each
    from jaxscape.training.optimizers import decay_factors, make_optimizer, step_decay
    from jaxscape.training.train import Epoch, TrainState, concatenate_states, init_states, train
    from jaxscape.trajectories.checkpoints import import_checkpoints
    from jaxscape.trajectories.distances import pairwise_distances
    from jaxscape.trajectories.drift import Drift, drift
    from jaxscape.trajectories.geometry import Departure, Geometry, trajectory_departure, trajectory_geometry
    from jaxscape.trajectories.gram import IncrementGram, gram
    from jaxscape.trajectories.null import Split, null_trajectories, split_displacements
    from jaxscape.trajectories.store import TrajectoryStore

__all__ = [
    "Barrier",
    "Bootstrap",
    "ConditionalInformation",
    "Curve",
    "Dataset",
    "Departure",
    "Drift",
    "Embedding",
    "Epoch",
    "Equivalence",
    "Fidelity",
    "Geometry",
    "GranulatedTau",
    "IncrementGram",
    "JumpGrid",
    "LeaveOneOut",
    "Line",
    "Matching",
    "MeanInterval",
    "MergeTree",
    "NeighbourGraph",
    "PathProfile",
    "PermutationTest",
    "Persistence",
    "PersistenceNull",
    "PhateResult",
    "Plane",
    "Problem",
    "Projection",
    "Regret",
    "Run",
    "ScaleFree",
    "SharedBatches",
    "SignError",
    "SignErrorEnvironment",
    "Split",
    "StratifiedTau",
    "Surface",
    "TrainState",
    "TrajectoryOnPlane",
    "TrajectoryStore",
    "Tree",
    "Verdict",
    "WideResNet",
    "adjusted_tau",
    "array_names",
    "artificial_tree",
    "barrier",
    "batches_for_each",
    "bootstrap",
    "concatenate_states",
    "conditional_information",
    "connect",
    "connect_epochs",
    "corrupt_labels",
    "count_noise",
    "decay_factors",
    "degeneracy",
    "demap",
    "drift",
    "equinox_problem",
    "equivalence_test",
    "evaluate_networks",
    "evaluate_points",
    "factor_cells",
    "fidelity",
    "filter_normalize",
    "filter_normalized_distance",
    "filter_plane",
    "flax_evaluate",
    "flax_loss",
    "flax_problem",
    "gauss_newton",
    "gram",
    "granulated_tau",
    "hessian",
    "hessian_spectrum",
    "hit_rate",
    "holm",
    "holm_verdicts",
    "hvp",
    "import_checkpoints",
    "init_states",
    "judge_claim",
    "judge_intervals",
    "jump",
    "jump_grid",
    "kendall_tau",
    "leave_one_out",
    "line",
    "line_barrier",
    "load_dataset",
    "make_optimizer",
    "margins",
    "match_units",
    "mds",
    "mean_interval",
    "mean_test",
    "merge_tree",
    "neighbour_graph",
    "nnx_problem",
    "norms",
    "null_trajectories",
    "pair_images",
    "pairwise_distances",
    "partial_tau",
    "path_norm",
    "path_profile",
    "pca",
    "permutation_test",
    "permute_units",
    "persistence",
    "persistence_null",
    "phate",
    "plane",
    "plane_point",
    "plane_weights",
    "principal_shares",
    "procrustes_disparity",
    "project",
    "project_on_plane",
    "radial_trend",
    "random_direction",
    "random_plane",
    "random_walk_shares",
    "rank_correlation",
    "regret",
    "retrain",
    "scale_free",
    "sharpness",
    "sign_error",
    "sign_flip_test",
    "spectral_density",
    "split_displacements",
    "start_states",
    "step_decay",
    "stratified_tau",
    "successor_rank",
    "surface",
    "take_training",
    "trace",
    "train",
    "trajectory_departure",
    "trajectory_geometry",
    "trajectory_on_plane",
    "trajectory_plane",
    "tsne",
    "umap",
    "wide_resnet_axes",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"jaxscape.{name}")
    if name in _RENAMED:
        warnings.warn(
            f"jaxscape.{name} is now jaxscape.{_RENAMED[name]}; the former name will be removed in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        name = _RENAMED[name]
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'jaxscape' has no attribute {name!r}")
    return getattr(import_module(f"jaxscape.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ROOMS])
