import collections
import gzip
import hashlib
import io
import itertools
import tarfile
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxscape.tasks import originals
from jaxscape.tasks.data import DATASETS, Dataset, corrupt_labels, load_dataset, pair_images, take_training

# Most of the synthetic files here have only a few images.
pytestmark = pytest.mark.filterwarnings("ignore:.* no label is of the classes:UserWarning")

CIFAR10_FILES = [
    *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    "cifar-10-batches-bin/test_batch.bin",
]
CIFAR100_FILES = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]
ARCHIVE = "cifar-10-binary.tar.gz"
IDX_FILES = {
    "train-images-idx3-ubyte": (5, 28, 28),
    "train-labels-idx1-ubyte": (5,),
    "t10k-images-idx3-ubyte": (2, 28, 28),
    "t10k-labels-idx1-ubyte": (2,),
}


def cifar_content(rows, label_bytes, seed=0):
    content = np.random.default_rng(seed).integers(0, 10, (rows, label_bytes + 3072), dtype=np.uint8)
    return content.tobytes()


def write_archive(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def idx_content(shape):
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + np.random.default_rng(0).integers(0, 10, shape, dtype=np.uint8).tobytes()


@pytest.fixture
def cifar10_dir(tmp_path):
    write_archive(tmp_path / ARCHIVE, {name: cifar_content(3, 1, i) for i, name in enumerate(CIFAR10_FILES)})
    return tmp_path


@pytest.fixture
def idx_dir(tmp_path):
    for name, shape in IDX_FILES.items():
        (tmp_path / name).write_bytes(idx_content(shape))
    return tmp_path


@pytest.fixture
def recognize(monkeypatch):
    """Return `recognize(name, contents)`, which registers small files as the original ones of that data set."""

    def patch(name, contents):
        known = {
            Path(file).name: originals.Original(len(content), hashlib.sha256(content).hexdigest())
            for file, content in contents.items()
        }
        monkeypatch.setitem(originals.ORIGINALS, name, known)

    return patch


def assert_equal_datasets(one, other):
    for field, a, b in zip(Dataset._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=field)


# Names


@pytest.mark.parametrize("name", ["imagenet", "imagenet+pairs", "cifar100+pairs", "digits+pairs+pairs", "+pairs"])
def test_an_unknown_name_is_rejected_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=r"digits, cifar10, cifar100, .*, mnist\+pairs, fashion_mnist\+padded, mnist\+padded, got"
    ) as caught:
        load_dataset(name)
    assert str(caught.value).endswith(f"got {name!r}")


# Digits


def test_the_digits_are_those_of_scikit_learn_each_once():
    digits = load_dataset("digits")
    reference = load_digits()
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    ours = sorted((int(label), *image.ravel()) for image, label in zip(images, labels, strict=True))
    scaled = np.rint(reference.data * 255 / 16).astype(np.uint8)
    theirs = sorted((int(label), *row) for row, label in zip(scaled, reference.target, strict=True))
    assert ours == theirs


def test_the_digits_have_the_promised_shapes_and_dtypes():
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1000, 8, 8, 1)
    assert digits.test_images.shape == (797, 8, 8, 1)
    assert digits.train_labels.shape == (1000,)
    assert digits.test_labels.shape == (797,)
    assert [array.dtype for array in digits[:4]] == [np.uint8, np.int32, np.uint8, np.int32]
    assert digits.num_classes == 10


def test_the_digits_reach_from_0_to_255():
    digits = load_dataset("digits")
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 255


def test_the_digits_are_split_in_the_same_proportion_in_every_class():
    digits = load_dataset("digits")
    in_train = np.bincount(digits.train_labels)
    in_all = in_train + np.bincount(digits.test_labels)
    assert np.all(np.abs(in_train - in_all * 1000 / 1797) < 1)


def test_the_split_of_the_digits_never_changes():
    # Recorded: any change of the permutation would make results incomparable.
    digits = load_dataset("digits")
    assert digits.train_labels[:20].tolist() == [0, 6, 3, 8, 1, 8, 4, 1, 5, 8, 9, 7, 5, 2, 6, 9, 4, 2, 0, 1]
    assert int(digits.test_images.astype(int).sum()) == 3_975_148


def test_neighbours_in_scikit_learn_are_spread_over_both_parts():
    # A split without a permutation would take the first 1,000 for training.
    first_images = np.rint(load_digits().data[:1000] * 255 / 16)
    known = {row.astype(np.uint8).tobytes() for row in first_images}
    from_first = sum(image.tobytes() in known for image in load_dataset("digits").test_images)
    assert abs(from_first / 797 - 1000 / 1797) < 0.05


def test_the_digits_need_no_folder(tmp_path):
    with pytest.raises(ValueError, match="data_dir must be None for the digits"):
        load_dataset("digits", data_dir=tmp_path)


# CIFAR


def test_cifar10_pixels_are_stored_in_planes_of_rows(tmp_path):
    content = bytearray(1 + 3072)
    content[0] = 7
    content[1 + 0 * 1024 + 2 * 32 + 5] = 11  # red, row 2, column 5
    content[1 + 1 * 1024 + 2 * 32 + 5] = 22  # green
    content[1 + 2 * 1024 + 31 * 32 + 0] = 33  # blue, row 31, column 0
    write_archive(tmp_path / ARCHIVE, dict.fromkeys(CIFAR10_FILES, bytes(content)))
    data = load_dataset("cifar10", data_dir=tmp_path, unchecked=True)
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[2, 5] = 11, 22, 0
    expected[31, 0] = 0, 0, 33
    np.testing.assert_array_equal(data.test_images, expected[np.newaxis])
    assert data.test_labels.tolist() == [7]


