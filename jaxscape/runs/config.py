"""What a run is asked to do: frozen records, one a stage, and the presets of the paper and of the demo.

A stage's settings are those of any problem (`TrainSettings`, `RetrainSettings`, `CompareSettings`); its configuration
adds what the built-in problem, a wide residual network on images, is to be.

A preset says which minimum (good, bad, memorization); a protocol says at which scale: "paper" is the paper's own,
"digits" the one that the demo runs in minutes, found by measurement (docs/protocol.md).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from jaxscape.runs.methods import METHODS

Preset = Literal["good", "bad", "memorization"]
Protocol = Literal["digits", "paper"]
PRESETS = ("good", "bad", "memorization")
PROTOCOLS = ("digits", "paper")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainSettings:
    """How a minimum of any problem is found."""

    epochs: int = 200
    """Epochs to train for."""
    batch_size: int = 128
    """Examples a step."""
    seed: int = 0
    """Of the initial parameters, batch order and augmentation (and random labels)."""


@dataclass(frozen=True)
class MinimumSettings(TrainSettings):
    """How a minimum of the user's own problem is found, or which one was given (after 0 epochs)."""

    given: str | None = None
    """The checksum of a minimum that was given."""


@dataclass(frozen=True)
class CompareSettings:
    """How networks of any problem are trained side by side."""

    optimizers: tuple[str, ...] = ("sgd", "momentum", "adam")
    """Their names; of the built-in ones sgd, momentum (0.9) and adam."""
    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0, 1, 2, 3, 4)
    """Of the initial parameters, batch order and augmentation, which the optimisers share."""
    epochs: int = 200
    """Epochs to train for."""
    batch_size: int = 128
    """Examples a step."""
    steps: int | None = None
    """Keep the parameters every so many steps, instead of once an epoch."""
    strategy: str = "auto"
    """How the networks of an optimiser run together, as in `retrain`."""


@dataclass(frozen=True)
class RetrainSettings:
    """How the copies of any problem's minimum are thrown and retrained."""

    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0, 1, 2, 3, 4)
    """Seeds of the jump directions."""
    step_sizes: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Lengths of the jumps; 1 moves every filter by its own norm."""
    controls: int = 2
    """Copies that are not perturbed, and retrained like the others: they show where the minimum itself drifts."""
    epochs: int = 50
    """Epochs to retrain for; more than before extends the trajectories."""
    batch_size: int = 128
    """Examples a step."""
    data_order: str = "member"
    """Who shares batches and augmentation: member (nobody), seed (one direction), shared (all)."""
    order_seed: int = 0
    """Of the batch order and augmentation."""
    strategy: str = "auto"
    """How the copies run together: auto (measured once), loop, threads, vmap_grad, grad_vmap, or vmap_grad:4, say."""

    @property
    def num_controls(self) -> int:
        """How many copies are added that are not perturbed: none where a step size is 0."""
        return 0 if 0 in self.step_sizes else self.controls

    @property
    def num_copies(self) -> int:
        """How many copies there are in all."""
        return len(self.seeds) * len(self.step_sizes) + self.num_controls


@dataclass(frozen=True)
class RecordSettings:
    """What is recorded of a training of the user's own."""

    group: str = ""
    """The label whose values are told apart, in numbers and in colours."""
    order_seed: int = 0
    """Of the null trajectories."""


@dataclass(frozen=True)
class JointSettings:
    """Which runs stand in one distance matrix."""

    runs: tuple[str, ...] = ()
    """Their folders, absolute."""
    group: str = "run"
    """The label whose values are told apart, in numbers and in colours."""
    order_seed: int = 0
    """Of the null trajectories."""


@dataclass(frozen=True)
class TaskConfig:
    """What a network learns of images, and how."""

    protocol: Protocol = "digits"
    """The scale of everything below: the demo's, or the paper's own."""
    dataset: str = "digits"
    """digits, cifar10, cifar100, fashion_mnist or mnist; digits+pairs: 100 classes of two images side by side;
    fashion_mnist+padded: 32x32 in a black frame."""
    data_dir: str | None = None
    """A folder with the data set's original files, instead of a download."""
    data_unchecked: bool = False
    """Take files of data_dir that are not the original ones, if they are well formed."""
    train_size: int | None = None
    """Use only that many training images, the same number of each class."""
    depth: int = 10
    """Depth of the wide residual network, 6 n + 4."""
    widen_factor: int = 1
    """Its width, in multiples of 16, 32 and 64 channels."""
    learning_rate: float = 0.1
    """Learning rate at the start."""
    decay_epochs: tuple[int, ...] = ()
    """Epochs at whose start the learning rate is divided by 10."""
    weight_decay: float = 0.0
    """Coefficient of the L2 term, PyTorch's meaning."""
    augmentation: str = "none"
    """none, or some of crop, flip, rotate and color joined by +, in the order of their use."""
    padding: int = 4
    """Pixels that a crop moves at most."""
    precision: str = "float32"
    """Of the activations: float32 or bfloat16; parameters, statistics and losses are float32 in any case."""


