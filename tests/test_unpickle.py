"""Pickled tables: read as pandas reads them, and nothing in a hostile one is executed."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.unpickle import STAND_INS, read_pickled_frame
from rna_s2.options.errors import UserError

BASE = {
    "seq": ["GGGAAACCC", "ACGU"],
    "one_idx": [([0, 1], [8, 7]), ([], [])],
    "fe": [1.0, -2.0],
    "n": [1, 2],
    "flag": [True, False],
}


def frames() -> dict[str, pd.DataFrame]:
    nested = np.empty(2, object)
    nested[:] = [np.arange(3.0), [np.array([1, 2]), {"a": np.int64(4)}]]
    return {
        "default": pd.DataFrame(BASE),
        "objects": pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in BASE.items()}),
        "labelled": pd.DataFrame(BASE, index=pd.Index(["a", "b"], name="key")),
        "numbered": pd.DataFrame(BASE, index=[5, 3]),
        "two_levels": pd.DataFrame(BASE, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["u", "v"])),
        "text": pd.DataFrame(BASE).astype({"seq": "string[pyarrow]"}),
        "text_python": pd.DataFrame(BASE).astype({"seq": "string[python]"}),
        "nullable": pd.DataFrame({**BASE, "m": pd.array([1, None], "Int32")}).astype(
            {"n": "Int64", "fe": "Float64", "flag": "boolean"}
        ),
        "narrow": pd.DataFrame(BASE).astype({"n": np.int8, "fe": np.float32}),
        "big_endian": pd.DataFrame({"n": np.array([1, 256], ">i4")}),
        "scalars": pd.DataFrame({"s": pd.Series([np.float64(3), np.int64(2)], dtype=object)}),
        "missing": pd.DataFrame({"s": pd.Series([None, np.nan], dtype=object)}),
        "nested_arrays": pd.DataFrame({"a": pd.Series(nested)}),
        "sliced": pd.DataFrame(BASE).iloc[1:],
        "no_rows": pd.DataFrame(BASE).iloc[:0],
    }


def unpickle(data: bytes) -> pd.DataFrame:
    return read_pickled_frame(io.BufferedReader(io.BytesIO(data)), "table.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", list(frames()))
def test_frames_come_back_as_pandas_gives_them(name: str, protocol: int) -> None:
    data = pickle.dumps(frames()[name], protocol=protocol)
    expected = pickle.loads(data)  # noqa: S301 - made just above
    got = unpickle(data)
    pd.testing.assert_frame_equal(got, expected, check_dtype=name not in ("text_python", "big_endian"))
    assert [list(map(str, row)) for row in got.to_numpy(object)] == [
        list(map(str, row)) for row in expected.to_numpy(object)
    ]


class Reduce:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(marker: Path) -> dict[str, tuple[object, str]]:
    """Objects whose ordinary unpickling creates ``marker``, and the name that must stand in the refusal."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    in_array = np.empty(1, object)
    in_array[0] = Reduce(os.system, command)
    in_cell = pd.DataFrame({"seq": ["ACGU"], "bb_stem": [[{"bb_x": Reduce(os.system, command)}]]})
    in_index = pd.DataFrame({"seq": ["ACGU"]}, index=pd.Index([Reduce(os.system, command)], dtype=object))
    return {
        "reduce": (Reduce(os.system, command), "system"),
        "eval": (Reduce(eval, code), "eval"),
        "exec": (Reduce(exec, code), "exec"),
        "object_array": (in_array, "system"),
        "cell": (in_cell, "system"),
        "index": (in_index, "system"),
        "getattr_chain": (Reduce(getattr, Reduce(__import__, "os"), "system"), "getattr"),
        "import": (Reduce(__import__, "os"), "__import__"),
        "pandas_eval": (Reduce(pd.eval, "1+1"), "eval"),
        "pandas_read_pickle": (Reduce(pd.read_pickle, "other.pkl"), "read_pickle"),
        "numpy_load": (Reduce(np.load, "other.npy"), "load"),
        "nested_loads": (Reduce(pickle.loads, b"."), "loads"),
        "open": (Reduce(open, str(marker), "w"), "open"),
        "map": (Reduce(map, print, [1]), "map"),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", list(hostile(Path("x"))))
def test_hostile_pickles_are_refused_by_name_without_effect(
    name: str, protocol: int, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    marker = tmp_path / "executed"
    payload, offender = hostile(marker)[name]
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps(payload, protocol=protocol))
    with pytest.raises(UserError, match=f"{offender}.*nothing in it was executed") as caught:
        read_table(path)
    assert "table.pkl" in str(caught.value)
    assert not marker.exists()
    assert capfd.readouterr().out == ""


def test_the_hostile_pickles_would_act_if_loaded_plainly(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(hostile(marker)["reduce"][0]))  # noqa: S301 - shows that the test above can fail
    assert marker.exists()


def short_text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module: str, name: str) -> bytes:
    return short_text(module) + short_text(name) + b"\x93"


