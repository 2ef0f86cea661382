"""Download of the original files of a data set, through TensorFlow Datasets (TFDS).

Used by `data.py`, which parses the files, if no local folder is given. Only TFDS's DownloadManager is used (it
downloads, checks the sha256 that TFDS ships, and caches): the rest of TFDS needs TensorFlow.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_TIMEOUT = (5, 30)  # seconds: to connect, and between two packets


def download(name: str) -> dict[str, Path]:
    """Return the original files of a data set, from TFDS's cache or from the network.

    The cache is TFDS's own: the folder `downloads` in `$TFDS_DATA_DIR`, or in `~/tensorflow_datasets`.

    Args:
        name: a data set of TFDS that consists of downloaded archives, such as "cifar10".

    Returns:
        The path of each file under its original name, which is not the name it has in the cache.

    Raises:
        ConnectionError: A download failed, or its sha256 is wrong. The message says how to provide the files.
    """
    import tensorflow_datasets as tfds

    cache = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / "downloads"
    url_infos = tfds.builder_cls(name).url_infos
    manager = tfds.download.DownloadManager(download_dir=cache, dataset_name=name, url_infos=url_infos)
    unfinished = set((cache / name).glob("*.tmp.*"))
    try:
        with _brief_and_quiet():
            return {info.filename: Path(manager.download(url)) for url, info in url_infos.items()}
    except Exception as error:  # whatever TFDS, requests or the disk raised
        for folder in set((cache / name).glob("*.tmp.*")) - unfinished:
            shutil.rmtree(folder, ignore_errors=True)
        addresses = "".join(f"\n  {url} as {info.filename}" for url, info in url_infos.items())
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConnectionError(
            f"{name} could not be downloaded. Put these files, under these names, into a folder of their own "
            f"and give it as data_dir:{addresses}\nThe reason was {reason}"
        ) from None


@contextlib.contextmanager
def _brief_and_quiet() -> Iterator[None]:
    """Set time limits, which TFDS lacks, within this block only.

    Without them it retries ten times (205 s without a network), waits forever for a firewall that does not answer,
    and leaves broken progress bars above the error.
    """
    import requests
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.utils import tqdm_utils

    get_with_timeout = functools.partialmethod(requests.Session.get, timeout=_TIMEOUT)
    settings = [
        (downloader, "MAX_RETRIES", 0),
        (tqdm_utils, "_active", False),
        (requests.Session, "get", get_with_timeout),
    ]
    saved = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in settings]
    try:
        for owner, attribute, value in settings:
            setattr(owner, attribute, value)
        yield
    finally:
        for owner, attribute, value in saved:
            setattr(owner, attribute, value)
