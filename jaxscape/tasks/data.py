"""Data sets as NumPy arrays.

The digits come with scikit-learn. CIFAR-10/100 (https://www.cs.toronto.edu/~kriz/cifar.html), Fashion-MNIST and MNIST
are read from their original files, downloaded or in a local folder (`originals.py`). A file is either read whole or
rejected. Random labels follow Zhang et al. 2017, "Understanding deep learning requires rethinking generalization".
"""

import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxscape.arguments import typed_key
from jaxscape.tasks.originals import read_originals

DATASETS = (
    "digits",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "mnist",
    "digits+pairs",
    "cifar10+pairs",
    "fashion_mnist+pairs",
    "mnist+pairs",
    "fashion_mnist+padded",
    "mnist+padded",
)

type Images = npt.NDArray[np.uint8]
type Labels = npt.NDArray[np.int32]


class Dataset(NamedTuple):
    """Images and labels on the host.

    Attributes:
        train_images: uint8 (n, height, width, channels).
        train_labels: int32 (n,), from 0 to num_classes - 1.
        test_images: uint8 (m, height, width, channels).
        test_labels: int32 (m,).
        num_classes: number of classes.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    num_classes: int


class _Cifar(NamedTuple):
    """The layout of a CIFAR file: rows of `label_bytes` labels (the last counts) and 3,072 bytes of colour planes."""

    label_bytes: int
    num_classes: int


_CIFAR = {"cifar10": _Cifar(label_bytes=1, num_classes=10), "cifar100": _Cifar(label_bytes=2, num_classes=100)}


def load_dataset(name: str, *, data_dir: str | os.PathLike[str] | None = None, unchecked: bool = False) -> Dataset:
    """Return a data set by name.

    | name | training / test images | size | classes |
    |---|---|---|---|
    | digits | 1,000 / 797 | 8x8x1 | 10 |
    | cifar10 | 50,000 / 10,000 | 32x32x3 | 10 |
    | cifar100 | 50,000 / 10,000 | 32x32x3 | 100 (the fine labels) |
    | fashion_mnist, mnist | 60,000 / 10,000 | 28x28x1 | 10 |
    | any but cifar100, and +pairs | as many | twice as wide | 100 (see `pair_images`) |
    | fashion_mnist, mnist, and +padded | as many | 32x32x1, two black pixels at each edge | 10 |

    The digits are those of `sklearn.datasets.load_digits`, with the values 0 to 16 scaled to 0 to 255 and rounded
    to the nearest integer (8, the only tie, becomes 128). scikit-learn does not split them. Our split is fixed: a
    permutation from the raw bits of NumPy's PCG64(0), then the same fraction of every class for training. In
    scikit-learn the images of one writer are consecutive, and the permutation spreads them over both parts: test
    accuracy is measured on known writers.

    >>> load_dataset("digits").train_images.shape
    (1000, 8, 8, 1)

    Args:
        name: one of `DATASETS`.
        data_dir: a folder with the original files, instead of a download. CIFAR: the archive
            (`cifar-10-binary.tar.gz`, `cifar-100-binary.tar.gz`, or `.tar`) or its unpacked content
            (`cifar-10-batches-bin/`, `cifar-100-binary/`, or that folder itself). MNIST and Fashion-MNIST: the
            four IDX files, gzip or plain, also named like `train-images.idx3-ubyte`, in the folder or where
            torchvision keeps them (`MNIST/raw/`, `FashionMNIST/raw/`); both use the same file names.
        unchecked: accept well-formed files in `data_dir` that are not the original ones.

    Returns:
        The data set.

    Raises:
        ValueError: The name is unknown, `data_dir` is given for the digits, or a file is damaged, too large, or not
            the original one by the SHA-256 of its content.
        FileNotFoundError: `data_dir` does not exist or lacks a file.
        ConnectionError: The download failed; the message says which files to put where.

    Warns:
        UserWarning: The files have no image of some class, which is possible only with `unchecked`.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}")
    _check_data_dir(data_dir, unchecked=unchecked)
    if name.endswith("+pairs"):
        return pair_images(load_dataset(name.removesuffix("+pairs"), data_dir=data_dir, unchecked=unchecked))
    if name.endswith("+padded"):
        return _pad(load_dataset(name.removesuffix("+padded"), data_dir=data_dir, unchecked=unchecked), size=32)
    if name == "digits":
        if data_dir is not None:
            raise ValueError(f"data_dir must be None for the digits of scikit-learn, got {str(data_dir)!r}")
        return _load_digits()
    folder = None if data_dir is None else os.fspath(data_dir)
    contents = read_originals(name, folder, unchecked=unchecked)
    return _parse_cifar_files(contents, _CIFAR[name]) if name in _CIFAR else _parse_idx_files(contents)


