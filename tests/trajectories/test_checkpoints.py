"""Finished trainings come in as they were written, whatever wrote them; hostile and damaged files end in one line."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.trajectories.checkpoints import import_checkpoints
from jaxscape.trajectories.store import TrajectoryStore

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}


def params(step, dtype=np.float32):
    generator = np.random.default_rng(step)
    return {name: np.asarray(generator.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def nested(step):
    flat = params(step)
    return {"dense": {"kernel": flat["dense/kernel"], "bias": flat["dense/bias"]}, "scale": flat["scale"]}


def safetensors_bytes(arrays, **entries):
    """Return the bytes of a safetensors file, written as its documentation defines."""
    names = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return with_header(json.dumps(header | entries), data)


def with_header(text, data=b""):
    return struct.pack("<Q", len(text.encode())) + text.encode() + data


def npz_bytes(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def assert_one_line(error, *words):
    text = str(error)
    assert not any(part in text for part in ("\n", "Errno", "Traceback"))
    assert len(text) < 700, text
    for word in words:
        assert str(word) in text


# The formats


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_files_are_read_in_the_order_of_their_steps(tmp_path, ending):
    write = {"npz": npz_bytes, "safetensors": safetensors_bytes}[ending]
    for step in (10, 9, 1):
        (tmp_path / f"v2_step{step}.{ending}").write_bytes(write(params(step)))
    for sources in (tmp_path, sorted(tmp_path.iterdir()), [str(path) for path in tmp_path.iterdir()]):
        found = import_checkpoints(sources)
        assert (found.steps, len(found)) == ([1, 9, 10], 3)
        assert found.shapes == SHAPES
        for step, arrays in found:
            assert_equal(arrays, params(step))


@pytest.mark.parametrize("write", [npz_bytes, safetensors_bytes])
def test_compressed_big_endian_and_fortran_arrays_are_the_same_numbers(tmp_path, write):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    if write is npz_bytes:
        stored = {"a": np.asfortranarray(arrays["a"]).astype(">f4")}
        np.savez_compressed(tmp_path / "x.npz", **stored)
    else:
        (tmp_path / "x.safetensors").write_bytes(write(arrays))
    [(_, found)] = import_checkpoints(tmp_path)
    assert_equal(found, arrays)


def test_orbax_as_its_manager_writes_it(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (0, 10, 9):
            manager.save(step, args=ocp.args.StandardSave(nested(step)), force=True)
        manager.wait_until_finished()
    (tmp_path / "run" / "11.orbax-checkpoint-tmp").mkdir()
    found = import_checkpoints(tmp_path / "run")
    assert found.steps == [0, 9, 10]
    for step, arrays in found:
        assert_equal(arrays, params(step))


@pytest.mark.parametrize("form", ["standard", "pytree", "no ocdbt", "v1"])
def test_orbax_in_its_other_forms(tmp_path, form):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import v1

    state = jax.tree.map(jnp.asarray, nested(3))
    path = tmp_path / "step_3"
    if form == "v1":
        v1.save(path, state)
    else:
        made = {
            "standard": ocp.StandardCheckpointer,
            "pytree": ocp.PyTreeCheckpointer,
            "no ocdbt": lambda: ocp.PyTreeCheckpointer(use_ocdbt=False),
        }[form]()
        made.save(path, state)
        made.close()
    [(step, arrays)] = import_checkpoints(path)
    assert step == 3
    assert_equal(arrays, params(3))


def test_the_parameters_of_a_training_state_are_read_and_the_rest_is_listed_as_left_out(tmp_path):
    from orbax.checkpoint import v1

    state = {"params": nested(0), "opt_state": optax.adam(0.1).init(nested(0)), "step": jnp.int32(5), "name": "x"}
    v1.save(tmp_path / "5", state)
    found = import_checkpoints(tmp_path)
    assert (found.key, found.steps) == ("params", [5])
    assert_equal(next(iter(found))[1], params(0))
    assert found.left_out["step"] == "not in 'params'"
    assert found.left_out["opt_state/0/mu/dense/kernel"] == "not in 'params'"
    everything = import_checkpoints(tmp_path, key="", exclude="opt_state/*")
    assert everything.left_out["step"] == "int32"
    assert everything.left_out["opt_state/0/count"] == "in exclude"
    assert "params/dense/kernel" in everything.shapes


def test_one_of_several_items_is_chosen_by_key(tmp_path):
    from orbax.checkpoint import v1

    v1.save_checkpointables(tmp_path / "1", {"ema": nested(1), "weights": nested(2)})
    found = import_checkpoints(tmp_path, key="weights")
    assert_equal(next(iter(found))[1], params(2))
    assert found.left_out["ema/scale"] == "not in 'weights'"


def test_the_snapshots_of_a_store_can_be_imported_and_its_packs_are_refused(tmp_path):
    stacked = {name: values[None] for name, values in params(4).items()}
    for packed in (False, True):
        with TrajectoryStore.create(tmp_path / str(packed), [{"seed": 0}], packed=packed) as store:
            store.append(0, stacked)
    [(step, arrays)] = import_checkpoints(tmp_path / "False")
    assert step == 0
    assert_equal(arrays, stacked)
    with pytest.raises(ValueError, match=r"it is a pack of a jaxscape store.*TrajectoryStore.open"):
        import_checkpoints(tmp_path / "True")


def save_torch(path, content):
    torch = pytest.importorskip("torch")
    torch.save(content(torch), path)


def test_torch_state_dicts(tmp_path):
    def content(torch):
        tensors = {name.replace("/", "."): torch.from_numpy(values) for name, values in params(7).items()}
        half = {"half": torch.arange(3).to(torch.bfloat16), "view": torch.arange(6.0).reshape(2, 3).T}
        return {
            "model": {**tensors, **half, "n": torch.tensor(3)},
            "optimizer": {"state": {0: torch.ones(2)}},
            "loss": torch.tensor(0.5),
        }

    save_torch(tmp_path / "epoch=7.pt", content)
    found = import_checkpoints(tmp_path)
    assert (found.steps, found.key) == ([7], "model")
    assert found.left_out["model/n"] == "int64"
    assert found.left_out["optimizer/state/0"] == "not in 'model'"
    arrays = next(iter(found))[1]
    np.testing.assert_array_equal(arrays["dense.kernel"], params(7)["dense/kernel"])
    np.testing.assert_array_equal(arrays["view"], np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["half"], np.arange(3).astype(jnp.bfloat16))


def test_reading_torch_files_executes_no_code(tmp_path):
    save_torch(tmp_path / "step1.pt", lambda torch: {"a": torch.ones(2), "evil": Evil(tmp_path / "ran")})
    with pytest.raises(ValueError, match=r"cannot be read: it is damaged, or holds more than tensors") as caught:
        import_checkpoints(tmp_path)
    assert_one_line(caught.value, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4" + b"\0" * 50, pickle.dumps({"w": 1})])
def test_damaged_torch_files_end_in_one_line(tmp_path, content):
    pytest.importorskip("torch")
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth") as caught:
        import_checkpoints(tmp_path)
    assert_one_line(caught.value, tmp_path)


def test_a_whole_module_is_refused_with_a_suggestion(tmp_path):
    save_torch(tmp_path / "a.pt", lambda torch: torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"save model.state_dict\(\) instead"):
        import_checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda torch: {"w": torch.zeros(2).to(torch.float8_e4m3fn)}, "'w' is float8_e4m3fn; allowed"),
        (lambda torch: {"w": torch.zeros(1).expand(10**12)}, "larger than what is stored"),
        (lambda torch: {"w": torch.ones(2, 2).to_sparse()}, "'w' is float32, torch.sparse_coo on cpu; allowed"),
        (lambda torch: {"a": {"w": torch.ones(1)}, "a/w": torch.ones(1)}, "the name 'a/w' twice"),
    ],
)
def test_torch_tensors_of_other_kinds_are_refused_by_name(tmp_path, content, words):
    save_torch(tmp_path / "step1.pt", content)
    with pytest.raises(ValueError, match=words):
        import_checkpoints(tmp_path)


def test_a_torch_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"a\.pt is a PyTorch file.*pip install torch"):
        import_checkpoints(tmp_path / "a.pt")


def test_an_old_torch_is_not_trusted(tmp_path, monkeypatch):
    class Old:
        __version__ = "2.5.1+cpu"

    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "torch", Old)
    with pytest.raises(ImportError, match=r"torch 2.5.1\+cpu may run code"):
        import_checkpoints(tmp_path / "a.pt")


# What is read, and what is left out


def test_integers_and_flags_are_left_out_and_float64_is_rounded(tmp_path):
    arrays = {
        "w": np.array([1 / 3, 2.0]),
        "half": np.ones(2, np.float16),
        "num_batches_tracked": np.array(3),
        "mask": np.array([True]),
        "none": np.zeros((0, 2), np.float32),
    }
    (tmp_path / "a.npz").write_bytes(npz_bytes(arrays))
    found = import_checkpoints(tmp_path / "a.npz")
    assert found.rounded == ["w"]
    assert found.left_out == {"num_batches_tracked": "int64", "mask": "bool", "none": "empty"}
    [(step, read)] = found
    assert step == 0
    assert_equal(read, {"w": arrays["w"].astype(np.float32), "half": arrays["half"]})


def test_bfloat16_keeps_its_bits(tmp_path):
    arrays = params(0, jnp.bfloat16)
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(arrays))
    assert_equal(next(iter(import_checkpoints(tmp_path)))[1], arrays)


def test_float64_beyond_float32_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_bytes({"w": np.array([1e300])}))
    with pytest.raises(ValueError, match=r"a.npz: 'w' is float64 and has values beyond the range of float32"):
        list(import_checkpoints(tmp_path))


def test_names_are_chosen_by_patterns(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_bytes(params(0)))
    assert list(import_checkpoints(tmp_path, include="dense/*").shapes) == ["dense/kernel", "dense/bias"]
    found = import_checkpoints(tmp_path, include=["dense/*", "s*"], exclude=["*/bias"])
    assert list(found.shapes) == ["dense/kernel", "scale"]
    assert found.left_out == {"dense/bias": "in exclude"}
    for argument in ("include", "exclude"):
        with pytest.raises(ValueError, match=rf"{argument}='conv\*' matches no array in .*'dense/kernel'"):
            import_checkpoints(tmp_path, **{argument: "conv*"})
        with pytest.raises(ValueError, match=rf"{argument}=\[5\] must be patterns"):
            import_checkpoints(tmp_path, **{argument: [5]})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model/w", "head/w"], "holds 'model', 'head'; give key= one of them, or '' for all"),
        (["model/w", "params/w"], "give key= one of them"),
        (["model/w", "w"], "holds 'model', 'w'; give key="),
        (["w/a", "opt_state/w"], "holds 'w', 'opt_state'; give key="),
    ],
)
def test_where_the_parameters_are_is_not_guessed(tmp_path, names, message):
    (tmp_path / "a.npz").write_bytes(npz_bytes({name: np.ones(1, np.float32) for name in names}))
    with pytest.raises(ValueError, match=message):
        import_checkpoints(tmp_path)
    assert list(import_checkpoints(tmp_path, key="").shapes) == names
    with pytest.raises(ValueError, match="key='other' is not in"):
        import_checkpoints(tmp_path, key="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.ones(2, np.float32)}, r"'scale' is float32 \(2,\); allowed: float32 \(\), as in step1.npz"),
        ({"scale": np.float16(1)}, r"'scale' is float16 \(\); allowed: float32 \(\)"),
        ({"new": np.ones(2, np.float32)}, r"'new' is float32 \(2,\); allowed: absent"),
    ],
)
def test_files_unlike_the_first_are_refused_by_name(tmp_path, change, message):
    (tmp_path / "step1.npz").write_bytes(npz_bytes(params(1)))
    (tmp_path / "step2.npz").write_bytes(npz_bytes(params(2) | change))
    reading = iter(import_checkpoints(tmp_path))
    assert next(reading)[0] == 1
    with pytest.raises(ValueError, match=message) as caught:
        next(reading)
    assert_one_line(caught.value, "step2.npz")


# Names of files


def test_files_without_numbers_are_counted_in_the_order_given(tmp_path):
    for name, step in (("start", 0), ("end", 1)):
        (tmp_path / f"{name}.npz").write_bytes(npz_bytes(params(step)))
    found = import_checkpoints([tmp_path / "start.npz", tmp_path / "end.npz"])
    assert [(step, arrays["scale"]) for step, arrays in found] == [(step, params(step)["scale"]) for step in (0, 1)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a1.npz", "b01.npz"], r"a1.npz and .*b01.npz are both step 1, the last integer"),
        (["a1.npz", "b.npz"], r"b.npz has no number of a step"),
        (["a99999999999999999999.npz"], "beyond"),
        (
            ["a1.ckpt"],
            r"a1.ckpt is of no known format; allowed: orbax folders, and files .npz, .safetensors, .pt, .pth",
        ),
    ],
)
def test_names_that_give_no_order_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(npz_bytes(params(0)))
    with pytest.raises(ValueError, match=message):
        import_checkpoints([tmp_path / name for name in names])


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"sources=\[\] is empty"):
        import_checkpoints([])
    with pytest.raises(ValueError, match="holds no checkpoints"):
        import_checkpoints(tmp_path)
    for name in ("nothing", "nothing.npz"):
        with pytest.raises(FileNotFoundError, match=rf"{name} does not exist"):
            import_checkpoints(tmp_path / name)
    with pytest.raises(ValueError, match="was never finished"):
        import_checkpoints(tmp_path / "3.orbax-checkpoint-tmp")


# Hostile and damaged files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def npy_bytes(shape="(4,)", descr="'<f4'", data=b"\0" * 16):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zip_bytes(*entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def of_unknown_method(content):
    changed = bytearray(content)
    for place in (8, content.index(b"PK\1\2") + 10):
        changed[place] = 99
    return bytes(changed)


def one(entry, data=b"\0" * 16):
    return with_header(json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | entry}), data)


WHOLE = safetensors_bytes(params(0))
HOSTILE_SAFETENSORS = {
    "empty": b"",
    "short": b"\x08\0\0",
    "truncated": WHOLE[:-1],
    "longer": WHOLE + b"\0",
    "cut in the header": WHOLE[:40],
    "header bomb": struct.pack("<Q", 2**63) + b"{}",
    "header of the limit": struct.pack("<Q", 100_000_001) + b"{}",
    "no JSON": with_header("{'w': 1}"),
    "no text": struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "nested": with_header("[" * 200_000),
    "list": with_header("[]"),
    "numbers": with_header('{"w": 5}'),
    "twice": with_header('{"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "w": 5}', b"\0" * 4),
    "outside": one({"data_offsets": [0, 2**40], "shape": [2**38]}),
    "backwards": one({"data_offsets": [16, 0]}),
    "negative": one({"data_offsets": [-16, 0]}),
    "negative shape": one({"shape": [-1, -4]}),
    "other size": one({"shape": [5]}),
    "huge shape": one({"shape": [2**62, 2**62]}),
    "float shape": one({"shape": [4.0]}),
    "flag for shape": one({"shape": [True, 4]}),
    "hole": one({"data_offsets": [4, 20]}, b"\0" * 20),
    "type": one({"dtype": ["F32"]}),
    "extra": one({"path": "/etc/passwd"}),
}
HOSTILE_NPZ = {
    "empty": b"",
    "no zip": b"PK\3\4" + b"\0" * 50,
    "truncated": npz_bytes(params(0))[:-30],
    "no npy": zip_bytes(("w.npy", b"hello")),
    "cut": zip_bytes(("w.npy", npy_bytes(data=b"\0" * 15))),
    "longer": zip_bytes(("w.npy", npy_bytes(data=b"\0" * 17))),
    "huge": zip_bytes(("w.npy", npy_bytes(shape="(2**60, 4)"))),
    "huge number": zip_bytes(("w.npy", npy_bytes(shape=f"({2**60}, 4)"))),
    "negative": zip_bytes(("w.npy", npy_bytes(shape="(-1, -4)"))),
    "code": zip_bytes(("w.npy", npy_bytes(shape="__import__('os').abort()"))),
    "long header": zip_bytes(("w.npy", npy_bytes(shape="(" + "1, " * 20_000 + ")"))),
    "pickle": zip_bytes(("w.npy", npy_bytes("()", "'|O'", pickle.dumps(Evil(Path("/tmp/jaxscape-evil")))))),
    "structure": zip_bytes(("w.npy", npy_bytes(descr="[('a', '<f4')]"))),
    "path": zip_bytes(("../../w.npy", npy_bytes())),
    "absolute": zip_bytes(("/etc/w.npy", npy_bytes())),
    "control": zip_bytes(("a\nb.npy", npy_bytes())),
    "method": of_unknown_method(zip_bytes(("w.npy", npy_bytes()))),
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_hostile_safetensors_end_in_one_line(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(HOSTILE_SAFETENSORS[name])
    with pytest.raises(ValueError, match=r"a\.safetensors") as caught:
        list(import_checkpoints(tmp_path))
    assert_one_line(caught.value, tmp_path)


@pytest.mark.parametrize("name", HOSTILE_NPZ)
def test_hostile_npz_end_in_one_line(tmp_path, name):
    (tmp_path / "a.npz").write_bytes(HOSTILE_NPZ[name])
    with pytest.raises(ValueError, match=r"a\.npz") as caught:
        list(import_checkpoints(tmp_path))
    assert_one_line(caught.value, tmp_path)
    assert not Path("/tmp/jaxscape-evil").exists()


def test_a_zip_that_claims_more_than_compression_can_do_is_refused(tmp_path):
    data = npy_bytes(shape="(4000,)", data=b"\0" * 16_000)
    content = bytearray(zip_bytes(("w.npy", data), compression=zipfile.ZIP_DEFLATED))
    place = content.index(b"PK\1\2") + 24  # the size in the central directory
    content[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"'w' claims 2147483648 bytes, and has \d+"):
        import_checkpoints(tmp_path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64"])
def test_types_that_hold_no_parameters_are_refused_by_name_and_can_be_excluded(tmp_path, dtype):
    header = {
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "packed": {"dtype": dtype, "shape": [4], "data_offsets": [4, 8]},
    }
    (tmp_path / "a.safetensors").write_bytes(with_header(json.dumps(header), b"\0" * 8))
    with pytest.raises(ValueError, match=rf"a.safetensors: 'packed' is {dtype}; allowed: float32, .* with exclude"):
        import_checkpoints(tmp_path)
    assert list(import_checkpoints(tmp_path, exclude="packed").shapes) == ["w"]


def test_every_file_of_an_orbax_checkpoint_damaged_in_turn(tmp_path):
    from orbax.checkpoint import v1

    state = {"w": np.arange(3000, dtype=np.float32)}
    v1.save(tmp_path / "1", state)
    reported = 0
    for file in sorted(path for path in (tmp_path / "1").rglob("*") if path.is_file()):
        whole = file.read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"[" * 100_000, None):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            try:
                [(_, found)] = import_checkpoints(tmp_path / "1")
            except (ValueError, OSError) as error:
                reported += 1
                assert_one_line(error, tmp_path)
            else:
                assert_equal(found, state)
            file.write_bytes(whole)
    assert reported > 8


def test_an_orbax_array_that_claims_more_bytes_than_the_folder_can_hold_is_refused(tmp_path):
    import orbax.checkpoint as ocp

    made = ocp.PyTreeCheckpointer(use_ocdbt=False)
    made.save(tmp_path / "1", {"w": jnp.ones(3)})
    made.close()
    file = tmp_path / "1" / "w" / ".zarray"
    header = json.loads(file.read_text())
    file.write_text(json.dumps(header | {"shape": [2**50], "chunks": [2**20]}))
    with pytest.raises(ValueError, match="its arrays claim 4503599627370496 bytes"):
        list(import_checkpoints(tmp_path))
    shutil.rmtree(tmp_path / "1" / "w")
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        list(import_checkpoints(tmp_path))


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["fc1.weight", "fc1.bias"], ["fc1/weight", "fc1/bias"]),
        (["a/b.c"], ["a/b/c"]),
        (["fc1.weight", "fc1/weight"], ["fc1.weight", "fc1/weight"]),  # would be one
        (["fc1", "fc1.weight"], ["fc1", "fc1.weight"]),  # an array and a folder of that name
        (["w..b"], ["w..b"]),
        (["a.b", "w."], ["a.b", "w."]),
    ],
)
def test_dots_separate_names_like_slashes_if_that_is_unambiguous(tmp_path, names, paths):
    np.savez(tmp_path / "step0.npz", **{name: np.full(2, number, np.float32) for number, name in enumerate(names)})
    found = import_checkpoints(tmp_path / "step0.npz")
    assert list(found.shapes) == paths
    ((_, arrays),) = found
    for number, path in enumerate(paths):
        np.testing.assert_array_equal(arrays[path], [number] * 2)


def test_patterns_are_of_the_names_in_the_file(tmp_path):
    np.savez(tmp_path / "step0.npz", **{"fc1.weight": np.ones(2, np.float32), "fc2.weight": np.ones(2, np.float32)})
    assert list(import_checkpoints(tmp_path / "step0.npz", include="fc1.*").shapes) == ["fc1/weight"]


def test_the_error_for_a_key_into_a_flat_file_says_that_nothing_is_nested(tmp_path):
    np.savez(tmp_path / "step0.npz", w=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"key='model' is not in .*; allowed: '', since nothing in it is nested"):
        import_checkpoints(tmp_path / "step0.npz", key="model")
