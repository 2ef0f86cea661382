"""Null trajectories against closed forms and against explicit vectors turned by explicit random rotations."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from jaxscape.training.optimizers import decay_factors, make_optimizer
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.geometry import trajectory_geometry, trajectory_rows
from jaxscape.trajectories.gram import gram, inner_products
from jaxscape.trajectories.null import KINDS, NEED_FACTORS, null_trajectories, split_displacements

WITHOUT_FACTORS = [kind for kind in KINDS if kind not in NEED_FACTORS]
STANDING = [kind for kind in WITHOUT_FACTORS if kind != "exchange"]  # whose copies stand where they stood


def decay_trajectories(real, factors):
    return null_trajectories(real, kind="decay", key=jax.random.key(0), factors=factors)


MEMBERS = 3
EPOCHS = 5  # four movements


def real_gram(size, *, epochs=EPOCHS, members=MEMBERS, seed=0, reference=True):
    """Trajectories that drift, so that movements of a member have to do with one another and with the jump."""
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(size)
    moves = 0.3 * generator.standard_normal((epochs, members, size)) - 0.1 * generator.standard_normal((members, size))
    moves[0] = generator.standard_normal((members, size))
    points = minimum + np.cumsum(moves, axis=0)
    parents = np.maximum(np.arange(epochs * members) - members, -1)
    return gram(points.reshape(-1, size), reference=minimum if reference else None, parents=parents)


def kept_blocks(real, kind):
    """Sets of rows whose products with one another the null keeps: what was there before, and each rotated group."""
    rows = trajectory_rows(real)
    groups = list(rows[1:].T) if kind == "rotated" else [np.array([row]) for row in rows[1:].ravel()]
    return [np.concatenate([[0], rows[0]]), *groups]


def crossings(real, kind):
    """True for products of increments of different blocks, which the null draws."""
    crossing = np.ones(real.products.shape, bool)
    for block in kept_blocks(real, kind):
        crossing[np.ix_(block, block)] = False
    return crossing


def cosines(products):
    length = np.sqrt(np.diag(products))
    return products / (length[:, None] * length)


def draws(real, kind, count):
    """Cosines between the increments of `count` nulls: float64 (count, k, k)."""
    keys = jax.random.split(jax.random.key(1), count)
    return np.stack([cosines(null_trajectories(real, kind=kind, key=key).products) for key in keys])


@pytest.mark.parametrize("size", [3, 10, 1000])
@pytest.mark.parametrize("kind", ["rotated", "random"])
def test_a_null_keeps_its_invariants_bit_for_bit(kind, size):
    real = real_gram(size)
    null = null_trajectories(real, kind=kind, key=jax.random.key(0))
    crossing = crossings(real, kind)
    for name in ("products", "remainders"):
        np.testing.assert_array_equal(getattr(null, name)[~crossing], getattr(real, name)[~crossing], err_msg=name)
    assert (null.products[crossing] != real.products[crossing]).all()
    np.testing.assert_array_equal(null.parents, real.parents)
    assert (null.has_reference, null.dimension) == (real.has_reference, real.dimension)


# Of the Gaussian vectors each coordinate is drawn where P is small (3: less than a member has movements; 10), and a
# triangular factor where it is large (17: just large enough for the 12 movements and what is fixed; 1000).
# By default each kind once, and each way once.
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("rotated", 10),
        ("random", 17),
        *(
            pytest.param(kind, size, marks=pytest.mark.slow)
            for kind in ("rotated", "random")
            for size in (3, 10, 17, 1000)
            if (kind, size) not in (("rotated", 10), ("random", 17))
        ),
    ],
)
def test_each_drawn_cosine_has_the_distribution_of_random_vectors(kind, size):
    """cos^2 of a random direction with any other vector is Beta(1/2, (P - 1)/2) in P dimensions, and its sign is fair.

    Of two increments drawn again and again, so that the draws are independent; for all kinds of pairs.
    """
    real = real_gram(size)
    sample = draws(real, kind, 300)
    minimum, start, first, last, other = 0, 1, 4, 13, 5  # rows: 1 to 3 start, 4 to 15 move, members within
    pairs = [(minimum, first), (start, first), (start, other), (first, other), (last, other)]
    for one, another in pairs:
        cosine = sample[:, one, another]
        assert stats.kstest(cosine**2, stats.beta(0.5, (size - 1) / 2).cdf).pvalue > 1e-3, (one, another)
        assert stats.binomtest(int((cosine > 0).sum()), len(cosine)).pvalue > 1e-3, (one, another)


@pytest.mark.slow
def test_two_movements_in_the_fewest_dimensions_for_the_triangular_factor():
    """Where each of its entries weighs most: one copy, two movements, and three dimensions beyond what is fixed."""
    cosine = draws(real_gram(5, epochs=3, members=1), "random", 1500)[:, 2, 3]
    assert stats.kstest(cosine**2, stats.beta(0.5, 2).cdf).pvalue > 1e-2


@pytest.mark.parametrize("size", [6, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["rotated", pytest.param("random", marks=pytest.mark.slow)])
def test_all_second_moments_are_those_of_explicit_rotations(kind, size):
    """The joint distribution too: each block of vectors turned by an orthogonal matrix of its own."""
    real = real_gram(size)
    count = 600
    values, vectors = np.linalg.eigh(real.products)
    explicit = vectors[:, -size:] * np.sqrt(np.maximum(values[-size:], 0))
    explicit = np.pad(explicit, ((0, 0), (0, size - explicit.shape[1])))
    turned = np.tile(explicit, (count, 1, 1))
    for number, block in enumerate(kept_blocks(real, kind)[1:]):
        rotations = stats.ortho_group.rvs(size, size=count, random_state=number)
        turned[:, block] = explicit[block] @ rotations
    expected = np.stack([cosines(products) for products in turned @ turned.swapaxes(1, 2)])
    drawn = draws(real, kind, count)
    upper = np.triu(crossings(real, kind))
    entries, expected_entries = drawn[:, upper] * np.sqrt(size), expected[:, upper] * np.sqrt(size)
    # Means of 600 values of variance 1 scatter by 0.04, second moments (variance up to 2) and their differences more.
    np.testing.assert_allclose(entries.mean(axis=0), 0, atol=0.2)
    moments, expected_moments = (values.T @ values / count for values in (entries, expected_entries))
    np.testing.assert_allclose(moments, expected_moments, atol=0.4)
    np.testing.assert_allclose(np.diag(moments).mean(), 1, atol=0.03)


@pytest.mark.parametrize("kind", WITHOUT_FACTORS)
@pytest.mark.parametrize("size", [3, 10, 40, 1000])
def test_a_null_is_made_of_vectors_of_the_same_dimension(kind, size):
    """Its products are positive semi-definite, with no more than P dimensions."""
    real = real_gram(size)
    values = np.linalg.eigvalsh(null_trajectories(real, kind=kind, key=jax.random.key(0)).products)[::-1]
    assert values.min() > -1e-13 * values.max()
    np.testing.assert_allclose(values[size:], 0, atol=1e-13 * values.max())


def vast(real):
    """The same increments in so many dimensions that random directions are orthogonal."""
    return real._replace(dimension=10**10)


def test_random_movements_drift_outward_by_their_lengths():
    real = vast(real_gram(40, epochs=12))
    geometry = trajectory_geometry(real)
    expected = 1 - np.sqrt(1 + (geometry.movement[1:] ** 2).sum(axis=0) / geometry.distance[0] ** 2)
    null = trajectory_geometry(null_trajectories(real, kind="random", key=jax.random.key(0))).summary()
    np.testing.assert_allclose(null["return"], expected, atol=1e-4)
    np.testing.assert_allclose(null["turning"], np.pi / 2, atol=1e-4)
    np.testing.assert_allclose(null["monotone"], 0)


def test_rotated_movements_drift_outward_by_their_chord_and_keep_their_shape():
    real = vast(real_gram(40, epochs=12))
    geometry = trajectory_geometry(real)
    null = trajectory_geometry(null_trajectories(real, kind="rotated", key=jax.random.key(0)))
    expected = 1 - np.sqrt(1 + geometry.chord[-1] ** 2 / geometry.distance[0] ** 2)
    np.testing.assert_allclose(null.summary()["return"], expected, atol=1e-4)
    for name in ("movement", "turning", "chord"):
        np.testing.assert_array_equal(getattr(null, name), getattr(geometry, name), err_msg=name)


def test_shuffled_movements_end_where_they_ended():
    real = real_gram(40, epochs=12)
    null = null_trajectories(real, kind="shuffled", key=jax.random.key(0))
    rows = trajectory_rows(real)
    fixed = np.concatenate([[0], rows[0], rows[-1]])
    before, after = (inner_products(each)[0][np.ix_(fixed, fixed)] for each in (real, null))
    np.testing.assert_allclose(after, before, rtol=1e-12)
    one, other = trajectory_geometry(real).movement[1:], trajectory_geometry(null).movement[1:]
    assert (one != other).any(axis=0).all()
    np.testing.assert_array_equal(np.sort(other, axis=0), np.sort(one, axis=0))


def test_shuffled_is_a_permutation_of_each_members_own_increments():
    real = real_gram(40)
    null = null_trajectories(real, kind="shuffled", key=jax.random.key(0))
    # The length of an increment tells which one it was.
    order = [int(np.flatnonzero(np.diag(real.products) == length)[0]) for length in np.diag(null.products)]
    np.testing.assert_array_equal(null.products, real.products[np.ix_(order, order)])
    np.testing.assert_array_equal(null.remainders, real.remainders[np.ix_(order, order)])
    rows = trajectory_rows(real)
    np.testing.assert_array_equal(np.sort(np.array(order)[rows[1:]], axis=0), rows[1:])


@pytest.mark.parametrize("kind", WITHOUT_FACTORS)
def test_the_same_key_gives_the_same_bytes_and_another_key_another_null(kind):
    real = real_gram(40, members=6)
    before = real.products.copy()
    one, same, other = (null_trajectories(real, kind=kind, key=jax.random.key(seed)) for seed in (0, 0, 1))
    assert one.products.tobytes() == same.products.tobytes()
    assert one.products.tobytes() != other.products.tobytes()
    np.testing.assert_array_equal(real.products, before)


@pytest.mark.parametrize("kind", WITHOUT_FACTORS)
@pytest.mark.parametrize("size", [3, 10, 40])
def test_a_null_has_distances_and_a_geometry(kind, size):
    null = null_trajectories(real_gram(size), kind=kind, key=jax.random.key(0))
    for metric, center in (("euclidean", None), ("cosine", None), ("cosine", "mean"), ("cosine", "reference")):
        distances = pairwise_distances(null, metric=metric, center=center)
        assert np.isfinite(distances).all()
    assert all(np.isfinite(values).all() for values in trajectory_geometry(null).summary().values())


@pytest.mark.parametrize("kind", STANDING)
def test_a_copy_that_stands_still_stands_still_in_the_null(kind):
    minimum, start, other = np.random.default_rng(0).standard_normal((3, 40))
    points = np.stack([[start, other], [start, other + 0.1 * start], [start, other - start]])
    real = gram(points.reshape(-1, 40), reference=minimum, parents=[-1, -1, 0, 1, 2, 3])
    null = trajectory_geometry(null_trajectories(real, kind=kind, key=jax.random.key(0)))
    np.testing.assert_array_equal(null.movement[1:, 0], 0)
    np.testing.assert_allclose(null.distance[:, 0], np.linalg.norm(start - minimum), rtol=1e-12)
    assert np.isnan(null.lateral[:, 0]).all()


@pytest.mark.parametrize("kind", STANDING)
def test_nothing_moves_where_nothing_moved(kind):
    minimum, start = np.random.default_rng(0).standard_normal((2, 40))
    real = gram(np.tile(start, (3, 1)), reference=minimum, parents=[-1, 0, 1])
    null = null_trajectories(real, kind=kind, key=jax.random.key(0))
    np.testing.assert_array_equal(null.products, real.products)


@pytest.mark.parametrize("kind", WITHOUT_FACTORS)
def test_starts_alone_are_their_own_null(kind):
    real = real_gram(40, epochs=1)
    null = null_trajectories(real, kind=kind, key=jax.random.key(0))
    np.testing.assert_array_equal(null.products, real.products)


@pytest.mark.parametrize("kind", WITHOUT_FACTORS)
def test_a_null_needs_no_reference(kind):
    real = real_gram(40, reference=False)
    null = null_trajectories(real, kind=kind, key=jax.random.key(0))
    np.testing.assert_array_equal(null.products[:MEMBERS, :MEMBERS], real.products[:MEMBERS, :MEMBERS])
    assert (null.products != real.products).any()


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(ValueError, match="unknown kind 'permuted'; known: rotated, random, shuffled"):
        null_trajectories(real_gram(3), kind="permuted", key=jax.random.key(0))


def test_trajectories_that_branch_have_no_null():
    with pytest.raises(ValueError, match="must not branch"):
        null_trajectories(gram(np.eye(4), parents=[-1, -1, 1, 1]), key=jax.random.key(0))


def unequal(lengths=(4, 1, 6, 2), size=40):
    """Trajectories of other lengths, one after the other."""
    generator = np.random.default_rng(5)
    parts = [np.cumsum(generator.standard_normal((length, size)), axis=0) for length in lengths]
    first_rows = np.cumsum([0, *lengths[:-1]])
    parents = np.concatenate([[-1, *range(first, first + n - 1)] for first, n in zip(first_rows, lengths, strict=True)])
    return gram(np.concatenate(parts), reference=generator.standard_normal(size), parents=parents)


@pytest.mark.parametrize("kind", STANDING)
def test_a_null_keeps_trajectories_of_any_lengths_and_what_its_kind_keeps_of_each(kind):
    real = unequal()
    null = null_trajectories(real, kind=kind, key=jax.random.key(0))
    np.testing.assert_array_equal(null.parents, real.parents)
    one, other = trajectory_geometry(real), trajectory_geometry(null)
    for name in ("norm", "distance", "movement"):
        np.testing.assert_array_equal(np.isnan(getattr(one, name)), np.isnan(getattr(other, name)), err_msg=name)
    np.testing.assert_array_equal(other.distance[0], one.distance[0])
    lengths = [each.movement[1:].copy() for each in (one, other)]
    if kind == "shuffled":
        lengths = [np.sort(each, axis=0) for each in lengths]
        ends = (np.array([3, 0, 5, 1]), np.arange(4))
        np.testing.assert_allclose(other.distance[ends], one.distance[ends], rtol=1e-12)
    np.testing.assert_array_equal(*lengths)
    if kind == "rotated":
        np.testing.assert_array_equal(other.turning, one.turning)
    assert (null.products != real.products).any()
    values = np.linalg.eigvalsh(null.products)
    assert values.min() > -1e-13 * values.max()


@pytest.mark.parametrize("kind", ["rotated", pytest.param("random", marks=pytest.mark.slow)])
def test_the_cosine_of_movements_of_trajectories_of_other_lengths_is_that_of_random_directions(kind):
    """Cosines of the first copy's last movement with the third's and with its jump, squared: Beta(1/2, (P - 1)/2)."""
    cosine = draws(unequal(size=20), kind, 200)
    for other in (7, 11, 12, 1):
        assert stats.kstest(cosine[:, 4, other] ** 2, stats.beta(0.5, 19 / 2).cdf).pvalue > 1e-3, other


# Weight decay alone


@pytest.mark.parametrize("reference", [True, False])
def test_decay_makes_every_point_a_multiple_of_its_start(reference):
    generator = np.random.default_rng(3)
    minimum, starts = generator.standard_normal(40), generator.standard_normal((MEMBERS, 40))
    factors = np.array([1, 0.9, 0.75, 0.7, 0.69])
    real = minimum + starts + np.cumsum(generator.standard_normal((EPOCHS, MEMBERS, 40)), axis=0)
    real[0] = minimum + starts
    decayed = factors[:, None, None] * real[0]
    parents = np.maximum(np.arange(EPOCHS * MEMBERS) - MEMBERS, -1)
    around = minimum if reference else None
    of_real, of_decayed = (gram(x.reshape(-1, 40), reference=around, parents=parents) for x in (real, decayed))
    found = decay_trajectories(of_real, np.repeat(factors, MEMBERS))
    np.testing.assert_allclose(found.products, of_decayed.products, atol=1e-12)
    for metric in ("euclidean", "cosine"):
        np.testing.assert_allclose(
            pairwise_distances(found, metric=metric), pairwise_distances(of_decayed, metric=metric), atol=1e-7
        )
    expected = trajectory_geometry(of_decayed)
    for name in ("norm", "distance", "petal"):
        np.testing.assert_allclose(getattr(trajectory_geometry(found), name), getattr(expected, name), rtol=1e-9)
    assert np.linalg.eigvalsh(found.products).min() > -1e-12


def test_decay_of_trajectories_of_unequal_length():
    generator = np.random.default_rng(4)
    points, parents = generator.standard_normal((5, 9)), [-1, 0, -1, 2, 3]
    factors = np.array([1, 0.5, 1, 0.5, 0.25])
    decayed = factors[:, None] * points[[0, 0, 2, 2, 2]]
    found = decay_trajectories(gram(points, parents=parents), factors)
    np.testing.assert_allclose(found.products, gram(decayed, parents=parents).products, atol=1e-12)


def test_without_decay_copies_stay_where_they_are():
    found = trajectory_geometry(decay_trajectories(real_gram(30), np.ones(EPOCHS * MEMBERS)))
    np.testing.assert_array_equal(found.distance, found.distance[[0] * EPOCHS])
    np.testing.assert_array_equal(found.chord, 0)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones(3), "factors must be 15 finite numbers, one per point, got shape"),
        (np.full(15, np.nan), "finite"),
        (np.full(15, 0.5), "factors must be 1 for the starts"),
    ],
)
def test_impossible_factors_are_refused(factors, words):
    with pytest.raises(ValueError, match=words):
        decay_trajectories(real_gram(30), factors)


def test_decay_needs_factors_and_only_kinds_that_keep_decay_take_them():
    real = real_gram(30)
    for kind in NEED_FACTORS:
        with pytest.raises(ValueError, match=f"kind '{re.escape(kind)}' needs factors"):
            null_trajectories(real, kind=kind, key=jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"factors are for the kinds decay, decay.rotated, exchange, got kind 'rotated'"
    ):
        null_trajectories(real, key=jax.random.key(0), factors=np.ones(EPOCHS * MEMBERS))
    with pytest.raises(ValueError, match="alike is for the kind exchange, got kind 'random'"):
        null_trajectories(real, kind="random", key=jax.random.key(0), alike=np.ones(EPOCHS * MEMBERS))


# What the optimiser does, split into weight decay and gradients: against explicit vectors


FACTORS = np.array([1, 0.9, 0.75, 0.7, 0.69])


def decaying(*, size=40, members=4, reference=True, seed=7):
    """Return points (epoch, member, size) of a linear optimiser with known gradients, and their IncrementGram."""
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(size) * reference
    starts = minimum + generator.standard_normal((members, size))
    responses = np.cumsum(0.2 * generator.standard_normal((EPOCHS, members, size)), axis=0)
    responses[0] = 0
    points = FACTORS[:, None, None] * starts + responses
    parents = np.maximum(np.arange(EPOCHS * members) - members, -1)
    around = minimum if reference else None
    return minimum, starts, responses, gram(points.reshape(-1, size), reference=around, parents=parents)


@pytest.mark.parametrize("reference", [True, False])
def test_the_split_of_displacements_equals_that_of_the_explicit_vectors(reference):
    minimum, starts, responses, found = decaying(reference=reference)
    split = split_displacements(found, np.repeat(FACTORS, 4))
    inward = minimum - starts
    jump = np.linalg.norm(inward, axis=1)
    decayed = (FACTORS[:, None, None] - 1) * starts
    np.testing.assert_allclose(split.decay, (decayed * inward).sum(-1) / jump**2, atol=1e-12)
    np.testing.assert_allclose(split.gradient, (responses * inward).sum(-1) / jump**2, atol=1e-12)
    np.testing.assert_allclose(split.decay_length, np.linalg.norm(decayed, axis=-1) / jump, atol=1e-12)
    np.testing.assert_allclose(split.gradient_length, np.linalg.norm(responses, axis=-1) / jump, atol=1e-7)
    with np.errstate(invalid="ignore"):
        expected = (responses * inward).sum(-1) / np.linalg.norm(responses, axis=-1) / jump
    np.testing.assert_allclose(split.cosine[1:], expected[1:], atol=1e-12)
    assert np.isnan(split.cosine[0]).all()
    geometry = trajectory_geometry(found)
    whole = 1 - geometry.distance / geometry.distance[0] * geometry.petal
    np.testing.assert_allclose(split.decay + split.gradient, whole, atol=1e-12)


def test_the_split_is_that_of_the_optimiser():
    """Momentum with weight decay on gradients that are known: the gradient part is its response to them alone."""
    optimizer = make_optimizer("momentum", 0.1, weight_decay=0.05)
    generator = np.random.default_rng(0)
    gradients = jnp.asarray(generator.standard_normal((6, 12)), jnp.float32)

    def run(params, decay):
        rule = optimizer if decay else make_optimizer("momentum", 0.1)
        state, path = rule.init(params), [params]
        for gradient in gradients:
            changes, state = rule.update(gradient, state, path[-1])
            path.append(path[-1] + changes)
        return np.stack(path).astype(np.float64)

    start = jnp.asarray(generator.standard_normal(12), jnp.float32)
    minimum = generator.standard_normal(12).astype(np.float32)
    real = run(start, decay=True)
    response = run(jnp.zeros(12, jnp.float32), decay=True)  # from the origin, which decay does not move
    found = gram(real, reference=minimum, parents=[-1, 0, 1, 2, 3, 4, 5])
    split = split_displacements(found, decay_factors(optimizer, 6))
    inward = minimum - real[0]
    np.testing.assert_allclose(split.gradient[:, 0], response @ inward / (inward @ inward), atol=1e-6)
    without = run(start, decay=False)
    assert np.abs((without - real[0]) @ inward / (inward @ inward) - split.gradient[:, 0]).max() > 1e-3


def test_trajectories_of_unequal_length_have_no_split_after_their_end():
    real = unequal()
    split = split_displacements(real, np.ones(13))
    geometry = trajectory_geometry(real)
    np.testing.assert_array_equal(np.isnan(split.gradient), np.isnan(geometry.distance))
    np.testing.assert_array_equal(np.nan_to_num(split.decay), 0)


def test_an_unperturbed_copy_has_no_split():
    minimum = np.random.default_rng(0).standard_normal(5)
    points = np.stack([minimum, minimum + 1, minimum + 1, minimum])
    split = split_displacements(gram(points, reference=minimum, parents=[-1, -1, 0, 1]), np.ones(4))
    assert np.isnan(split.gradient[:, 0]).all()
    np.testing.assert_allclose(split.gradient[:, 1], [0, 1])


# Exchange


def exchange(real, **settings):
    return null_trajectories(real, kind="exchange", key=jax.random.key(3), **settings)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("decays", [True, False])
def test_exchange_equals_that_of_the_explicit_vectors(decays, reference):
    """In two pairs of copies with the same label, each copy ends where the other's gradient part leads it."""
    minimum, starts, responses, real = decaying(reference=reference)
    factors, alike = (np.repeat(FACTORS, 4), np.tile([0.5, 1, 1, 0.5], EPOCHS))
    moved = responses if decays else responses + (FACTORS[:, None, None] - 1) * starts
    kept = FACTORS[:, None, None] * starts if decays else starts
    expected = (kept + moved[:, [3, 2, 1, 0]]).reshape(-1, 40)
    around = minimum if reference else None
    expected = gram(expected, reference=around, parents=np.maximum(np.arange(EPOCHS * 4) - 4, -1))
    found = exchange(real, alike=alike, **({"factors": factors} if decays else {}))
    np.testing.assert_allclose(found.products, expected.products, atol=1e-12)
    assert np.linalg.eigvalsh(found.products).min() > -1e-12


