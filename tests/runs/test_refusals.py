"""Invalid input is refused before any work: one message, an exit code, and nothing changed."""

import shutil

import pytest

from jaxscape.cli.main import main


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(outcome, words):
    assert outcome.code > 0
    # One message: ours in one line, or that of the parser in a box.
    assert outcome.err.startswith("jaxscape: ") == (len(outcome.err.splitlines()) == 1)
    assert outcome.err.count("jaxscape: ") <= 1
    assert words in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--dataset imagenet", "unknown dataset 'imagenet'; known: digits, cifar10, cifar100, fashion_mnist, mnist"),
        ("--dataset cifar10 --data-dir /nowhere", "data_dir is '/nowhere', which is not a folder"),
        ("--widen-factor 999999999999999999999999999999", "widen_factor must be from 1 to 1000, got 9999"),
        ("--preset ugly", "invalid choice 'ugly' for argument '--preset'"),
        ("--depth 27", "depth must be 6 n + 4 (10, 16, 22, 28, ... up to 10000), got 27"),
        ("--widen-factor 0", "widen_factor must be from 1 to 1000, got 0"),
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--epochs many", "--epochs"),
        ("--batch-size 101", "batch_size must be at most the number of training examples, 100, got 101"),
        ("--train-size 1001", "size must be from 1 to 1000, the number of training images, got 1001"),
        ("--optimizer lamb", "unknown optimizer 'lamb'; known: sgd, momentum, adam"),
        ("--learning-rate -0.1", "learning_rate must be a positive number, got -0.1"),
        ("--weight-decay -1", "weight_decay must be at least 0, got -1.0"),
        ("--decay-epochs 5 3", "decay_epochs must be increasing and at least 1, got [5, 3]"),
        ("--decay-epochs 3000000000", "decay_epochs must be reached within 2147483647 updates, got [3000000000]"),
        # These depend on the number of steps, four per epoch.
        ("--decay-epochs 1000000000", "decay_epochs must be reached within 2147483647 updates, got [1000000000]"),
        ("--precision half", "unknown precision 'half'; known: float32, bfloat16"),
        ("--augmentation spin", "augmentation must be none, or some of crop, flip, rotate, color joined by +"),
        ("--label-noise 2", "label_noise must be from 0 to 1, got 2.0"),
        ("--images-seed -1", "images_seed must be from 0 to 2**32 - 1, got -1"),
        ("--images-seed 1 --train-size None", "images_seed draws train_size images, but train_size is None"),
        ("--seed 4294967296", "seed must be from 0 to 2**32 - 1, got 4294967296"),
        ("--frobnicate 1", "--frobnicate"),
    ],
)
def test_an_invalid_training_leaves_no_folder(jaxscape, tmp_path, options, words):
    assert_refused(jaxscape("train", tmp_path / "run", *options.split()), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--step-sizes abc", "--step-sizes"),
        ("--step-sizes 0.5 0.5", "step_sizes must be one or more distinct finite numbers, got [0.5, 0.5]"),
        ("--step-sizes nan", "step_sizes must be one or more distinct finite numbers, got [nan]"),
        ("--seeds 0", "seeds must be from 1 to 1000000, got 0"),
        ("--seeds 2 --seed-list 3 8", "give --seeds (how many) or --seed-list (which), not both"),
        ("--seed-list 3 3", "seeds must be one or more distinct integers from 0 to 2**32 - 1, got [3, 3]"),
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--batch-size 41", "batch_size must be at most the number of training examples, 40, got 41"),
        ("--learning-rate 0", "learning_rate must be a positive number, got 0.0"),
        ("--data-order none", "unknown data_order 'none'; known: member, seed, shared"),
        ("--precision float8", "unknown precision 'float8'; known: float32, bfloat16"),
        ("--strategy fast", "unknown strategy 'fast'; known: auto, loop, threads, vmap_grad, grad_vmap"),
    ],
)
def test_an_invalid_retraining_leaves_the_minimum_unchanged(jaxscape, with_minimum, options, words):
    before = contents(with_minimum)
    assert_refused(jaxscape("retrain", with_minimum, *options.split()), words)
    assert contents(with_minimum) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--method nope", "unknown method 'nope'; known: phate, mds, tsne, umap, pca, random, phate-package"),
        ("--metric manhattan", "unknown metric 'manhattan'; known: cosine, euclidean"),
        ("--center origin", "unknown center 'origin'; known: none, mean, minimum"),
        ("--knn 0", "knn must be at least 1, got 0"),
        ("--knn 100", 'knn must be "connect", "auto" or a whole number from 1 to n - 2 = 10, got 100'),
        ("--t 0", "t must be at least 1, got 0"),
        ("--t 999999999999", 't must be "auto" or a whole number from 1 to 1000000000, got 999999999999'),
        ("--decay 0", "decay must be a positive number, got 0.0"),
        ("--n-components 1", "n_components must be at least 2, got 1"),
        ("--knn 3 --n-components 12", "n_components must be a whole number from 1 to n - 1 = 11, got 12"),
        ("--n-components 14", "n_components must be a whole number from 1 to n = 13, got 14"),
        ("--potential l1", "unknown potential 'l1'; known: euclidean, cosine"),
        ("--landmarks 2", "landmarks must be None or a whole number of at least 3, got 2"),
        ("--method tsne --landmarks 9", "potential and landmarks require method phate, got method tsne"),
        ("--method phate-package --knn connect", "knn connect requires method phate, got method phate-package"),
        ("--method phate-package --knn auto", "knn auto requires method phate, got method phate-package"),
        ("--method mds --knn 4", "knn, decay and t require method phate, got method mds"),
        ("--method tsne --decay 2", "knn, decay and t require method phate, got method tsne"),
        ("--method pca --t 2", "knn, decay and t require method phate, got method pca"),
        ("--method pca --metric cosine", "method pca requires metric euclidean, got cosine"),
        ("--center minimum --include-minimum", "include_minimum requires a center other than minimum"),
    ],
)
def test_an_invalid_embedding_leaves_the_run_unchanged(jaxscape, run, options, words):
    before = contents(run)
    assert_refused(jaxscape("embed", run, *options.split()), words)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("retrain", "has no finished minimum; `jaxscape train {run}` makes it"),
        ("embed", "has no trajectories; `jaxscape retrain {run}` makes them"),
        ("plot", "has no trajectories; `jaxscape retrain {run}` makes them"),
        ("info", "is not a run folder: it has no config.json; `jaxscape train {run}` makes one"),
    ],
)
def test_a_stage_without_its_predecessor_names_the_command_that_makes_it(jaxscape, tmp_path, command, words):
    run = tmp_path / "run"
    assert_refused(jaxscape(command, run), words.format(run=run))
    assert not run.exists()