def test_cifar10_takes_its_training_files_in_order(tmp_path):
    write_archive(tmp_path / ARCHIVE, {name: bytes([i]) + bytes(3072) for i, name in enumerate(CIFAR10_FILES)})
    data = load_dataset("cifar10", data_dir=tmp_path, unchecked=True)
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert data.test_labels.tolist() == [5]


def test_cifar_arrays_are_contiguous_and_of_the_promised_dtypes(cifar10_dir):
    data = load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)
    assert data.train_images.shape == (15, 32, 32, 3)
    assert [array.dtype for array in data[:4]] == [np.uint8, np.int32, np.uint8, np.int32]
    assert all(array.flags.c_contiguous and array.flags.writeable for array in data[:4])


def test_cifar100_has_the_fine_labels(tmp_path):
    row = bytes([4, 99]) + bytes(range(256)) * 12  # coarse 4, fine 99
    write_archive(tmp_path / "cifar-100-binary.tar.gz", dict.fromkeys(CIFAR100_FILES, row))
    data = load_dataset("cifar100", data_dir=tmp_path, unchecked=True)
    assert data.train_labels.tolist() == [99]
    assert data.num_classes == 100
    assert data.train_images[0, 0, :3, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "files", "label_bytes"), [("cifar10", CIFAR10_FILES, 1), ("cifar100", CIFAR100_FILES, 2)]
)
def test_an_extracted_cifar_archive_reads_like_the_archive(tmp_path, name, files, label_bytes):
    packed, extracted = tmp_path / "packed", tmp_path / "extracted"
    packed.mkdir()
    archive = packed / f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
    write_archive(archive, {file: cifar_content(2, label_bytes, i) for i, file in enumerate(files)})
    with tarfile.open(archive) as tar:
        tar.extractall(extracted, filter="data")
    assert_equal_datasets(
        load_dataset(name, data_dir=packed, unchecked=True), load_dataset(name, data_dir=extracted, unchecked=True)
    )


@pytest.mark.parametrize("removed", [1, 2000, 3073 * 3])
def test_a_cifar_file_without_whole_rows_is_rejected(tmp_path, removed):
    contents = dict.fromkeys(CIFAR10_FILES, cifar_content(3, 1))
    contents[CIFAR10_FILES[2]] = contents[CIFAR10_FILES[2]][:-removed]
    write_archive(tmp_path / ARCHIVE, contents)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has .* bytes, which is not a whole number of rows"):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_an_over_long_cifar_file_is_rejected(tmp_path):
    contents = dict.fromkeys(CIFAR10_FILES, cifar_content(3, 1))
    contents[CIFAR10_FILES[5]] += b"x"
    write_archive(tmp_path / ARCHIVE, contents)
    with pytest.raises(ValueError, match=r"test_batch\.bin has 9,220 bytes"):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_a_cifar_label_out_of_range_is_rejected(tmp_path):
    write_archive(tmp_path / ARCHIVE, dict.fromkeys(CIFAR10_FILES, bytes([10]) + bytes(3072)))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin holds the label 10; the largest allowed is 9"):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_an_archive_that_lacks_a_member_is_rejected(tmp_path):
    write_archive(tmp_path / ARCHIVE, dict.fromkeys(CIFAR10_FILES[:-1], cifar_content(1, 1)))
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz does not contain .*test_batch\.bin"):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_a_truncated_archive_is_rejected_wherever_it_ends(cifar10_dir):
    archive = cifar10_dir / ARCHIVE
    whole = archive.read_bytes()
    for length in [0, 5, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        archive.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not a whole"):
            load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)


def test_an_archive_with_a_changed_byte_is_rejected(cifar10_dir):
    archive = cifar10_dir / ARCHIVE
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not a whole gzip file"):
        load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)


def test_an_archive_with_trailing_data_is_rejected(cifar10_dir):
    with (cifar10_dir / ARCHIVE).open("ab") as archive:
        archive.write(b"more")
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not a whole gzip file"):
        load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)


def test_a_truncated_tar_in_a_complete_gzip_is_rejected(cifar10_dir):
    archive = cifar10_dir / ARCHIVE
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())[:1000]))
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not a whole tar file"):
        load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)


# IDX


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_by_rows(idx_dir, name):
    content = (idx_dir / "train-images-idx3-ubyte").read_bytes()
    labels = (idx_dir / "train-labels-idx1-ubyte").read_bytes()
    data = load_dataset(name, data_dir=idx_dir, unchecked=True)
    assert data.train_images.shape == (5, 28, 28, 1)
    assert data.test_images.shape == (2, 28, 28, 1)
    assert data.train_images[3, 20, 9, 0] == content[16 + 3 * 784 + 20 * 28 + 9]
    assert data.train_labels.tolist() == list(labels[8:])
    assert [array.dtype for array in data[:4]] == [np.uint8, np.int32, np.uint8, np.int32]
    assert all(array.flags.writeable for array in data[:4])
    assert data.num_classes == 10