@dataclass(frozen=True)
class TrainConfig(TaskConfig, TrainSettings):
    """How a minimum is found."""

    preset: Preset = "good"
    """good: weight decay and augmentation; bad: neither; memorization: bad, with random labels."""
    label_noise: float = 0.0
    """Share of the training labels that are replaced by random ones."""
    optimizer: str = "momentum"
    """sgd, momentum (0.9) or adam."""


@dataclass(frozen=True)
class CompareConfig(TaskConfig, CompareSettings):
    """How networks are trained side by side, from shared initial parameters by several optimisers."""

    eval_size: int = 10_000
    """Record losses and accuracies of every snapshot on at most that many training and test images."""

    def of_one(self, optimizer: str, seed: int) -> TrainConfig:
        """How one of the networks is trained."""
        names = {field.name for field in fields(TaskConfig)} | {"epochs", "batch_size"}
        shared = {name: getattr(self, name) for name in names}
        return TrainConfig(**shared, optimizer=optimizer, seed=seed)


@dataclass(frozen=True)
class RetrainConfig(RetrainSettings):
    """How the copies are thrown and retrained."""

    optimizer: str = "momentum"
    """sgd, momentum (0.9) or adam; starts fresh."""
    learning_rate: float = 0.001
    """Learning rate, constant."""
    weight_decay: float = 0.0
    """Coefficient of the L2 term; the minimum's own by default."""
    augmentation: str = "none"
    """As in `train`; the minimum's own by default."""
    eval_size: int = 10_000
    """Record losses and accuracies of every epoch on at most that many training and test images."""
    precision: str = "float32"
    """Of the activations: float32 or bfloat16, whatever the minimum was found with."""


@dataclass(frozen=True)
class EmbedConfig:
    """How the trajectories are embedded; every setting gets a folder of its own."""

    method: str = "mds"
    """mds (metric scaling), phate, tsne, umap, pca, random (a random plane), or phate-package (the package of that
    name). Unless it is named, a setting of PHATE's (center, knn, decay, t, potential, landmarks) asks for phate."""
    metric: str | None = None
    """cosine or euclidean; None takes euclidean for mds, and for pca and random, which need it, else cosine."""
    center: str = "none"
    """Where cosines are seen from: none (the vectors themselves), mean or minimum."""
    knn: int | Literal["connect", "auto"] = 5
    """Neighbours that set PHATE's bandwidth; connect takes the smallest number whose graph has one component, auto the
    best of several: connected, not degenerate, and of the highest rank correlation."""
    decay: float = 40.0
    """Exponent of PHATE's kernel."""
    t: int | None = None
    """PHATE's diffusion time; None takes the knee of the entropy."""
    potential: str = "euclidean"
    """How PHATE compares potentials: euclidean (the paper) or cosine (its authors' code)."""
    landmarks: int | None = None
    """Embed that many points by PHATE and put the others among them; None is exact."""
    n_components: int = 2
    """Dimensions of the picture."""
    include_minimum: bool = False
    """Embed the minimum too, as mds does in any case."""
    only_seeds: tuple[int, ...] = ()
    """Embed the trajectories of these seeds alone."""
    only_optimizers: tuple[str, ...] = ()
    """Embed the networks of these optimisers alone, of a run of `compare`."""
    null: Literal["rotated", "random", "shuffled", "exchange", "decay", "decay+rotated"] | None = None
    """Embed null trajectories of this kind in place of the real ones, the control for the same picture: rotated at
    random; with random movements; shuffled in time; with the movements of another direction's copy; with weight decay
    alone; or with weight decay and rotated gradients."""

    @property
    def distance(self) -> str:
        """The metric, the method's own where none was asked for."""
        return self.metric or METHODS[self.method].metric

    @property
    def name(self) -> str:
        """The setting as the name of its folder, such as "mds-euclidean" or "phate-cosine-none-knn5"."""
        parts = [self.method, self.distance]
        if self.distance == "cosine":
            parts.append(self.center)
        if METHODS[self.method].has_kernel:
            parts.append(f"knn{self.knn}")
            parts += [f"decay{self.decay:g}"] if self.decay != 40 else []
            parts += [f"t{self.t}"] if self.t is not None else []
            parts += [f"potential-{self.potential}"] if self.potential != "euclidean" else []
            parts += [f"landmarks{self.landmarks}"] if self.landmarks is not None else []
        parts += [f"{self.n_components}d"] if self.n_components != 2 else []
        parts += ["with-minimum"] if self.include_minimum and not METHODS[self.method].has_minimum else []
        parts += ["seed" + "+".join(map(str, self.only_seeds))] if self.only_seeds else []
        parts += ["+".join(self.only_optimizers)] if self.only_optimizers else []
        parts += [f"null-{self.null}"] if self.null else []
        return "-".join(parts)


