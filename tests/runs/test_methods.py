"""The records of methods, centers and nulls agree with the code that computes them."""

from typing import Literal, get_args, get_type_hints

import pytest

from jaxscape.runs.checks import check_embed
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.methods import CENTERS, METHODS, NULLS
from jaxscape.trajectories import distances, geometry, null


def test_the_kinds_of_null_trajectories_are_those_that_are_implemented():
    assert tuple(NULLS) == null.KINDS
    (kinds,) = (kind for kind in get_args(get_type_hints(EmbedConfig)["null"]) if kind is not type(None))
    assert kinds == Literal[tuple(NULLS)]


def test_the_centres_are_those_of_the_distances():
    assert {center.argument for center in CENTERS.values()} == set(distances.CENTERS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_its_own_metric(method):
    check_embed(EmbedConfig(method=method))
    assert EmbedConfig(method=method).name.startswith(f"{method}-{METHODS[method].metric}")


def test_every_statistic_has_a_meaning():
    empty = geometry.Geometry(*[geometry.np.ones((3, 2))] * 8, geometry.np.ones(2))
    assert list(empty.summary()) == list(geometry.STATISTICS)
    assert set(geometry.WITHOUT_MINIMUM) < set(geometry.STATISTICS)
    assert geometry.meanings(has_minimum=False)["path"] == "path length / norm of the start"
