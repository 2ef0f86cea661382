"""Configurations of the stages of a run: one frozen record per stage, and the presets of the paper and of the demo.

The settings of a stage apply to any problem (`TrainSettings`, `RetrainSettings`, `CompareSettings`); its configuration
adds the settings of the built-in problem, a wide residual network on images.

A preset chooses the minimum (good, bad, memorization); a protocol chooses the scale: "paper" is that of the paper,
"digits" one that the demo runs in minutes, chosen by measurement (docs/protocol.md).
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
    """Settings for training a minimum of any problem."""

    epochs: int = 200
    """Epochs to train for."""
    batch_size: int = 128
    """Examples per step."""
    seed: int = 0
    """Seed of the initial parameters, batch order and augmentation (and of random labels)."""


@dataclass(frozen=True)
class MinimumSettings(TrainSettings):
    """Settings for training a minimum of the user's own problem, or the checksum of a given one (after 0 epochs)."""

    given: str | None = None
    """Checksum of a minimum that was given."""


@dataclass(frozen=True)
class CompareSettings:
    """Settings for training networks of any problem side by side."""

    optimizers: tuple[str, ...] = ("sgd", "momentum", "adam")
    """Names of the optimisers; the built-in ones are sgd, momentum (0.9) and adam."""
    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0, 1, 2, 3, 4)
    """Seeds of the initial parameters, batch order and augmentation; every optimiser uses the same ones."""
    epochs: int = 200
    """Epochs to train for."""
    batch_size: int = 128
    """Examples per step."""
    steps: int | None = None
    """Store the parameters every so many steps, instead of once per epoch."""
    strategy: str = "auto"
    """Execution strategy for the networks of one optimiser, as in `retrain`."""


@dataclass(frozen=True)
class RetrainSettings:
    """Settings for perturbing and retraining copies of any problem's minimum."""

    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0, 1, 2, 3, 4)
    """Seeds of the jump directions."""
    step_sizes: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Step sizes of the jumps; 1 displaces every filter by its own norm."""
    controls: int = 2
    """Unperturbed copies that are retrained like the others: they show how the minimum itself drifts."""
    epochs: int = 50
    """Epochs to retrain for; a larger number than before extends the trajectories."""
    batch_size: int = 128
    """Examples per step."""
    data_order: str = "member"
    """Which copies share batches and augmentation: member (none), seed (those of one direction), shared (all)."""
    order_seed: int = 0
    """Seed of the batch order and augmentation."""
    strategy: str = "auto"
    """Execution strategy of the copies: auto (measured once), loop, threads, vmap_grad, grad_vmap or vmap_grad:4."""

    @property
    def num_controls(self) -> int:
        """Number of unperturbed copies that are added: none if a step size is 0."""
        return 0 if 0 in self.step_sizes else self.controls

    @property
    def num_copies(self) -> int:
        """Total number of copies."""
        return len(self.seeds) * len(self.step_sizes) + self.num_controls


@dataclass(frozen=True)
class RecordSettings:
    """Settings of a recorded training of the user's own."""

    group: str = ""
    """Label that groups the members, in statistics and in colours."""
    order_seed: int = 0
    """Seed of the null trajectories."""


@dataclass(frozen=True)
class JointSettings:
    """Settings of a joint run: which runs share one distance matrix."""

    runs: tuple[str, ...] = ()
    """Absolute paths of their run folders."""
    group: str = "run"
    """Label that groups the members, in statistics and in colours."""
    order_seed: int = 0
    """Seed of the null trajectories."""