_OF_PHATE = ("center", "knn", "decay", "t", "potential", "landmarks")


def embed_config(**given: Any) -> EmbedConfig:
    """Return what is asked of an embedding: by metric scaling, or by PHATE where one of its settings is given.

    Args:
        given: the settings that were named; where these say no method, one of PHATE's stands for it.
    """
    asks_for_phate = "method" not in given and not given.keys().isdisjoint(_OF_PHATE)
    return EmbedConfig(**({"method": "phate"} if asks_for_phate else {}) | given)


# What the digits protocol changes of the paper's; how it was found stands in docs/protocol.md.
_DIGITS_TRAIN = {"train_size": 100, "batch_size": 25, "epochs": 200, "decay_epochs": (150,), "padding": 1}
_DIGITS_WEIGHT_DECAY = 1e-3
_DIGITS_RETRAIN = {"epochs": 50, "learning_rate": 0.05, "eval_size": 400}
_DIGITS_COMPARE = {"train_size": 400, "batch_size": 50, "epochs": 100, "decay_epochs": (75,), "eval_size": 400}

# A mirrored digit is no digit; a mirrored photograph or shoe is one.
_FLIPPED = ("cifar10", "cifar100", "fashion_mnist", "fashion_mnist+padded")


def train_preset(preset: str, *, protocol: str | None = None, dataset: str = "digits", seed: int = 0) -> TrainConfig:
    """The paper's way to a good, bad or memorization minimum, at the scale of a protocol.

    Args:
        preset: "good", "bad" or "memorization".
        protocol: "digits" or "paper"; by default "digits" for the digits and their pairs, "paper" for others.
        dataset: its name; whether it is known is seen where it is used.
        seed: of everything random.

    Raises:
        ValueError: for an unknown name (lists the known ones).
    """
    protocol = protocol or ("digits" if dataset.startswith("digits") else "paper")
    check_name("preset", preset, PRESETS)
    check_name("protocol", protocol, PROTOCOLS)
    config = TrainConfig(
        preset=preset,  # type: ignore[arg-type]  # checked above
        protocol=protocol,  # type: ignore[arg-type]
        dataset=dataset,
        seed=seed,
        label_noise=1.0 if preset == "memorization" else 0.0,
    )
    if protocol == "paper":
        config = replace(config, depth=28, widen_factor=2, decay_epochs=(150,))
    else:
        config = replace(config, **_DIGITS_TRAIN)  # type: ignore[arg-type]
    if preset != "good":
        return config
    return replace(
        config,
        weight_decay=1e-4 if protocol == "paper" else _DIGITS_WEIGHT_DECAY,
        augmentation="crop+flip" if dataset in _FLIPPED else "crop",
    )


def retrain_preset(minimum: TrainConfig) -> RetrainConfig:
    """The protocol's retraining of that minimum: its own weight decay, augmentation and batch size, lr constant."""
    config = RetrainConfig(
        weight_decay=minimum.weight_decay,
        augmentation=minimum.augmentation,
        batch_size=minimum.batch_size,
        order_seed=minimum.seed,
    )
    return replace(config, **_DIGITS_RETRAIN) if minimum.protocol == "digits" else config  # type: ignore[arg-type]


def compare_preset(*, protocol: str | None = None, dataset: str = "digits") -> CompareConfig:
    """The paper's comparison of optimisers, at the scale of a protocol; arguments and errors as for `train_preset`."""
    good = train_preset("good", protocol=protocol, dataset=dataset)
    names = {field.name for field in fields(TaskConfig)} | {"epochs", "batch_size"}
    config = CompareConfig(**{name: getattr(good, name) for name in names} | {"weight_decay": 0.0})
    return replace(config, **_DIGITS_COMPARE) if config.protocol == "digits" else config  # type: ignore[arg-type]


def from_record[C](cls: type[C], record: Any) -> C:
    """Make a configuration of its JSON record (lists become tuples); fields that the record lacks have their defaults.

    Raises:
        ValueError: for unknown fields, and for values of another type.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a {cls.__name__} must be a JSON object, got {record!r:.50}")
    kinds = get_type_hints(cls)
    unknown = sorted(set(record) - set(kinds))
    if unknown:
        raise ValueError(f"a {cls.__name__} has no {', '.join(unknown)}; written by a later version?")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    for name, value in values.items():
        if not _is_a(value, kinds[name]):
            raise ValueError(f"{name} must be {_words_of(kinds[name])}, got {record[name]!r:.50}")
    return cls(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of the type that a field of a configuration declares."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(entry, get_args(kind)[0]) for entry in value)
    if get_args(kind):  # a union
        return any(_is_a(value, each) for each in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _words_of(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def check_name(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError for a name that is none of the known ones, and lists them."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
