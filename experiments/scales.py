"""Scales of the experiments: data sets, sizes and seeds.

--scale smoke   seconds; only for tests
--scale quick   the digits of scikit-learn; minutes on 2 cores
--scale real    a subset of Fashion-MNIST; hours on a CPU. For all of it, on a GPU: --set train.train_size=None
--scale fashion Fashion-MNIST padded to 32x32, WRN-28-2, the paper's protocol; for a GPU without CIFAR
--scale paper   CIFAR-10 and CIFAR-100, WRN-28-2, the paper's protocol
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Data sets, sizes and seeds of a scale; other settings are those of the preset."""

    dataset: str
    harder: str  # the second data set, for Fig. 5
    seeds: tuple[int, ...]  # of independent minima; none of them was used when the protocol was chosen
    train: Mapping[str, Any] = field(default_factory=dict)
    retrain: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    harder_seeds: tuple[int, ...] = (10, 11, 12)
    harder_train: Mapping[str, Any] = field(default_factory=dict)
    harder_retrain: Mapping[str, Any] = field(default_factory=dict)
    sweep_seeds: tuple[int, ...] = (10, 11, 12)
    sweep_retrain: Mapping[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001)  # of the sweep
    valley_seeds: tuple[int, ...] = (20, 21, 22, 23, 24)  # of minima with training images of their own
    valley_directions: int = 3  # jump directions of each of these minima
    valley_retrain: Mapping[str, Any] = field(default_factory=lambda: {"step_sizes": (0.5, 1.0)})
    claims_seeds: tuple[int, ...] = (60, 61, 62, 63, 64)  # of the minima that decide the claims; used for nothing else
    claims_directions: int = 3  # jump directions of each of these minima
    claims_retrain: Mapping[str, Any] = field(default_factory=dict)
    path_seeds: tuple[int, ...] = (30, 31, 32, 33, 34)  # of optimizers.py, each with training images of its own
    path_compare: Mapping[str, Any] = field(default_factory=dict)  # settings of its runs, beside those of `compare`
    path_loss: float = 0.5  # training loss at which its optimisers are compared
    paperlike_seed: int = 70  # of the two minima of paperlike.py
    paperlike_directions: int = 5
    paperlike_train: Mapping[str, Any] = field(default_factory=dict)
    paperlike_retrain: Mapping[str, Any] = field(
        default_factory=lambda: {"step_sizes": (0.5, 1.0), "epochs": 50, "learning_rate": 0.1}
    )
    noises: tuple[float, ...] = (0.0, 0.3, 1.0, 2.0, 4.0, 6.0)  # noise levels of the trees of Fig. 1
    trees: int = 10  # number of trees per noise level
    tree_points: int = 60  # points per branch
    map_seeds: tuple[int, ...] = tuple(range(100, 110))  # of the trees of embedding_map.py
    map_points: tuple[int, ...] = (20, 10, 40)  # points per branch of these trees; claims are decided with the first
    # Other shapes of these trees: branches, points per branch, dimension.
    map_shapes: tuple[tuple[int, int, int], ...] = ((10, 20, 30), (10, 20, 300), (4, 50, 100), (20, 10, 100))
    landscape: Mapping[str, Any] = field(default_factory=dict)  # points, line_points, steps, epochs for landscapes.py


_FEW = {"seeds": (0, 1), "step_sizes": (0.5, 1.0), "epochs": 3, "eval_size": 50, "strategy": "loop"}
_TINY = {"train_size": 50, "batch_size": 25, "epochs": 3, "decay_epochs": (2,)}
SCALES = {
    "smoke": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11),
        train=_TINY,
        retrain=_FEW,
        compare=_TINY | {"seeds": (10, 11), "eval_size": 50, "strategy": "loop"},
        landscape={"points": 3, "line_points": 3, "steps": 6, "epochs": 1},
        harder_seeds=(10, 11),
        harder_train=_TINY | {"train_size": 100, "batch_size": 50},  # one example per class
        harder_retrain=_FEW,
        sweep_seeds=(10, 11),
        learning_rates=(0.1,),
        valley_seeds=(20, 21),
        valley_directions=2,
        claims_seeds=(10, 11),
        claims_directions=2,
        claims_retrain={"step_sizes": (0.25, 1.0)},
        paperlike_directions=2,
        paperlike_retrain={"learning_rate": 0.1},
        path_seeds=(30, 31),
        path_compare={"train_size": 50},
        path_loss=20.0,  # after 6 updates nothing has been learned
        noises=(1.0,),
        trees=1,
        tree_points=10,
        map_seeds=(0, 1),
        map_points=(6,),
        map_shapes=(),
    ),
    "quick": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11, 12, 13, 14),
        claims_seeds=tuple(range(50, 60)),
        compare={"seeds": (10, 11, 12, 13, 14)},
        # Four pairs for each of the 100 classes; three directions and 30 epochs instead of five and 50.
        harder_train={"train_size": 400},
        harder_retrain={"seeds": (0, 1, 2), "epochs": 30},
        # Two of four step sizes and 30 of 50 epochs in 54 runs; the ablation of weight decay is not reduced.
        sweep_retrain={"step_sizes": (0.5, 1.0), "epochs": 30},
        # Every update is recorded: 10 GB would be needed for the 100 epochs of `compare`.
        path_compare={"epochs": 25, "decay_epochs": ()},
    ),
    "real": Scale(
        dataset="fashion_mnist",
        harder="fashion_mnist+pairs",
        seeds=(10, 11, 12),
        train={"protocol": "digits", "train_size": 1000, "batch_size": 50, "epochs": 200, "decay_epochs": (150,)},
        retrain={"epochs": 30, "learning_rate": 0.05, "eval_size": 500},
        compare={
            "seeds": (10, 11, 12, 13, 14),
            "train_size": 1000,
            "batch_size": 50,
            "epochs": 60,
            "decay_epochs": (45,),
            "eval_size": 500,
        },
        harder_train={"train_size": 1000},
        harder_retrain={"seeds": (0, 1, 2)},
        sweep_retrain={"step_sizes": (0.5, 1.0), "epochs": 20},
        # 39 updates an epoch: with ten times the paper's weight decay, the exponent of the decay is the paper's.
        paperlike_train={"train_size": 5000, "batch_size": 128, "epochs": 100, "decay_epochs": (75,)},
        path_compare={"epochs": 25, "decay_epochs": ()},  # as at the scale quick
    ),
    "fashion": Scale(
        dataset="fashion_mnist+padded",
        harder="fashion_mnist+pairs",
        seeds=(10, 11, 12),
        compare={"seeds": (10, 11, 12, 13, 14)},
    ),
    "paper": Scale(dataset="cifar10", harder="cifar100", seeds=(10, 11, 12), compare={"seeds": (10, 11, 12, 13, 14)}),
}