@dataclass(frozen=True)
class TaskConfig:
    """Settings of the built-in problem: data set, network and optimisation."""

    protocol: Protocol = "digits"
    """Scale of all settings below: that of the demo, or that of the paper."""
    dataset: str = "digits"
    """digits, cifar10, cifar100, fashion_mnist or mnist; digits+pairs: 100 classes of two images side by side;
    fashion_mnist+padded: padded to 32x32 with black."""
    data_dir: str | None = None
    """Folder with the original files of the data set, instead of a download."""
    data_unchecked: bool = False
    """Accept files in data_dir that are not the original ones, if they are well formed."""
    train_size: int | None = None
    """Use only this many training images, the same number of each class."""
    images_seed: int | None = None
    """Seed that draws the training images; without it the first of each class."""
    depth: int = 10
    """Depth of the wide residual network, 6 n + 4."""
    widen_factor: int = 1
    """Width of the network, in multiples of 16, 32 and 64 channels."""
    learning_rate: float = 0.1
    """Initial learning rate."""
    decay_epochs: tuple[int, ...] = ()
    """Epochs at whose start the learning rate is divided by 10."""
    weight_decay: float = 0.0
    """Coefficient of the L2 term, as PyTorch defines it."""
    augmentation: str = "none"
    """none, or some of crop, flip, rotate and color joined by +, in the order in which they are applied."""
    padding: int = 4
    """Maximum shift of a crop, in pixels."""
    precision: str = "float32"
    """Dtype of the activations: float32 or bfloat16; parameters, statistics and losses are always float32."""


@dataclass(frozen=True)
class TrainConfig(TaskConfig, TrainSettings):
    """Settings for training a minimum of the built-in problem."""

    preset: Preset = "good"
    """good: weight decay and augmentation; bad: neither; memorization: bad, with random labels."""
    label_noise: float = 0.0
    """Fraction of the training labels that are replaced by random ones."""
    optimizer: str = "momentum"
    """sgd, momentum (0.9) or adam."""


@dataclass(frozen=True)
class CompareConfig(TaskConfig, CompareSettings):
    """Settings for training networks of the built-in problem side by side, from shared initial parameters."""

    eval_size: int = 10_000
    """Record losses and accuracies of every snapshot on at most this many training and test images."""

    def of_one(self, optimizer: str, seed: int) -> TrainConfig:
        """Return the configuration that trains one of the networks."""
        names = {field.name for field in fields(TaskConfig)} | {"epochs", "batch_size"}
        shared = {name: getattr(self, name) for name in names}
        return TrainConfig(**shared, optimizer=optimizer, seed=seed)


@dataclass(frozen=True)
class RetrainConfig(RetrainSettings):
    """Settings for perturbing and retraining copies of a minimum of the built-in problem."""

    optimizer: str = "momentum"
    """sgd, momentum (0.9) or adam, with a fresh optimiser state."""
    learning_rate: float = 0.001
    """Learning rate, constant."""
    weight_decay: float = 0.0
    """Coefficient of the L2 term; that of the minimum by default."""
    augmentation: str = "none"
    """Augmentation, as in `train`; that of the minimum by default."""
    eval_size: int = 10_000
    """Record losses and accuracies of every epoch on at most this many training and test images."""
    precision: str = "float32"
    """Dtype of the activations: float32 or bfloat16, independent of how the minimum was trained."""


@dataclass(frozen=True)
class EmbedConfig:
    """Settings of an embedding of the trajectories; each combination of settings has its own folder."""

    method: str = "mds"
    """mds (metric multidimensional scaling), phate, tsne, umap, pca, random (a random plane), or phate-package (the
    phate package). Without it, any of PHATE's settings (center, knn, decay, t, potential, landmarks) selects phate."""
    metric: str | None = None
    """cosine or euclidean; by default euclidean for mds, and for pca and random, which require it, else cosine."""
    center: str = "none"
    """Origin of the vectors for cosine distances: none (the parameter vectors themselves), mean or minimum."""
    knn: int | Literal["connect", "auto"] = 5
    """Number of neighbours that sets PHATE's bandwidth; connect: the smallest number with a connected graph; auto: the
    best of several (connected, not degenerate, and with the highest rank correlation)."""
    decay: float = 40.0
    """Exponent of PHATE's kernel."""
    t: int | None = None
    """PHATE's diffusion time; by default the knee of the entropy."""
    potential: str = "euclidean"
    """Distance between PHATE's potentials: euclidean (the paper) or cosine (its authors' code)."""
    landmarks: int | None = None
    """Embed this many points with PHATE and interpolate the others; exact by default."""
    n_components: int = 2
    """Dimension of the embedding."""
    include_minimum: bool = False
    """Embed the minimum too, as mds always does."""
    only_seeds: tuple[int, ...] = ()
    """Embed only the trajectories of these seeds."""
    only_optimizers: tuple[str, ...] = ()
    """Embed only the networks of these optimisers, for a run of `compare`."""
    null: Literal["rotated", "random", "shuffled", "exchange", "decay", "decay+rotated"] | None = None
    """Embed null trajectories of this kind instead of the real ones, as a control: rotated (randomly rotated), random
    (random increments), shuffled (in time), exchange (increments of a copy of another direction), decay (weight decay
    only), or decay+rotated (weight decay and randomly rotated gradients)."""

    @property
    def distance(self) -> str:
        """The metric; the default of the method if none is set."""
        return self.metric or METHODS[self.method].metric

    @property
    def name(self) -> str:
        """The settings as a folder name, such as "mds-euclidean" or "phate-cosine-none-knn5"."""
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