def test_gzipped_idx_files_read_like_plain_ones_and_may_be_mixed(idx_dir):
    plain = load_dataset("mnist", data_dir=idx_dir, unchecked=True)
    for name in list(IDX_FILES)[:3]:
        (idx_dir / f"{name}.gz").write_bytes(gzip.compress((idx_dir / name).read_bytes()))
        (idx_dir / name).unlink()
    assert_equal_datasets(load_dataset("mnist", data_dir=idx_dir, unchecked=True), plain)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1], "has 3,919 values, but announces 3,920"),
        ("train-images-idx3-ubyte", lambda content: content + b"x", "has 3,921 values, but announces 3,920"),
        ("train-images-idx3-ubyte", lambda content: content[:10], "is not an IDX file"),
        ("train-images-idx3-ubyte", lambda content: b"", "is not an IDX file"),
        ("train-images-idx3-ubyte", lambda content: b"\0\0\x0d" + content[3:], "begins with 00000d03"),
        ("train-labels-idx1-ubyte", lambda content: idx_content((5, 28, 28)), "is not an IDX file"),
        ("train-labels-idx1-ubyte", lambda content: content[:-1] + b"\x0a", "holds the label 10"),
        ("train-labels-idx1-ubyte", lambda content: idx_content((4,)), "4 labels"),
        ("t10k-images-idx3-ubyte", lambda content: idx_content((0, 28, 28)), "has 0 values"),
        ("t10k-images-idx3-ubyte", lambda content: idx_content((2, 27, 28)), "different sizes"),
    ],
)
def test_a_damaged_idx_file_is_rejected_by_name(idx_dir, name, change, message):
    path = idx_dir / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_dataset("mnist", data_dir=idx_dir, unchecked=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed[:-3],
        lambda packed: packed[:-8] + bytes(8),  # another CRC and length
        lambda packed: packed[:10] + b"\xff" + packed[11:],  # a kind of block that does not exist
    ],
)
def test_a_damaged_gzip_file_is_rejected_by_name(idx_dir, change):
    packed = gzip.compress((idx_dir / "t10k-labels-idx1-ubyte").read_bytes())
    (idx_dir / "t10k-labels-idx1-ubyte.gz").write_bytes(change(packed))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is not a whole gzip file"):
        load_dataset("mnist", data_dir=idx_dir, unchecked=True)


# Files that are not there


def test_a_folder_that_lacks_a_file_is_rejected_with_the_accepted_names(idx_dir):
    (idx_dir / "train-labels-idx1-ubyte").unlink()
    message = "which lacks train-labels-idx1-ubyte.gz or instead train-labels-idx1-ubyte$"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("mnist", data_dir=idx_dir, unchecked=True)


def test_a_half_extracted_archive_is_rejected_with_the_absent_file(tmp_path):
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary" / "train.bin").write_bytes(cifar_content(1, 2))
    message = r"which lacks cifar-100-binary\.tar\.gz or instead cifar-100-binary/test\.bin$"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("cifar100", data_dir=tmp_path, unchecked=True)


@pytest.mark.parametrize("name", [name for name in DATASETS if not name.startswith("digits")])
def test_a_folder_that_does_not_exist_is_rejected(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"nowhere', which is not a folder, and which must hold .*\.gz"):
        load_dataset(name, data_dir=tmp_path / "nowhere")


def test_a_failed_download_says_what_to_put_where_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    import tensorflow_datasets as tfds

    def fail(manager, url):
        unfinished = manager.download_dir / "mnist" / "t10k.tmp.1234"
        unfinished.mkdir(parents=True)
        (unfinished / "half").touch()
        raise OSError("no route\nmany lines more")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(ConnectionError) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    for name in IDX_FILES:
        assert f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}.gz as {name}.gz" in message
    assert "data_dir" in message
    assert message.endswith("OSError: no route")
    assert caught.value.__suppress_context__
    assert not list(tmp_path.rglob("*.tmp.*"))
    assert capfd.readouterr() == ("", "")


def test_an_unfinished_download_of_another_process_is_kept(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(manager, url):
        raise OSError

    unfinished = tmp_path / "downloads" / "mnist" / "t10k.tmp.1234"
    unfinished.mkdir(parents=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(ConnectionError):
        load_dataset("mnist")
    assert unfinished.exists()


def test_a_downloaded_archive_is_read_under_the_name_that_the_cache_gives_it(cifar10_dir, monkeypatch, recognize):
    import tensorflow_datasets as tfds

    recognize("cifar10", {name: cifar_content(3, 1, i) for i, name in enumerate(CIFAR10_FILES)})
    expected = load_dataset("cifar10", data_dir=cifar10_dir, unchecked=True)
    cached = (cifar10_dir / ARCHIVE).rename(cifar10_dir / "cs.toronto.edu_kriz_c4a38c50a1bc.tar.gz")
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10_dir))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda manager, url: cached)
    assert_equal_datasets(load_dataset("cifar10"), expected)


def test_the_settings_of_tfds_are_restored_after_a_download(tmp_path, monkeypatch):
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    seen = []
    before = downloader.MAX_RETRIES, requests.Session.get

    def fail(manager, url):
        seen.append(downloader.MAX_RETRIES)
        raise OSError

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(ConnectionError):
        load_dataset("cifar10")
    assert seen == [0]
    assert (downloader.MAX_RETRIES, requests.Session.get) == before


# Original files, and where people have them

CIFAR10 = {name: cifar_content(3, 1, i) for i, name in enumerate(CIFAR10_FILES)}
IDX = {name: idx_content(shape) for name, shape in IDX_FILES.items()}


def test_the_archives_are_those_that_tfds_downloads():
    import tensorflow_datasets as tfds

    for name, archive in originals.ARCHIVES.items():
        (info,) = tfds.builder_cls(name).url_infos.values()
        assert (info.filename, info.checksum) == (f"{archive.name}.tar.gz", archive.sha256)


