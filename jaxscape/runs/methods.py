"""Records of what can be chosen by name: embedding methods, centers and kinds of null trajectories.

Options, checks, captions and the readers of diagnostics all use these records; `jaxscape.runs.layouts` computes the
embeddings. This module imports only the standard library, so that `--help` does not wait for jax.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Method(NamedTuple):
    """An embedding method and its properties."""

    words: str  # its name in captions
    metric: str = "cosine"  # the default metric
    is_exact: bool = False  # a projection of squared Euclidean distances, so it supports no other metric
    has_kernel: bool = False  # takes the settings of PHATE's kernel: knn, decay and t
    has_minimum: bool = False  # embeds the minimum too, if the run has one
    is_slow: bool = False  # too slow to embed the surrogates as well
    numbers: tuple[str, ...] = ()  # names of the numbers in its diagnostics


class Center(NamedTuple):
    """The origin of the vectors for cosine distances."""

    argument: str | None  # `center` of `pairwise_distances`
    words: str  # its description in captions, after "cosine distance"


class Null(NamedTuple):
    """A kind of null trajectories: what they preserve of the real ones, and what they remove."""

    words: str  # its name in captions
    keeps: str
    removes: str


_PHATE_NUMBERS = ("t", "knn", "stress", "n_connected_components", "connecting_knn", "iterations")

METHODS = {
    "phate": Method("PHATE", has_kernel=True, numbers=_PHATE_NUMBERS),
    "mds": Method("metric MDS", metric="euclidean", has_minimum=True, numbers=("stress", "iterations")),
    "tsne": Method("t-SNE", is_slow=True),
    "umap": Method("UMAP", is_slow=True),
    "pca": Method("PCA", metric="euclidean", is_exact=True, numbers=("explained",)),
    "random": Method("random plane", metric="euclidean", is_exact=True, numbers=("explained",)),
    "phate-package": Method("PHATE (the package)", has_kernel=True, is_slow=True, numbers=("t", "stress")),
}
CENTERS = {
    "none": Center(None, "of the parameter vectors"),
    "mean": Center("mean", "of directions from the mean"),
    "minimum": Center("reference", "of directions from the minimum"),
}
KNNS = ("connect", "auto")  # values of knn other than a number; a test compares them with those of `phate`
# The kind of null trajectories that each statistic is compared with: for runs around a minimum, and for others. The
# path length has none, since every kind except weight decay alone preserves it.
BESIDE = {
    **dict.fromkeys(("return", "outward", "monotone", "petal", "lateral"), "exchange"),
    **dict.fromkeys(("inward_loss", "loss_cosine"), "exchange"),
    **dict.fromkeys(("travel", "tortuosity", "turning"), "random"),
    "norm_change": "decay",
    "end_spread": "rotated",
}
BESIDE_WITHOUT_MINIMUM = BESIDE | {"norm_change": "rotated"}
NULLS = {  # the kinds of `null_trajectories`; a test checks that the two agree
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


def null_words(comparison: Mapping[str, Any]) -> str:
    """Return the name of the surrogates that an embedding was compared with, from the entry "surrogate" of a report."""
    null = NULLS.get(comparison.get("kind", ""))
    return "surrogate" if null is None else null.words