def test_no_member_keeps_its_own_movements():
    real = real_gram(40, members=7)
    lengths = trajectory_geometry(real).movement[1:]
    for seed in range(20):
        null = null_trajectories(real, kind="exchange", key=jax.random.key(seed))
        found = trajectory_geometry(null).movement[1:]
        assert (found[0] != lengths[0]).all()
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(lengths, axis=1))


def test_a_member_without_a_partner_cannot_exchange():
    alike = np.tile([1, 2, 1], EPOCHS)
    with pytest.raises(
        ValueError, match=r"exchange needs at least two trajectories of each label and length.* one of 2"
    ):
        exchange(real_gram(10), alike=alike)
    with pytest.raises(ValueError, match="but there is one of 0 with 4 points"):
        exchange(unequal())
    with pytest.raises(ValueError, match=r"alike must have shape \(15,\), one label per point, got \(3,\)"):
        exchange(real_gram(10), alike=np.ones(3))


# Weight decay, and the gradient part rotated


def test_decay_and_rotated_keeps_decay_and_draws_the_rest_as_rotated_does():
    """In so many dimensions that random directions are orthogonal: |y|^2 = |f theta_0 - theta*|^2 + |G|^2."""
    minimum, starts, responses, real = decaying()
    found = null_trajectories(vast(real), kind="decay+rotated", key=jax.random.key(0), factors=np.repeat(FACTORS, 4))
    decayed = np.linalg.norm(FACTORS[:, None, None] * starts - minimum, axis=-1)
    expected = np.sqrt(decayed**2 + np.linalg.norm(responses, axis=-1) ** 2)
    np.testing.assert_allclose(trajectory_geometry(found).distance, expected, rtol=1e-4)
    split = split_displacements(found, np.repeat(FACTORS, 4))
    np.testing.assert_allclose(split.decay, split_displacements(real, np.repeat(FACTORS, 4)).decay, atol=1e-9)
    np.testing.assert_allclose(split.gradient, 0, atol=1e-4)
    assert np.linalg.eigvalsh(found.products).min() > -1e-12