@pytest.mark.parametrize(
    ("program", "offender"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "posix.system|os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"\x80\x04" + stack_global("pandas", "DataFrame.eval") + b")R.", "DataFrame.eval"),
        (b"\x80\x04" + stack_global("numpy", "dtype.__class__") + b")R.", "dtype.__class__"),
        (b"\x80\x04" + stack_global("rna_s2.boxtables.unpickle", "read_pickled_frame") + b")R.", "read_pickled_frame"),
        (b"\x80\x02ccopyreg\n_reconstructor\n(cpandas\nDataFrame\nNN\x74R.", "copyreg._reconstructor|copy_reg"),
    ],
)
def test_every_opcode_that_names_something_is_guarded(program: bytes, offender: str) -> None:
    with pytest.raises(UserError, match=offender):
        unpickle(program)


def test_refused_extension_codes_and_persistent_ids() -> None:
    for program in (b"\x80\x02\x82\x01.", b"\x80\x04" + short_text("id") + b"Q.", b"\x80\x05\x97."):
        with pytest.raises(UserError, match="cannot be read as a table"):
            unpickle(program)


class Raw:
    """A numpy array that pickles with the state given."""

    def __init__(self, dtype: object, state: tuple) -> None:
        self.dtype, self.state = dtype, state

    def __reduce__(self):
        reconstruct = np.empty(0).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, *self.state)


class RawDtype:
    """A numpy dtype that pickles with the code and state given."""

    def __init__(self, code: str, state: tuple | None) -> None:
        self.code, self.state = code, state

    def __reduce__(self):
        return (np.dtype, (self.code, False, True), self.state) if self.state else (np.dtype, (self.code, False, True))


FIELDS = (3, "|", None, ("a",), {"a": (np.dtype(object), 0)}, 8, 1, 63)
OBJECT = (3, "|", None, None, None, -1, -1, 63)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        # Bytes taken for the pointers of an object array.
        (Raw(None, ((1,), RawDtype("O8", OBJECT), False, struct.pack("q", 0x4141414141414141))), "does not fit"),
        # A record dtype with an object field over raw bytes.
        (Raw(None, ((1,), RawDtype("V8", FIELDS), False, b"A" * 8)), "V8"),
        (Raw(None, ((1,), RawDtype("f8", FIELDS), False, b"A" * 8)), "fields"),
        # A list shorter than the array, which numpy itself would read beyond.
        (Raw(None, ((1000,), RawDtype("O8", OBJECT), False, [None])), "does not fit"),
        (Raw(None, ((1000,), RawDtype("f8", None), False, b"A" * 8)), "does not fit"),
        (Raw(None, ((-1,), RawDtype("f8", None), False, b"")), "shape"),
        (Raw(None, ((2**62, 4), RawDtype("f8", None), False, b"")), "shape"),
        (Raw(None, ((1,), RawDtype("M8", None), False, b"A" * 8)), "M8"),
    ],
)
def test_numpy_arrays_with_hostile_states_are_refused(array: Raw, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        unpickle(pickle.dumps(array))


def test_states_set_on_functions_and_classes_change_nothing() -> None:
    for module, name in STAND_INS:
        stand_in = STAND_INS[module, name]
        before = dict(vars(stand_in)) if isinstance(stand_in, type) else None
        for state in (b"}" + short_text("__call__") + b"Ns", b"N}" + short_text("_function") + b"Ns\x86"):
            with pytest.raises(UserError):
                unpickle(b"\x80\x04" + stack_global(module, name) + state + b"b.")
        assert before is None or dict(vars(stand_in)) == before
    pd.testing.assert_frame_equal(unpickle(pickle.dumps(pd.DataFrame(BASE))), pd.DataFrame(BASE))


def test_no_stand_in_is_a_live_function_or_class_of_another_package() -> None:
    for name, stand_in in STAND_INS.items():
        inert = stand_in if isinstance(stand_in, type) else type(stand_in)
        assert stand_in is None or inert.__module__ == "rna_s2.boxtables.unpickle", name
        assert stand_in not in vars(builtins).values() or stand_in is None


@pytest.mark.parametrize("value", [[1, 2], {"seq": "ACGU"}, "text", None, pd.Index(["a"]), pd.Series([1]), np.arange(3)])
def test_a_pickle_of_something_else_is_named(value: object) -> None:
    with pytest.raises(UserError, match="not a pandas DataFrame"):
        unpickle(pickle.dumps(value))


def test_random_damage_ends_in_an_error_or_a_frame_never_in_a_crash() -> None:
    data = bytearray(pickle.dumps(frames()["objects"]))
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 400):
        damaged = bytearray(data)
        damaged[place] = rng.integers(0, 256)
        try:
            assert isinstance(unpickle(bytes(damaged)), pd.DataFrame)
        except (UserError, EOFError):
            pass
    for length in range(len(data)):
        with pytest.raises((UserError, EOFError)):
            unpickle(bytes(data[:length]))
