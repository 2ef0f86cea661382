"""What can be asked for by name: a record per method of embedding, per centre and per kind of null trajectories.

Options, checks, captions and the readers of diagnostics all read these; what computes a method stands in
`jaxscape.runs.layouts`. Nothing here needs more than the standard library, so that `--help` need not wait for jax.
"""

from typing import NamedTuple


class Method(NamedTuple):
    """How a method of embedding is called, and what belongs to it."""

    words: str  # in captions
    metric: str = "cosine"  # its own, where none is asked for
    is_exact: bool = False  # of squared euclidean distances, and so of no others
    has_kernel: bool = False  # PHATE's: knn, decay and t
    has_minimum: bool = False  # embeds the minimum too, where a run has one
    is_slow: bool = False  # too slow to draw the surrogates too
    found: tuple[str, ...] = ()  # the numbers in its diagnostics


class Center(NamedTuple):
    """Where cosines are seen from."""

    argument: str | None  # of `pairwise_distances`
    words: str  # in captions, after "cosine distance"


class Null(NamedTuple):
    """A kind of null trajectories: what they keep of the real ones, and what they remove."""

    words: str  # in captions
    keeps: str
    removes: str


_OF_PHATE = ("t", "knn", "stress", "n_connected_components", "connecting_knn", "iterations")

METHODS = {
    "phate": Method("PHATE", has_kernel=True, found=_OF_PHATE),
    "mds": Method("metric MDS", metric="euclidean", has_minimum=True, found=("stress", "iterations")),
    "tsne": Method("t-SNE", is_slow=True),
    "umap": Method("UMAP", is_slow=True),
    "pca": Method("PCA", metric="euclidean", is_exact=True, found=("explained",)),
    "random": Method("random plane", metric="euclidean", is_exact=True, found=("explained",)),
    "phate-package": Method("PHATE (the package)", has_kernel=True, is_slow=True, found=("t", "stress")),
}
CENTERS = {
    "none": Center(None, "of the parameter vectors"),
    "mean": Center("mean", "of directions from the mean"),
    "minimum": Center("reference", "of directions from the minimum"),
}
KNNS = ("connect", "auto")  # what knn may be instead of a number; a test holds it to those of `phate`
# Which kind of null trajectories answers the question of a statistic: around a minimum, and without one. A path has
# none, for all kinds but weight decay alone keep its length.
BESIDE = {
    **dict.fromkeys(("return", "outward", "monotone", "petal", "lateral"), "exchange"),
    **dict.fromkeys(("inward_loss", "loss_cosine"), "exchange"),
    **dict.fromkeys(("travel", "tortuosity", "turning"), "random"),
    "norm_change": "decay",
    "end_spread": "rotated",
}
BESIDE_WITHOUT_MINIMUM = BESIDE | {"norm_change": "rotated"}
NULLS = {  # the kinds of `null_trajectories`; a test holds the two together
    "rotated": Null(
        "rotated null", "lengths and turns of each copy's movements", "their relation to jump, minimum and other copies"
    ),
    "random": Null("random null", "the length of each movement", "everything else"),
    "shuffled": Null("shuffled null", "the movements of each copy, and its end", "their order"),
    "exchange": Null(
        "exchanged null",
        "weight decay, and movements along another direction's jump: shared drift, subspace, layers, lengths",
        "the relation of movements to the copy's own jump",
    ),
    "decay": Null("weight decay alone", "the optimiser's weight decay and momentum", "the gradient of the loss"),
    "decay+rotated": Null(
        "weight decay and rotated null", "weight decay, and the lengths and turns of what the gradient adds", "the rest"
    ),
}