@pytest.mark.parametrize("size", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_the_cosine_of_a_rotated_gradient_part_is_that_of_random_directions(size):
    real, factors = decaying(size=size, members=2)[-1], np.repeat(FACTORS, 2)
    keys = jax.random.split(jax.random.key(2), 200)
    draws = [null_trajectories(real, kind="decay+rotated", key=key, factors=factors) for key in keys]
    cosine = np.array([split_displacements(draw, factors).cosine[-1, 0] for draw in draws])
    assert stats.kstest(cosine**2, stats.beta(0.5, (size - 1) / 2).cdf).pvalue > 1e-3
    assert stats.binomtest(int((cosine > 0).sum()), len(cosine)).pvalue > 1e-3


def test_draws_do_not_depend_on_the_threads_of_blas():
    real = real_gram(40, epochs=30, members=6)
    draws = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            draws.append(null_trajectories(real, key=jax.random.key(0)).products.tobytes())
    assert draws[0] == draws[1]


def test_the_data_of_a_key_give_the_null_of_the_key():
    real, key = real_gram(3), jax.random.key(5)
    data = np.asarray(jax.random.key_data(key))
    for kind in ("rotated", "shuffled"):
        one, other = (null_trajectories(real, kind=kind, key=each).products for each in (key, data))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="key must be one PRNG key"):
        null_trajectories(real, key=np.zeros((2, 2), np.uint32))
