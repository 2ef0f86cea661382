"""The original files of the data sets: where they are usually stored, and how they are verified.

`data.py` parses what `read_originals` returns. Files are verified by their content: it does not matter who compressed
them, nor which of the usual names they have.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxscape.tasks.archives import TooLarge, file_sha256, read_file, read_members
from jaxscape.tasks.download import download


class Original(NamedTuple):
    """The size and the SHA-256 of the decompressed content of an original file."""

    size: int
    sha256: str


class _NotOriginal(ValueError):
    """Raised for a file that is not the original one; the message says how it differs."""


class Archive(NamedTuple):
    """The archive of a data set.

    Attributes:
        name: its file name without .tar.gz.
        sha256: of the archive itself.
        folder: the folder that it unpacks to.
        others: archives and folders of the versions for MATLAB and for Python, whose pickles can run any code.
    """

    name: str
    sha256: str
    folder: str
    others: tuple[str, ...]


# In the order in which `data.py` takes them: training before test, images before labels.
# MNIST: the same values are listed with the checksums of the .gz files in public repositories without a common author.
# Fashion-MNIST: from the files in Debian's package dataset-fashion-mnist, and the same in public repositories.
# CIFAR: from the gem torchvision (lib/torchvision/datasets/cifar10.rb, cifar100.rb), whose tests download the archive,
# verify that it has the checksum in `ARCHIVES`, unpack it and verify these.
ORIGINALS = {
    "cifar10": {
        "data_batch_1.bin": Original(30_730_000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        "data_batch_2.bin": Original(30_730_000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        "data_batch_3.bin": Original(30_730_000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        "data_batch_4.bin": Original(30_730_000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        "data_batch_5.bin": Original(30_730_000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        "test_batch.bin": Original(30_730_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    },
    "cifar100": {
        "train.bin": Original(153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        "test.bin": Original(30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": Original(
            47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": Original(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        "t10k-images-idx3-ubyte": Original(
            7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": Original(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
    "mnist": {
        "train-images-idx3-ubyte": Original(
            47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": Original(60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        "t10k-images-idx3-ubyte": Original(
            7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": Original(10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    },
}

ARCHIVES = {
    "cifar10": Archive(
        name="cifar-10-binary",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        others=("cifar-10-python", "cifar-10-batches-py", "cifar-10-matlab", "cifar-10-batches-mat"),
    ),
    "cifar100": Archive(
        name="cifar-100-binary",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        others=("cifar-100-python", "cifar-100-matlab"),
    ),
}

# Where torchvision keeps IDX files, below its root folder.
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}

# The largest decompressed size of an unchecked file or archive: 20 times the original training images of MNIST.
UNCHECKED_SIZE = 2**30


def read_originals(name: str, data_dir: str | None, *, unchecked: bool) -> list[tuple[Path, bytes | bytearray]]:
    """Return the content of the files of a data set, each with the path that it comes from.

    Args:
        name: one of `ORIGINALS`.
        data_dir: the folder with the files; None downloads them.
        unchecked: accept files that are not the original ones, of at most `UNCHECKED_SIZE` bytes.

    Returns:
        Paths and contents in the order of `ORIGINALS[name]`.

    Raises:
        ValueError: A file is damaged, too large, or not the original one.
        FileNotFoundError: `data_dir` does not exist or lacks a file.
        ConnectionError: The download failed.
    """
    source = _download(name) if data_dir is None else _find(name, Path(data_dir).expanduser())
    try:
        contents = _read(name, source, unchecked=unchecked)
        if not (unchecked or _is_original_archive(name, source)):
            for file, (path, content) in zip(ORIGINALS[name], contents, strict=True):
                _check_original(name, file, path, content)
    except (_NotOriginal, TooLarge) as error:
        hint = "Delete the file, and it is downloaded again" if data_dir is None else _hint(name, unchecked)
        raise ValueError(f"{error}. {hint}") from None
    return contents


def _read(name: str, source: Path | list[Path], *, unchecked: bool) -> list[tuple[Path, bytes | bytearray]]:
    most = {file: original.size for file, original in ORIGINALS[name].items()}
    if isinstance(source, Path):
        members = read_members(source, dict.fromkeys(most, UNCHECKED_SIZE // len(most)) if unchecked else most)
        return [(source / file, members[file]) for file in most]
    sizes = [UNCHECKED_SIZE] * len(most) if unchecked else list(most.values())
    return [(path, read_file(path, most=size)) for path, size in zip(source, sizes, strict=True)]


def _is_original_archive(name: str, source: Path | list[Path]) -> bool:
    return isinstance(source, Path) and file_sha256(source) == ARCHIVES[name].sha256


def _check_original(name: str, file: str, path: Path, content: bytes | bytearray) -> None:
    original, digest = ORIGINALS[name][file], hashlib.sha256(content).hexdigest()
    if digest == original.sha256:
        return
    owner = next((other for other in ORIGINALS if digest in {sha256 for _, sha256 in ORIGINALS[other].values()}), None)
    if owner:
        raise _NotOriginal(f"{path} is not {file} of {name}: it is a file of {owner}")
    differs = f"the SHA-256 of its content is {digest}, that of the original {original.sha256}"
    if len(content) != original.size:
        differs = f"it holds {len(content):,} bytes, the original {original.size:,}"
    raise _NotOriginal(f"{path} is not the original file of {name}: {differs}")


def _hint(name: str, unchecked: bool) -> str:
    if unchecked:
        return f"At most {UNCHECKED_SIZE:,} bytes are read of a file or an archive"
    files = f"{ARCHIVES[name].name}.tar.gz or what it unpacks to" if name in ARCHIVES else "IDX, gzip or plain"
    return f"Give the original files ({files}), or load other ones with --data-unchecked (Python: unchecked=True)"


def _download(name: str) -> Path | list[Path]:
    downloaded = download(name)
    if name in ARCHIVES:
        return downloaded[f"{ARCHIVES[name].name}.tar.gz"]
    return [downloaded[f"{file}.gz"] for file in ORIGINALS[name]]


def _find(name: str, folder: Path) -> Path | list[Path]:
    """Return the archive of a data set in a folder, or else its files in order.

    Raises:
        FileNotFoundError: the message says which files are missing.
    """
    source, missing = _find_cifar(name, folder) if name in ARCHIVES else _find_idx(name, folder)
    if missing:
        state = "which lacks" if folder.is_dir() else "which is not a folder, and which must hold"
        raise FileNotFoundError(f"data_dir is {str(folder)!r}, {state} {missing}")
    return source


def _find_cifar(name: str, folder: Path) -> tuple[Path | list[Path], str]:
    """Return the files that exist, and a description of those that are missing."""
    archive = ARCHIVES[name]
    for ending in (".tar.gz", ".tar"):
        if (path := folder / f"{archive.name}{ending}").is_file():
            return path, ""
    inner = Path(archive.folder)
    place = next((place for place in (inner, Path()) if _holds_any(folder / place, list(ORIGINALS[name]))), inner)
    files = [place / file for file in ORIGINALS[name]]
    absent = [str(file) for file in files if not (folder / file).is_file()]
    if not absent:
        return [folder / file for file in files], ""
    missing = f"{archive.name}.tar.gz or instead {', '.join(absent)}"
    if unread := _unread_version(folder, archive):
        missing += f" (the binary version; {unread}, which is there, is not read)"
    return [], missing


def _unread_version(folder: Path, archive: Archive) -> str | None:
    """Return the name of another version of an archive, in a folder or as the folder itself."""
    if folder.name in archive.others:
        return folder.name
    names = [name + ending for name in archive.others for ending in ("", ".tar.gz", ".tar")]
    return next((name for name in names if (folder / name).exists()), None)


def _find_idx(name: str, folder: Path) -> tuple[list[Path], str]:
    """Return the files that exist, and a description of those that are missing."""
    places = [Path(), Path("raw"), Path(_TORCHVISION[name], "raw")]
    spellings = {file: _spell_idx(file) for file in ORIGINALS[name]}
    every = [spelling for names in spellings.values() for spelling in names]
    place = next((place for place in places if _holds_any(folder / place, every)), Path())
    files = []
    missing = []
    for names in spellings.values():
        existing = [path for path in (folder / place / spelling for spelling in names) if path.is_file()]
        files += existing[:1]
        if not existing:
            missing.append(f"{place / names[0]} or instead {place / names[1]}")
    return files, "; and ".join(missing)


def _spell_idx(file: str) -> list[str]:
    """Return the usual names of an IDX file; some sites replace the second hyphen with a dot."""
    return [name + ending for name in (file, file.replace("-idx", ".idx")) for ending in (".gz", "")]


def _holds_any(folder: Path, names: list[str]) -> bool:
    return any((folder / name).is_file() for name in names)