def test_the_sizes_of_the_original_files_are_those_of_their_formats():
    sizes = {name: [original.size for original in files.values()] for name, files in originals.ORIGINALS.items()}
    idx = [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
    assert sizes == {
        "cifar10": [10_000 * 3073] * 6,
        "cifar100": [50_000 * 3074, 10_000 * 3074],
        "mnist": idx,
        "fashion_mnist": idx,
    }


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_files_recompressed_by_debian_are_the_original_ones():
    data = load_dataset("fashion_mnist", data_dir=DEBIAN)
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10


def pack(folder, path, rename=lambda name: name, gz=True):
    folder.mkdir()
    write_archive(folder / path, {rename(name): content for name, content in CIFAR10.items()})
    if not gz:
        (folder / path).write_bytes(gzip.decompress((folder / path).read_bytes()))
    return folder


def write_files(folder, contents):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "give",
    [
        lambda folder: pack(folder, ARCHIVE),
        lambda folder: pack(folder, ARCHIVE, lambda name: f"./{name}"),
        lambda folder: pack(folder, ARCHIVE, lambda name: Path(name).name),
        lambda folder: pack(folder, ARCHIVE, gz=False),  # a browser decompressed it
        lambda folder: pack(folder, "cifar-10-binary.tar", gz=False),
        lambda folder: pack(folder, "cifar-10-binary.tar"),
        lambda folder: write_files(folder, CIFAR10),
        lambda folder: write_files(folder, CIFAR10) / "cifar-10-batches-bin",
    ],
)
def test_cifar_is_recognized_however_it_was_repacked(tmp_path, recognize, give):
    recognize("cifar10", CIFAR10)
    data = load_dataset("cifar10", data_dir=give(tmp_path / "given"))
    expected = load_dataset("cifar10", data_dir=write_files(tmp_path / "plain", CIFAR10), unchecked=True)
    assert_equal_datasets(data, expected)


def dotted(name):
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(
    "give",
    [
        lambda folder, _: write_files(folder, IDX),
        lambda folder, _: write_files(folder, {f"{name}.gz": gzip.compress(IDX[name]) for name in IDX}),
        lambda folder, _: write_files(folder, {f"{name}.gz": IDX[name] for name in IDX}),  # a browser decompressed it
        lambda folder, _: write_files(folder, {dotted(name): IDX[name] for name in IDX}),
        lambda folder, _: write_files(folder, {f"{dotted(name)}.gz": gzip.compress(IDX[name]) for name in IDX}),
        lambda folder, torch: write_files(folder, {f"{torch}/raw/{name}": IDX[name] for name in IDX}),
        lambda folder, torch: write_files(folder, {f"{torch}/raw/{name}": IDX[name] for name in IDX}) / torch,
        lambda folder, torch: write_files(folder, {f"{torch}/raw/{name}": IDX[name] for name in IDX}) / torch / "raw",
    ],
)
def test_idx_files_are_recognized_under_all_of_their_names(tmp_path, recognize, name, give):
    recognize(name, IDX)
    data = load_dataset(name, data_dir=give(tmp_path, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]))
    assert data.train_images.tobytes() == IDX["train-images-idx3-ubyte"][16:]
    assert data.test_labels.tolist() == list(IDX["t10k-labels-idx1-ubyte"][8:])


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_made_up_file_is_rejected_with_one_line_that_names_the_remedy(tmp_path, cifar10_dir, idx_dir, name):
    size = {"cifar10": "9,219 bytes, the original 30,730,000", "mnist": "3,936 bytes, the original 47,040,016"}[name]
    with pytest.raises(ValueError, match=f"is not the original file of {name}: it holds {size}") as caught:
        load_dataset(name, data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "--data-unchecked" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", CIFAR10)
@pytest.mark.parametrize("packed", [True, False])
def test_a_changed_pixel_of_cifar_is_rejected(tmp_path, recognize, file, packed):
    recognize("cifar10", CIFAR10)
    changed = CIFAR10 | {file: CIFAR10[file][:-1] + b"\xff"}
    if packed:
        write_archive(tmp_path / ARCHIVE, changed)
    else:
        write_files(tmp_path, changed)
    with pytest.raises(ValueError, match=f"{Path(file).name} is not the original file of cifar10: the SHA-256"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("file", IDX)
def test_a_changed_value_of_an_idx_file_is_rejected(tmp_path, recognize, file):
    recognize("mnist", IDX)
    write_files(tmp_path, IDX | {file: IDX[file][:-1] + bytes([9 - IDX[file][-1]])})
    with pytest.raises(ValueError, match=f"{file} is not the original file of mnist: the SHA-256"):
        load_dataset("mnist", data_dir=tmp_path)


def test_files_of_another_data_set_are_rejected_by_its_name(idx_dir, recognize):
    recognize("fashion_mnist", IDX)
    with pytest.raises(
        ValueError, match="ubyte is not train-images-idx3-ubyte of mnist: it is a file of fashion_mnist"
    ):
        load_dataset("mnist", data_dir=idx_dir)


def test_the_checksum_of_an_archive_proves_its_content(cifar10_dir, monkeypatch):
    digest = hashlib.sha256((cifar10_dir / ARCHIVE).read_bytes()).hexdigest()
    archive = originals.ARCHIVES["cifar10"]._replace(sha256=digest)
    monkeypatch.setitem(originals.ARCHIVES, "cifar10", archive)
    assert load_dataset("cifar10", data_dir=cifar10_dir).train_images.shape == (15, 32, 32, 3)


def test_a_damaged_download_is_to_be_deleted(cifar10_dir, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda manager, url: cifar10_dir / ARCHIVE)
    with pytest.raises(ValueError, match=r"is not the original file.*Delete the file, and it is downloaded again$"):
        load_dataset("cifar10")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("cifar10", "cifar-10-python"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar10", "cifar-10-batches-mat"),
        ("cifar100", "cifar-100-python"),
        ("cifar100", "cifar-100-matlab"),
    ],
)
def test_another_version_of_cifar_is_rejected_by_name(tmp_path, name, other):
    (tmp_path / other).mkdir()
    needed = f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
    words = f"lacks {needed} .*the binary version; {other}, which is there, is not read"
    with pytest.raises(FileNotFoundError, match=words):
        load_dataset(name, data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=words):
        load_dataset(name, data_dir=tmp_path / other)


@pytest.mark.parametrize("other", ["cifar-10-python.tar.gz", "cifar-10-python.tar", "cifar-10-matlab.tar.gz"])
def test_an_archive_of_another_version_is_rejected_by_name(tmp_path, other):
    write_archive(tmp_path / other, {"cifar-10-batches-py/data_batch_1": b"a pickle"})
    with pytest.raises(FileNotFoundError, match=f"the binary version; {other}, which is there, is not read"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_the_python_version_under_the_name_of_the_binary_one_is_rejected(tmp_path):
    write_archive(tmp_path / ARCHIVE, {"cifar-10-batches-py/data_batch_1": b"a pickle"})
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz does not contain data_batch_1\.bin, "):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_labels_that_do_not_count_from_0_draw_a_warning(tmp_path):
    labels = bytes(range(1, 10))
    small = {
        f"{part}-{kind}": content
        for part in ("train", "t10k")
        for kind, content in {
            "images-idx3-ubyte": idx_content((9, 2, 2)),
            "labels-idx1-ubyte": idx_content((9,))[:8] + labels,
        }.items()
    }
    write_files(tmp_path, small)
    with pytest.warns(UserWarning, match="labels-idx1-ubyte: no label is of the classes ") as caught:
        load_dataset("mnist", data_dir=tmp_path, unchecked=True)
    assert [Path(str(warning.message).split(":")[0]).name for warning in caught] == [
        "train-labels-idx1-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    assert all(str(warning.message).endswith("[0]; labels must count from 0") for warning in caught)


def test_cifar_without_a_class_draws_a_warning_for_all_training_files_together(tmp_path):
    write_files(tmp_path, {name: bytes([i]) + bytes(3072) for i, name in enumerate(CIFAR10_FILES)})
    with pytest.warns(UserWarning, match="no label is of the classes") as caught:
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)
    training, test = (str(warning.message) for warning in caught)
    assert training.endswith("cifar-10-batches-bin (training files): no label is of the classes [5, 6, 7, 8, 9]")
    assert "test_batch.bin: no label is of the classes [0, 1, 2, 3, 4, 6, 7, 8, 9]; labels must" in test


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"data_dir": ""}, ValueError, "data_dir must name a folder, got ''"),
        ({"data_dir": 5}, TypeError, "data_dir must be a path or None, got 5"),
        (
            {"unchecked": True},
            ValueError,
            r"unchecked needs data_dir \(--data-dir\): downloaded files are always checked",
        ),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_an_invalid_data_folder_is_rejected(name, arguments, error, words):
    with pytest.raises(error, match=words):
        load_dataset(name, **arguments)


