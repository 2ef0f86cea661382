"""The stage `embed`: coordinates from the Gram matrix, one folder per combination of settings."""

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from jaxscape.runs.checks import check_embed
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.embeddings import (
    COORDINATES,
    DIAGNOSTICS,
    damaged_embeddings,
    embedding_folder,
    embeddings,
    read_setting,
)
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import key_data
from jaxscape.runs.lock import writing
from jaxscape.runs.measure import Measured, complete_report, group_of, measure, perturbed
from jaxscape.runs.null import nulls_of
from jaxscape.runs.processes import check_devices
from jaxscape.runs.tables import write_table
from jaxscape.trajectories.files import write_record
from jaxscape.trajectories.gram import take_points


def embed_trajectories(run: Path, config: EmbedConfig, *, console: Console) -> Path:
    """Embed a finished run, or find it done; returns the folder of the embedding.

    Raises:
        FileNotFoundError: if there are no finished trajectories.
        ValueError: for an invalid setting.
        OSError: if the run folder cannot be written to.
    """
    check_embed(config)
    run = RunFolder(run)
    needs_minimum = config.include_minimum or (config.center == "minimum" and config.distance == "cosine")
    if needs_minimum and run.read_config() and not run.kind.has_minimum:
        raise ValueError(f"center minimum and include_minimum require a minimum, but {run} has none")
    measured = _select(perturbed(measure(run, console=console)), config)
    folder = embedding_folder(run, config.name)
    if config.name in embeddings(run):
        console.print(f"{run}: {config.name} is up to date")
        return folder
    if reason := damaged_embeddings(run).get(config.name):
        console.print(f"{reason}; it is recomputed")
    # Imported only now, because they import jax, scipy and every method, which an existing embedding does not need.
    from jaxscape.runs.layouts import draw
    from jaxscape.runs.trust import alternative, compare_with_surrogates, picture_fidelity, tried_table

    check_devices()
    started = time.monotonic()
    with console.status(f"{run.name}: {config.name}"):
        shown, nulls = measured.gram, nulls_of(run, measured.gram, measured.labels, group=_group(run))
        if config.null is not None:
            shown = nulls.draw(config.null, key_data(0))
        picture = draw(shown, config)
        diagnostics = picture.diagnostics | {"fidelity": picture_fidelity(picture, measured.labels)}
        diagnostics["surrogate"] = compare_with_surrogates(picture, config, measured.labels, nulls.draws())
        if diagnostics["degenerate"] and (suggestion := alternative(picture, config)):
            diagnostics["warnings"] = [*diagnostics["warnings"], suggestion]
    embedding = picture.embedding
    axes = "xyz" if config.n_components <= 3 else [f"axis{i}_" for i in range(config.n_components)]
    coordinates = {axes[i]: embedding[:, i] for i in range(config.n_components)}
    setting = vars(config) | {"metric": config.distance}
    with writing(run, wait=console):
        write_table(run, folder / COORDINATES, _labels(measured, picture.first) | picture.columns | coordinates)
        # Last: its presence marks the coordinates as complete.
        write_record(folder / DIAGNOSTICS, {"fingerprint": measured.fingerprint, "setting": setting, **diagnostics})
        run.record_seconds("embed", time.monotonic() - started)
    complete_report(run, console=console)
    if (table := tried_table(diagnostics)) is not None:
        console.print(table)
    for note in diagnostics["warnings"]:
        console.print(f"{run}, {config.name}: {note}")
    return folder


def repair_embeddings(run: Path, *, console: Console) -> None:
    """Recompute the damaged embeddings of a finished run, and print which ones."""
    settings = {name: read_setting(run, name) for name in damaged_embeddings(run)}
    for name, config in settings.items():
        if config is None:
            console.print(f"{run}: {name} is damaged and its settings are lost; `jaxscape embed {run}` makes it again")
        else:
            embed_trajectories(run, config, console=console)


def _select(measured: Measured, config: EmbedConfig) -> Measured:
    """Return the selected trajectories; the mean is then that of the selection."""
    rows = np.ones(measured.gram.num_points, bool)
    for name, selected in (("seed", config.only_seeds), ("optimizer", config.only_optimizers)):
        known = np.unique(measured.labels[name]).tolist() if name in measured.labels else []
        if selected and set(selected) - set(known):
            raise ValueError(f"only_{name}s must be some of {known}, got {' '.join(map(str, selected))}")
        if selected:
            rows &= np.isin(measured.labels[name], selected)
    if rows.all():
        return measured
    if not rows.any():
        raise ValueError(f"no trajectory has seed {config.only_seeds} and optimizer {config.only_optimizers}")
    labels = {name: values[rows] for name, values in measured.labels.items()}
    return measured._replace(gram=take_points(measured.gram, np.flatnonzero(rows)), labels=labels)


def _group(run: RunFolder) -> str:
    """Return the label within which trajectories exchange increments; "" for copies, which exchange by step size."""
    return "" if run.kind.has_minimum else group_of(run.settings(run.kind.stage))


def _labels(measured: Measured, first: int) -> dict[str, np.ndarray]:
    """Return the labels of the rows; the minimum, if it is the first row, has member -1."""
    if not first:
        return measured.labels
    blank = {"member": -1, "seed": -1, "step_size": 0.0, "epoch": 0, "update": 0}
    return {name: np.concatenate([[blank[name]], values]) for name, values in measured.labels.items()}