_PHATE_SETTINGS = ("center", "knn", "decay", "t", "potential", "landmarks")


def embed_config(**settings: Any) -> EmbedConfig:
    """Return the configuration of an embedding: metric MDS, or PHATE if one of its settings is given.

    Args:
        settings: fields of `EmbedConfig`; without `method`, any of PHATE's settings selects "phate".
    """
    selects_phate = "method" not in settings and not settings.keys().isdisjoint(_PHATE_SETTINGS)
    return EmbedConfig(**({"method": "phate"} if selects_phate else {}) | settings)


# Where the digits protocol differs from the paper's; docs/protocol.md tells how these values were chosen.
_DIGITS_TRAIN = {"train_size": 100, "batch_size": 25, "epochs": 200, "decay_epochs": (150,), "padding": 1}
_DIGITS_WEIGHT_DECAY = 1e-3
_DIGITS_RETRAIN = {"epochs": 50, "learning_rate": 0.05, "eval_size": 400}
_DIGITS_COMPARE = {"train_size": 400, "batch_size": 50, "epochs": 100, "decay_epochs": (75,), "eval_size": 400}

# A mirrored digit is not a digit, but a mirrored photograph or shoe is still a photograph or a shoe.
_FLIPPED = ("cifar10", "cifar100", "fashion_mnist", "fashion_mnist+padded")


def train_preset(preset: str, *, protocol: str | None = None, dataset: str = "digits", seed: int = 0) -> TrainConfig:
    """Return the paper's configuration for a good, bad or memorization minimum, at the scale of a protocol.

    Args:
        preset: "good", "bad" or "memorization".
        protocol: "digits" or "paper"; by default "digits" for the digits and their pairs, "paper" for others.
        dataset: name of the data set; it is checked where it is used.
        seed: seed of all randomness.

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
    """Return the protocol's retraining of a minimum: its weight decay, augmentation and batch size, a constant lr."""
    config = RetrainConfig(
        weight_decay=minimum.weight_decay,
        augmentation=minimum.augmentation,
        batch_size=minimum.batch_size,
        order_seed=minimum.seed,
    )
    return replace(config, **_DIGITS_RETRAIN) if minimum.protocol == "digits" else config  # type: ignore[arg-type]


def compare_preset(*, protocol: str | None = None, dataset: str = "digits") -> CompareConfig:
    """Return the paper's comparison of optimisers at the scale of a protocol.

    Arguments and errors are those of `train_preset`.
    """
    good = train_preset("good", protocol=protocol, dataset=dataset)
    names = {field.name for field in fields(TaskConfig)} | {"epochs", "batch_size"}
    config = CompareConfig(**{name: getattr(good, name) for name in names} | {"weight_decay": 0.0})
    return replace(config, **_DIGITS_COMPARE) if config.protocol == "digits" else config  # type: ignore[arg-type]


def from_record[C](cls: type[C], record: Any) -> C:
    """Build a configuration from its JSON record; lists become tuples, and missing fields take their defaults.

    Raises:
        ValueError: for unknown fields, and for values of the wrong type.
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
            raise ValueError(f"{name} must be {_describe_type(kinds[name])}, got {record[name]!r:.50}")
    return cls(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Return whether a value read from JSON has the declared type of a configuration field."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(entry, get_args(kind)[0]) for entry in value)
    if get_args(kind):  # a union
        return any(_is_a(value, each) for each in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _describe_type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def check_name(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the known names if `value` is not one of them."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