# Hostile archives


@contextmanager
def little_memory(most=6 * 2**20):
    """Bound the peak of the allocations in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def header(name, *, size=0, kind=tarfile.REGTYPE, target="", pax=None):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname, member.pax_headers = size, kind, target, pax or {}
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def sparse(name, size):
    """Return a sparse file of GNU tar in the old format: one header, whose 12 bytes from 483 are its real size."""
    block = bytearray(header(name, kind=tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse_pax(name, size):
    """Return a sparse file of GNU tar in the new format: extended headers, and an empty list of parts."""
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(size)}
    return header(name, size=512, pax=pax) + b"0\n".ljust(512, b"\0")


FIRST = CIFAR10_FILES[0]
END = bytes(1024)
HOSTILE = {
    "links to each other": (
        header("a", kind=tarfile.SYMTYPE, target="b") + header("b", kind=tarfile.SYMTYPE, target="a"),
        "'a', which is a link",
    ),
    "a member that is a link": (header(FIRST, kind=tarfile.LNKTYPE, target=FIRST), "which is a link"),
    "a link to a file outside": (header(FIRST, kind=tarfile.SYMTYPE, target="/etc/passwd"), "which is a link"),
    "a device": (header(FIRST, kind=tarfile.CHRTYPE), "which is a link, a device"),
    "a pipe": (header(FIRST, kind=tarfile.FIFOTYPE), "which is a link, a device"),
    "2 GiB that are sparse": (sparse(FIRST, 2**31), "a sparse file"),
    "200 GiB that are sparse": (sparse(FIRST, 200 * 2**30), "a sparse file"),
    "sparse in extended headers": (sparse_pax(FIRST, 200 * 2**30), "a sparse file"),
    "a sparse file besides": (sparse("readme.html", 2**31), "a sparse file"),
    "a large member": (header(FIRST, size=200 * 2**30) + bytes(2**22), "of 214,748,364,800 bytes, where at most "),
    "a large file besides": (header("x", size=2**30) + bytes(2**22), "'x' of 1,073,741,824 bytes, which does not bel"),
    "many small files besides": (b"".join(header(f"{i}") for i in range(3000)), "holds more than 1,048,576 bytes"),
    "a long name": (header("x", size=2**30, kind=tarfile.GNUTYPE_LONGNAME) + bytes(2**22), "holds more than 1,048,576"),
    "names for names": (header("x", kind=tarfile.GNUTYPE_LONGNAME) * 1500, "is not a whole tar file"),
    "zeros": (bytes(2**26), "holds more than 1,048,576 bytes"),
    "a folder in a file's place": (header(FIRST, kind=tarfile.DIRTYPE), "not a whole number of rows|holds 0 bytes"),
}


@pytest.mark.parametrize("unchecked", [True, False])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_rejected_with_one_line_and_takes_little_memory(tmp_path, case, unchecked):
    content, words = HOSTILE[case]
    row = cifar_content(1, 1)
    rest = b"".join(header(file, size=len(row)) + row.ljust(3584, b"\0") for file in CIFAR10_FILES[1:])
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(content + rest + END))
    with little_memory(), pytest.raises(ValueError, match=words) as caught:
        load_dataset("cifar10", data_dir=tmp_path, unchecked=unchecked)
    assert ARCHIVE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_duplicate_member_is_rejected(tmp_path):
    row = cifar_content(1, 1)
    member = header(FIRST, size=len(row)) + row.ljust(3584, b"\0")
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(member + member + END))
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz contains data_batch_1\.bin twice"):
        load_dataset("cifar10", data_dir=tmp_path, unchecked=True)


def test_no_more_of_a_gzip_file_is_unpacked_than_the_original_holds(idx_dir):
    path = idx_dir / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(IDX["train-labels-idx1-ubyte"] + bytes(2**26)))
    with little_memory(), pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz holds more than 60,008 bytes"):
        load_dataset("mnist", data_dir=idx_dir)


def test_an_unchecked_file_is_bounded_too(idx_dir, monkeypatch):
    monkeypatch.setattr(originals, "UNCHECKED_SIZE", 3000)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte holds more than 3,000 bytes\. At most 3,000"):
        load_dataset("mnist", data_dir=idx_dir, unchecked=True)


def test_any_header_of_a_tar_ends_in_a_one_line_error(tmp_path):
    generator = np.random.default_rng(0)
    row = cifar_content(1, 1)
    readme = header("readme", pax={"comment": "x", "mtime": "1.5"})
    whole = bytearray(readme + b"".join(header(f, size=3073) + row.ljust(3584, b"\0") for f in CIFAR10_FILES))
    for _ in range(300):
        damaged = whole.copy()
        start = int(generator.choice([0, 512, 1024, 1536, 2048, 2560, 6144, 6656]))
        for position in generator.integers(start, start + 512, 1 + generator.integers(8)):
            damaged[position] = generator.choice([0, 32, 48, 49, 55, 128, 255, generator.integers(256)])
        block = damaged[start : start + 512]
        block[148:156] = b" " * 8
        damaged[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        (tmp_path / "cifar-10-binary.tar").write_bytes(damaged + END)
        with pytest.raises(ValueError, match=r"^[^\n]*cifar-10-binary\.tar[^\n]*$"):
            load_dataset("cifar10", data_dir=tmp_path)


# Pairs


def unequal_classes():
    """Return a data set of 3 classes of unequal size, whose images are all different."""
    rng = np.random.default_rng(0)
    train, test = (
        rng.permutation(np.repeat(np.arange(3, dtype=np.int32), sizes)) for sizes in ([2, 12, 36], [1, 9, 4])
    )
    images = np.arange(64 * 6, dtype=np.uint16).view(np.uint8).reshape(64, 2, 3, 2)
    return Dataset(images[:50], train, images[50:], test, num_classes=3)


@pytest.fixture(params=["digits", "unequal classes"])
def source(request):
    return load_dataset("digits") if request.param == "digits" else unequal_classes()


def halves(pairs):
    """Return the left and the right images of an array of pairs, as bytes."""
    width = pairs.shape[2] // 2
    return [[image.tobytes() for image in half] for half in (pairs[:, :, :width], pairs[:, :, width:])]


PARTS = [("train_images", "train_labels"), ("test_images", "test_labels")]


def test_pairs_of_digits_have_the_promised_shapes_and_dtypes():
    pairs = load_dataset("digits+pairs")
    assert pairs.train_images.shape == (1000, 8, 16, 1)
    assert pairs.test_images.shape == (797, 8, 16, 1)
    assert pairs.train_labels.shape == (1000,)
    assert pairs.test_labels.shape == (797,)
    assert [array.dtype for array in pairs[:4]] == [np.uint8, np.int32, np.uint8, np.int32]
    assert all(array.flags.c_contiguous and array.flags.writeable for array in pairs[:4])
    assert pairs.num_classes == 100


@pytest.mark.parametrize(("images", "labels"), PARTS)
def test_the_class_of_a_pair_is_that_of_its_halves_which_are_images_of_the_same_part(source, images, labels):
    # All images are different, so each half identifies its class, and training and test halves are disjoint.
    every = [image.tobytes() for image in (*source.train_images, *source.test_images)]
    assert len(set(every)) == len(every)
    classes = {
        image.tobytes(): label for image, label in zip(getattr(source, images), getattr(source, labels), strict=True)
    }
    pairs = pair_images(source)
    left, right = ([classes[image] for image in half] for half in halves(getattr(pairs, images)))
    np.testing.assert_array_equal(getattr(pairs, labels), source.num_classes * np.array(left) + right)


@pytest.mark.parametrize(("images", "labels"), PARTS)
def test_the_classes_of_pairs_and_the_images_of_a_class_are_as_frequent_as_one_another(source, images, labels):
    pairs = pair_images(source)
    assert len(getattr(pairs, images)) == len(getattr(pairs, labels)) == len(getattr(source, labels))
    counts = np.bincount(getattr(pairs, labels), minlength=source.num_classes**2)
    assert counts.max() - counts.min() <= 1
    uses = collections.Counter(itertools.chain(*halves(getattr(pairs, images))))
    for label in range(source.num_classes):
        of_class = getattr(source, images)[getattr(source, labels) == label]
        used = [uses[image.tobytes()] for image in of_class]
        assert max(used) - min(used) <= 1


def test_a_subset_of_pairs_has_as_many_of_each_of_the_100_classes():
    subset = take_training(load_dataset("digits+pairs"), 300)
    np.testing.assert_array_equal(np.bincount(subset.train_labels), np.full(100, 3))


def test_pairs_are_shuffled():
    # Neighbours in the source would otherwise stay together; images are their indices, of one class.
    count = 1000
    numbers = np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 1, 2)
    labels = np.zeros(count, np.int32)
    pairs = pair_images(Dataset(numbers, labels, numbers, labels, num_classes=1))
    train, test = (
        images.reshape(count, 4).copy().view(np.uint16).T for images in (pairs.train_images, pairs.test_images)
    )
    orders = [np.arange(count), *train, *test]
    correlations = np.corrcoef(orders)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(count)


def test_pairs_never_change():
    # Recorded: any change would make results incomparable.
    pairs = load_dataset("digits+pairs")
    assert [zlib.crc32(array.tobytes()) for array in pairs[:4]] == [757332578, 1672529424, 2977923230, 955701621]
    assert_equal_datasets(pair_images(load_dataset("digits")), pairs)


def test_pairs_are_read_from_a_folder(idx_dir):
    labels = bytes(range(10))
    for part in ("train", "t10k"):
        header = (idx_dir / f"{part}-images-idx3-ubyte").read_bytes()[:4]
        sizes = b"".join(size.to_bytes(4, "big") for size in (10, 28, 28))
        (idx_dir / f"{part}-images-idx3-ubyte").write_bytes(header + sizes + bytes(10 * 784))
        (idx_dir / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x0a" + labels)
    pairs = load_dataset("fashion_mnist+pairs", data_dir=idx_dir, unchecked=True)
    assert pairs.train_images.shape == (10, 28, 56, 1)
    assert pairs.num_classes == 100


def test_padded_images_stand_in_a_black_frame(idx_dir):
    plain = load_dataset("fashion_mnist", data_dir=idx_dir, unchecked=True)
    padded = load_dataset("fashion_mnist+padded", data_dir=idx_dir, unchecked=True)
    for part in ("train_images", "test_images"):
        images = getattr(padded, part)
        assert images.shape[1:] == (32, 32, 1)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images[:, 2:-2, 2:-2], getattr(plain, part))
        assert images.sum(dtype=np.int64) == getattr(plain, part).sum(dtype=np.int64)
    np.testing.assert_array_equal(padded.train_labels, plain.train_labels)
    assert padded.num_classes == 10


def test_a_class_without_images_cannot_be_paired():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 2], np.int32)
    with pytest.raises(ValueError, match=r"pairs need training images of every class, but there are none of \[1, 3\]"):
        pair_images(Dataset(images, labels, images, labels, num_classes=4))
    two = Dataset(images, np.array([1, 0], np.int32), images, np.zeros(2, np.int32), num_classes=2)
    with pytest.raises(ValueError, match=r"pairs need test images of every class, but there are none of \[1\]"):
        pair_images(two)


# Fewer training images


@pytest.mark.parametrize("size", [1, 7, 10, 123, 500, 970])
def test_a_subset_has_as_many_of_every_class(size):
    subset = take_training(load_dataset("digits"), size)
    counts = np.bincount(subset.train_labels, minlength=10)
    assert len(subset.train_images) == counts.sum() == size
    assert counts.max() - counts.min() <= 1


def test_a_subset_takes_what_is_left_when_a_class_runs_out():
    labels = np.array([0, 1, 1, 1, 1, 2, 2], np.int32)
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    subset = take_training(Dataset(images, labels, images, labels, 3), 6)
    assert subset.train_images.ravel().tolist() == [0, 1, 2, 3, 5, 6]
    assert subset.train_labels.tolist() == [0, 1, 1, 1, 2, 2]


def test_a_subset_takes_the_first_images_of_each_class_in_their_order():
    labels = np.array([2, 0, 0, 1, 1, 2, 0], np.int32)
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    subset = take_training(Dataset(images, labels, images, labels, 3), 3)
    assert subset.train_images.ravel().tolist() == [0, 1, 3]


def test_a_larger_subset_contains_a_smaller_one():
    digits = load_dataset("digits")
    numbered = digits._replace(train_images=np.arange(1000))
    subsets = [set(take_training(numbered, size).train_images.tolist()) for size in (57, 58, 300, 999)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(subsets))


def test_a_subset_of_all_images_is_the_data_set():
    digits = load_dataset("digits")
    assert_equal_datasets(take_training(digits, 1000), digits)


def test_a_subset_does_not_change_the_test_images():
    digits = load_dataset("digits")
    assert take_training(digits, 10).test_images is digits.test_images
    assert take_training(digits, 10).test_labels is digits.test_labels


def test_the_first_images_never_change():
    # Recorded before random draws existed: results without a key stay comparable.
    subset = take_training(load_dataset("digits"), 100)
    assert [zlib.crc32(array.tobytes()) for array in subset[:2]] == [1244354390, 3710949318]
    assert_equal_datasets(take_training(load_dataset("digits"), 100, None), subset)


def test_a_draw_never_changes():
    # Recorded: any change would make results with images_seed incomparable.
    numbered = load_dataset("digits")._replace(train_images=np.arange(1000))
    drawn = take_training(numbered, 12, jax.random.key(0)).train_images
    assert drawn.tolist() == [0, 19, 36, 166, 226, 474, 475, 484, 613, 703, 769, 835]
    legacy = take_training(numbered, 12, jax.random.PRNGKey(0)).train_images
    np.testing.assert_array_equal(legacy, drawn)


@pytest.mark.parametrize("size", [1, 7, 10, 123, 500, 970])
def test_a_draw_has_the_class_counts_of_the_first_images(size):
    digits = load_dataset("digits")
    first, drawn = (np.bincount(take_training(digits, size, key).train_labels) for key in (None, jax.random.key(3)))
    np.testing.assert_array_equal(drawn, first)


def test_a_draw_keeps_each_image_with_its_label_in_the_order_of_the_data():
    digits = load_dataset("digits")
    numbered = digits._replace(train_images=np.arange(1000))
    drawn = take_training(numbered, 100, jax.random.key(3))
    assert (np.diff(drawn.train_images) > 0).all()
    np.testing.assert_array_equal(drawn.train_labels, digits.train_labels[drawn.train_images])


def test_a_larger_draw_contains_a_smaller_one_of_the_same_key():
    numbered = load_dataset("digits")._replace(train_images=np.arange(1000))
    sizes = (10, 57, 58, 300, 999, 1000)
    drawn = [set(take_training(numbered, size, jax.random.key(3)).train_images.tolist()) for size in sizes]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(drawn))


def test_draws_of_different_keys_are_independent():
    # Two draws of 100 of 1,000 images share 10 on average; per class hypergeometric, with a variance of 8.1 in all.
    numbered = load_dataset("digits")._replace(train_images=np.arange(1000))
    drawn = [set(take_training(numbered, 100, jax.random.key(seed)).train_images.tolist()) for seed in range(20)]
    shared = [len(one & other) for one, other in itertools.combinations(drawn, 2)]
    assert abs(np.mean(shared) - 10) < 1
    assert max(shared) < 10 + 5 * np.sqrt(8.1)


def test_a_draw_takes_what_is_left_when_a_class_runs_out():
    labels = np.array([0, 1, 1, 1, 1, 2, 2], np.int32)
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    for seed in range(5):
        subset = take_training(Dataset(images, labels, images, labels, 3), 6, jax.random.key(seed))
        assert np.bincount(subset.train_labels).tolist() == [1, 3, 2]


@pytest.mark.parametrize("key", [0, "seed", np.arange(3.0)])
def test_a_draw_needs_one_key(key):
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        take_training(load_dataset("digits"), 10, key)


@pytest.mark.parametrize("size", [-1, 0, 1001])
def test_a_subset_larger_than_the_set_or_empty_is_rejected(size):
    with pytest.raises(ValueError, match=f"size must be from 1 to 1000, .*got {size}"):
        take_training(load_dataset("digits"), size)


@pytest.mark.parametrize("size", [2.0, True, "10", None])
def test_a_size_that_is_not_an_integer_is_rejected(size):
    with pytest.raises(TypeError, match=f"size must be an integer, got {size!r}"):
        take_training(load_dataset("digits"), size)


# Corrupted labels

LABELS = np.arange(20_000, dtype=np.int32) % 10


def test_a_fraction_of_zero_changes_no_label():
    corrupted = corrupt_labels(jax.random.key(0), LABELS, num_classes=10, fraction=0.0)
    np.testing.assert_array_equal(corrupted, LABELS)
    assert corrupted is not LABELS


@pytest.mark.parametrize(("fraction", "drawn"), [(0.1, 2), (0.2, 5), (0.999, 25), (1.0, 25)])
def test_exactly_the_rounded_number_of_labels_is_drawn(fraction, drawn):
    # With a million classes practically no label is drawn as it was.
    labels = np.zeros(25, np.int32)
    corrupted = corrupt_labels(jax.random.key(3), labels, num_classes=1_000_000, fraction=fraction)
    assert (corrupted != labels).sum() == drawn


def test_random_labels_agree_with_the_true_ones_by_chance():
    corrupted = corrupt_labels(jax.random.key(0), LABELS, num_classes=10)
    deviation = np.sqrt(0.1 * 0.9 / len(LABELS))
    assert abs((corrupted == LABELS).mean() - 0.1) < 4 * deviation


def test_random_labels_are_uniform_over_the_classes():
    corrupted = corrupt_labels(jax.random.key(0), np.zeros(20_000, int), num_classes=7)
    counts = np.bincount(corrupted, minlength=7)
    expected = 20_000 / 7
    assert len(counts) == 7
    assert np.sum((counts - expected) ** 2 / expected) < 22.5  # chi-square, 6 degrees: 0.1 % of draws are above


def test_a_larger_fraction_changes_what_a_smaller_one_changes():
    small, large = (
        corrupt_labels(jax.random.key(1), LABELS, num_classes=10, fraction=fraction) for fraction in (0.2, 0.6)
    )
    changed = small != LABELS
    np.testing.assert_array_equal(large[changed], small[changed])


def test_a_key_gives_the_same_labels_again_and_another_key_others():
    first, again, other = (
        corrupt_labels(jax.random.key(seed), LABELS, num_classes=10, fraction=0.5) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_legacy_key_gives_the_labels_of_the_typed_one():
    typed = corrupt_labels(jax.random.key(5), LABELS, num_classes=10)
    legacy = corrupt_labels(jax.random.PRNGKey(5), LABELS, num_classes=10)
    np.testing.assert_array_equal(typed, legacy)


def test_corrupted_labels_are_new_int32_numpy_arrays():
    labels = jax.numpy.zeros(10, dtype="uint8")
    corrupted = corrupt_labels(jax.random.key(0), labels, num_classes=10)
    assert type(corrupted) is np.ndarray
    assert corrupted.dtype == np.int32
    assert labels.sum() == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_rejected(fraction):
    with pytest.raises(ValueError, match=f"fraction must be from 0 to 1, got {fraction}"):
        corrupt_labels(jax.random.key(0), LABELS, num_classes=10, fraction=fraction)


def test_labels_out_of_range_are_rejected():
    with pytest.raises(ValueError, match="labels must be from 0 to 8, got 0 to 9"):
        corrupt_labels(jax.random.key(0), LABELS, num_classes=9)


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "10", None])
def test_an_invalid_number_of_classes_is_rejected(num_classes):
    with pytest.raises(ValueError, match=f"num_classes must be an integer of at least 1, got {num_classes!r}"):
        corrupt_labels(jax.random.key(0), LABELS, num_classes=num_classes)


@pytest.mark.parametrize("labels", [np.zeros((4, 10), np.int32), np.zeros(4)])
def test_labels_that_are_not_a_vector_of_integers_are_rejected(labels):
    with pytest.raises(ValueError, match=r"labels must be integers \(n,\), got"):
        corrupt_labels(jax.random.key(0), labels, num_classes=10)