def pair_images(dataset: Dataset) -> Dataset:
    """Return a harder data set: two images side by side, whose class is the ordered pair of their classes.

    There are as many pairs as images, for training and test images separately. The classes run from 0 to the last and
    start over, so that their counts differ by at most one. A pair has the class `num_classes * left + right`. The
    images of a class are used equally often, to within one. The pairing is fixed: it comes from raw bits of NumPy's
    PCG64.

    >>> pairs = pair_images(load_dataset("digits"))
    >>> pairs.train_images.shape, pairs.num_classes
    ((1000, 8, 16, 1), 100)

    Args:
        dataset: images of height x width.

    Returns:
        Images of height x (2 width), with num_classes^2 classes.

    Raises:
        ValueError: A class has no training image, or no test image.
    """
    for part, labels in (("training", dataset.train_labels), ("test", dataset.test_labels)):
        if absent := np.setdiff1d(np.arange(dataset.num_classes), labels).tolist():
            raise ValueError(f"pairs need {part} images of every class, but there are none of {absent}")
    train = _pair(dataset.train_images, dataset.train_labels, dataset.num_classes, seed=1)
    test = _pair(dataset.test_images, dataset.test_labels, dataset.num_classes, seed=2)
    return Dataset(*train, *test, num_classes=dataset.num_classes**2)


def take_training(dataset: Dataset, size: int, key: jax.Array | None = None) -> Dataset:
    """Return the same data set with fewer training images, balanced over the classes as far as possible.

    It keeps the first images of each class, or a random draw from each class if there is a key. The images stay in
    their order. The counts of two classes differ by at most one, unless a class has no more images, and do not depend
    on the key. With the same key, a smaller subset is contained in a larger one. The test images do not change.

    Args:
        dataset: the data set.
        size: the number of training images to keep, from 1 to all.
        key: a JAX random key, typed or not, that draws the images; without it, the first ones are kept.

    Returns:
        The smaller data set.

    Raises:
        TypeError: `size` is not an integer, or `key` is not one PRNG key.
        ValueError: `size` is out of range.
    """
    available = len(dataset.train_labels)
    if not isinstance(size, int | np.integer) or isinstance(size, bool):
        raise TypeError(f"size must be an integer, got {size!r}")
    if not 1 <= size <= available:
        raise ValueError(f"size must be from 1 to {available}, the number of training images, got {size}")
    order = np.arange(available)
    if key is not None:
        order = np.asarray(jax.random.permutation(typed_key(key), available))
    labels = dataset.train_labels[order]
    round_robin = np.lexsort((labels, _rank_in_class(labels)))
    rows = np.sort(order[round_robin[:size]])
    return dataset._replace(train_images=dataset.train_images[rows], train_labels=dataset.train_labels[rows])


