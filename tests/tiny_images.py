"""Images for tests that need a data set on disk: few, small, and the same every time."""

import numpy as np


def write_images(folder):
    """Write a folder like MNIST's: 60 training and 20 test images of 8x8 pixels, each class brightest at a place."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part, count in {"train": 60, "t10k": 20}.items():
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = generator.integers(0, 100, (count, 64), dtype=np.uint8)
        pixels[np.arange(count), 6 * labels] += 150
        for name, values in {"images-idx3": pixels.reshape(-1, 8, 8), "labels-idx1": labels}.items():
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return folder
