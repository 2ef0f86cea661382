"""The built-in problems: image data sets, augmentation, WideResNet; each ends in a `jaxscape.Problem`."""