def corrupt_labels(key: jax.Array, labels: npt.ArrayLike, *, num_classes: int, fraction: float = 1.0) -> Labels:
    """Return labels of which a random fraction is replaced by random classes (Zhang et al. 2017).

    Exactly `round(fraction * n)` labels are redrawn uniformly from all classes, so that the true class is drawn with
    probability 1 / num_classes. With the same key, a larger fraction makes the same changes as a smaller one, and
    more.

    Args:
        key: a JAX random key, typed or not.
        labels: integers (n,), from 0 to num_classes - 1.
        num_classes: number of classes.
        fraction: the fraction to redraw, from 0 to 1.

    Returns:
        New labels, int32 (n,).

    Raises:
        ValueError: `fraction`, `num_classes` or a label is out of range, or `labels` is not a list of integers.
        TypeError: `key` is not one PRNG key.
    """
    labels = np.asarray(labels)
    if not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1, got {num_classes!r}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, got {fraction}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers (n,), got {labels.dtype} {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
    order_key, class_key = jax.random.split(typed_key(key))
    drawn = np.asarray(jax.random.permutation(order_key, len(labels)))[: round(fraction * len(labels))]
    classes = np.asarray(jax.random.randint(class_key, labels.shape, 0, num_classes))
    corrupted = labels.astype(np.int32)
    corrupted[drawn] = classes[drawn]
    return corrupted


def _pad(dataset: Dataset, *, size: int) -> Dataset:
    """Return the same images centred in a black frame, size x size."""

    def framed(images: Images) -> Images:
        around = [(size - length) // 2 for length in images.shape[1:3]]
        return np.pad(images, [(0, 0), *((width, width) for width in around), (0, 0)])

    return dataset._replace(train_images=framed(dataset.train_images), test_images=framed(dataset.test_images))


def _pair(images: Images, labels: Labels, num_classes: int, *, seed: int) -> tuple[Images, Labels]:
    """Return pairs of the images (n, height, 2 width, channels) and their classes (n,)."""
    pair_labels = np.arange(len(labels), dtype=np.int32) % num_classes**2
    bits_left, bits_right = np.random.PCG64(seed).random_raw((2, len(labels)))
    left = _deal(labels, pair_labels // num_classes, order=np.argsort(bits_left, kind="stable"))
    # On the right, the images that the left side used least come first.
    uses = np.bincount(left, minlength=len(labels))
    right = _deal(labels, pair_labels % num_classes, order=np.lexsort((bits_right, uses)))
    return np.concatenate([images[left], images[right]], axis=2), pair_labels


def _deal(labels: Labels, classes: Labels, *, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return an image of each of `classes`: those of a class in `order`, starting over at its end."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    first_of_class = np.cumsum(sizes) - sizes
    return by_class[first_of_class[classes] + _rank_in_class(classes) % sizes[classes]]


def _rank_in_class(labels: Labels) -> npt.NDArray[np.intp]:
    """Return how many images of its own class precede each image, (n,)."""
    by_class = np.argsort(labels, kind="stable")
    first_of_class = np.searchsorted(labels[by_class], labels)
    rank = np.empty(len(labels), np.intp)
    rank[by_class] = np.arange(len(labels))
    return rank - first_of_class


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # NumPy guarantees that these raw bits never change, but not the result of Generator.permutation.
    permutation = np.argsort(np.random.PCG64(0).random_raw(len(digits.target)), kind="stable")
    images = np.rint(digits.images[permutation, :, :, np.newaxis] * (255 / 16)).astype(np.uint8)
    labels = digits.target[permutation].astype(np.int32)
    # Sorted by the fraction of their class that precedes them, every prefix has all classes in proportion.
    fraction_before = (_rank_in_class(labels) + 0.5) / np.bincount(labels)[labels]
    in_proportion = np.argsort(fraction_before, kind="stable")
    train, test = np.sort(in_proportion[:1000]), np.sort(in_proportion[1000:])
    return Dataset(images[train], labels[train], images[test], labels[test], num_classes=10)


def _check_data_dir(data_dir: object, *, unchecked: bool) -> None:
    if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
        raise TypeError(f"data_dir must be a path or None, got {data_dir!r}")
    if data_dir is not None and not os.fspath(data_dir):
        raise ValueError("data_dir must name a folder, got ''")
    if unchecked and data_dir is None:
        raise ValueError("unchecked needs data_dir (--data-dir): downloaded files are always checked")


def _parse_cifar_files(contents: list[tuple[Path, bytes | bytearray]], layout: _Cifar) -> Dataset:
    *train, test = (_parse_cifar(path, content, layout) for path, content in contents)
    train_images, train_labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    folder = contents[0][0].parent
    _warn_absent_classes(f"{folder} (training files)", train_labels, layout.num_classes)
    _warn_absent_classes(str(contents[-1][0]), test[1], layout.num_classes)
    return Dataset(train_images, train_labels, *test, num_classes=layout.num_classes)


def _parse_cifar(path: Path, content: bytes | bytearray, layout: _Cifar) -> tuple[Images, Labels]:
    row_bytes = layout.label_bytes + 3 * 32 * 32
    if not content or len(content) % row_bytes:
        raise ValueError(f"{path} has {len(content):,} bytes, which is not a whole number of rows of {row_bytes:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row_bytes)
    labels = rows[:, layout.label_bytes - 1]
    _check_labels(path, labels, layout.num_classes)
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.astype(np.int32)


def _parse_idx_files(contents: list[tuple[Path, bytes | bytearray]]) -> Dataset:
    train_images, train_labels = _parse_idx_pair(*contents[:2])
    test_images, test_labels = _parse_idx_pair(*contents[2:])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(f"{contents[0][0]} and {contents[2][0]} hold images of different sizes")
    return Dataset(train_images, train_labels, test_images, test_labels, num_classes=10)


def _parse_idx_pair(
    images_file: tuple[Path, bytes | bytearray], labels_file: tuple[Path, bytes | bytearray]
) -> tuple[Images, Labels]:
    images, labels = _parse_idx(*images_file, ndim=3), _parse_idx(*labels_file, ndim=1)
    if len(images) != len(labels):
        raise ValueError(f"{images_file[0]} holds {len(images):,} images, but {labels_file[0]} {len(labels):,} labels")
    _check_labels(labels_file[0], labels, num_classes=10)
    _warn_absent_classes(str(labels_file[0]), labels, num_classes=10)
    return images[..., np.newaxis], labels.astype(np.int32)


def _parse_idx(path: Path, content: bytes | bytearray, *, ndim: int) -> npt.NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes: 0, 0, 8 and ndim as bytes, ndim big-endian sizes, then the values."""
    magic, header_bytes = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if len(content) < header_bytes or content[:4] != magic:
        raise ValueError(
            f"{path} is not an IDX file of bytes in {ndim} dimensions (magic number {magic.hex()}): "
            f"it has {len(content):,} bytes and begins with {content[:4].hex()}"
        )
    shape = np.frombuffer(content, ">u4", count=ndim, offset=4).tolist()
    values = math.prod(shape)
    if not values or len(content) != header_bytes + values:
        raise ValueError(f"{path} has {len(content) - header_bytes:,} values, but announces {values:,}, {shape}")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy()


def _check_labels(path: Path, labels: npt.NDArray[np.uint8], num_classes: int) -> None:
    if labels.max() >= num_classes:
        raise ValueError(f"{path} holds the label {labels.max()}; the largest allowed is {num_classes - 1}")


def _warn_absent_classes(where: str, labels: npt.NDArray[np.integer], num_classes: int) -> None:
    absent = np.setdiff1d(np.arange(num_classes), labels).tolist()
    if absent:
        reason = "; labels must count from 0" if 0 in absent else ""
        warnings.warn(f"{where}: no label is of the classes {absent}{reason}", UserWarning, stacklevel=2)