def test_unfinished_trajectories_are_not_embedded(jaxscape, run):
    shutil.rmtree(run / "trajectories" / "2")
    assert_refused(jaxscape("embed", run), f"{run} has 1 of 2 epochs of retraining; `jaxscape retrain {run}` resumes")


@pytest.mark.parametrize("command", ["train", "demo"])
def test_a_file_is_not_a_run_folder(jaxscape, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    assert_refused(jaxscape(command, tmp_path / "file"), f"cannot make the folder {tmp_path / 'file'}")
    assert_refused(jaxscape(command, tmp_path / "file" / "run"), "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "config.json is damaged: it is not JSON"),
        ("[]", "config.json is damaged: it must hold a JSON object, got []"),
        ('{"train": {"epochs": "2"}}', "config.json, section 'train': epochs must be int, got '2'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "retrain"])
def test_a_damaged_record_is_named(jaxscape, run, command, text, words):
    (run / "config.json").write_text(text)
    before = contents(run)
    assert_refused(jaxscape(command, run), words)
    assert contents(run) == before


@pytest.mark.parametrize(
    "arguments", [[], ["plan"], ["train"], ["retrain"], ["embed"], ["plot"], ["info"], ["frobnicate"]]
)
def test_missing_arguments_are_reported(jaxscape, arguments):
    outcome = jaxscape(*arguments)
    assert outcome.code == 2
    assert "--help" in outcome.err


@pytest.mark.parametrize("command", ["demo", "plan", "train", "retrain", "embed", "plot", "info"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert f"usage: jaxscape {command}" in printed.out
    assert printed.err == ""
