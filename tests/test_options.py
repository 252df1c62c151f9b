"""Options from YAML and the command line, and outputs that are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import stat
from dataclasses import replace

import pytest
from pydantic import Field

from rna_s2.commands.train import COMMAND
from rna_s2.options.base import Options, check_outputs
from rna_s2.options.command_line import Command, option_keys, parse
from rna_s2.options.errors import UserError, run_command
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.pipeline.train_config import SAMPLE, TrainConfig

PLAIN = Command("train", TrainConfig, "", config="")


def read(*arguments: str) -> TrainConfig:
    return parse(PLAIN, arguments)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my.yaml"

    def write(text: str) -> tuple[str, str]:
        path.write_text(text, encoding="utf-8")
        return "--config", str(path)

    return write


def test_command_line_wins_over_file_wins_over_default(config):
    given = config("seed: 4\ntraining: {epoch: 7, lr: 1e-2}\nname: mine\n")
    both = read(*given, "--epochs", "9")
    assert (both.seed, both.training.epoch, both.training.lr, both.name) == (4, 9, 0.01, "mine")
    assert both.training.batch_size == TrainConfig().training.batch_size
    assert read(*given).training.epoch == 7
    assert read("--epochs=9").training.epoch == 9


def test_empty_means_not_given(config):
    given = config("seed: 4\n")
    assert read(*given, "--seed", "", "--epochs", "") == read(*given)
    assert read("--config", "") == TrainConfig() == read(*config("")) == read(*config("# nothing\n"))


def test_an_option_takes_the_place_of_another_key_of_the_file(config):
    given = config("data: {in_file: mine.parquet, max_rejects: 3}\n")

    def sources(*arguments: str) -> tuple[str, str]:
        data = parse(replace(COMMAND, find_config=None), arguments).data
        return data.in_file, data.transcripts

    assert sources(*given) == ("mine.parquet", "")
    assert sources(*given, "--transcripts", "t.fa") == ("", "t.fa")
    assert sources(*config("data: {transcripts: t.fa}\n"), "--in_file", "other.parquet") == ("other.parquet", "")
    assert sources() == (SAMPLE, "")
    for both in ((*given, "--transcripts", "t.fa", "--in_file", "other.parquet"),
                 config("data: {in_file: mine.parquet, transcripts: t.fa}\n")):
        with pytest.raises(UserError, match="give either in_file or transcripts, not both"):
            sources(*both)
    with pytest.raises(UserError, match=r"^command train: give either"):  # not the file, which is right
        sources(*given, "--transcripts", "t.fa", "--in_file", "other.parquet")
    with pytest.raises(UserError, match="'data' must hold keys and values"):
        sources(*config("data: 3\n"), "--transcripts", "t.fa")


def test_the_help_names_the_config_file_and_what_it_may_set(capsys):
    with pytest.raises(SystemExit):
        parse(COMMAND, ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "config file [configs/baseline.yaml]" in said
    assert "passes over the training rows [the config's, else 50]" in said


def test_none_and_negative_values(config):
    assert read(*config("registered_name: mine\n"), "--registered_name", "none").registered_name is None
    assert read("--max_rejects", "-1").data.max_rejects == -1


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("epocs: 3\n", "epocs", "seed, start, resume, data, pruning"),
        ("training: {epocs: 3}\n", "epocs", "epoch, batch_size, batch_boxes, max_boxes, row_share, n_length_groups"),
        ("network: {n_dims: 20}\ntraining: {epoch: 2}\n", "n_dims", "n_dim, n_attn_layer"),
    ],
)
def test_a_misspelt_key_is_named_with_what_is_allowed(config, text, key, allowed):
    message = refused(*config(text), "--epochs", "3")
    assert f"unknown key '{key}'" in message and "my.yaml" in message and allowed in message


def test_all_misspelt_keys_are_named(config):
    message = refused(*config("a: 1\ntraining: {b: 1}\n"))
    assert "'a'" in message and "my.yaml: training: unknown key 'b'" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training: {epoch: many}\n", ["'training.epoch'", "integer", "got 'many'"]),
        ("training: {epoch: 0}\n", ["'training.epoch'", "greater than or equal to 1", "got 0"]),
        ("network: {dropout: 1.0}\n", ["'network.dropout'", "less than 1"]),
        ("training: {lr: .nan}\n", ["'training.lr'", "finite"]),
        ("split: {by: random}\n", ["'split.by'", "'order' or 'group'", "got 'random'"]),
        ("network: {n_dim: 22}\n", ["'network'", "n_dim 22 must be divisible by n_heads 5", "e.g. n_dim 20"]),
        ("training: {betas: [0.9, 1.5]}\n", ["betas must lie in [0, 1)"]),
        ("training: 5\n", ["'training'"]),
    ],
)
def test_a_value_that_cannot_be_is_explained(config, text, parts):
    message = refused(*config(text))
    assert "my.yaml" in message
    for part in parts:
        assert part in message


def test_a_wrong_value_of_the_command_line_is_not_blamed_on_the_file(config):
    message = refused(*config("seed: 1\n"), "--epochs", "many")
    assert "my.yaml" not in message and "parameter epochs" in message and "got 'many'" in message


class Lists(Options):
    counts: tuple[int, ...] = Field((1,), min_length=1, description="whole numbers")
    names: tuple[str, ...] = Field((), description="names")


def test_a_wrong_item_of_a_list_is_one_complaint_about_its_source(config):
    def said(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            parse(Command("count", Lists, "", config=""), arguments)
        return str(caught.value)

    message = said(*config("names: [a]\n"), "--counts", "x")
    assert message.startswith("command count, parameter counts: 'counts.0': Input should be a valid integer")
    assert message.endswith("(got 'x')") and ";" not in message
    assert said("--counts", "x,1,y").count(";") == 1
    assert "at least 1 item" in said("--counts", ",")


def test_outputs_are_no_folders_and_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("in.csv")
    check_outputs({"out_file": "out.csv", "rejects_file": ""}, {"in_file": "in.csv", "transcripts": ""})
    for path in ("there", ".", ".."):
        with pytest.raises(UserError, match=r": is a folder; choose another out_file$"):
            check_outputs({"out_file": path})
    for path in ("in.csv", "there/../in.csv", str(tmp_path / "in.csv"), "link"):
        with pytest.raises(UserError, match=r": is both in_file and out_file; choose another out_file$"):
            check_outputs({"out_file": path}, {"in_file": "in.csv"})
    with pytest.raises(UserError, match="is both out_file and the rejects of x_file; choose another x_file"):
        check_outputs({"out_file": "a", "the rejects of x_file": "./a"})


def test_an_override_does_not_hide_a_broken_section(config):
    assert "'training' must hold keys and values, not int" in refused(*config("training: 5\n"), "--epochs", "3")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: 1\nseed: 2\n", "line 2: is not valid YAML (key 'seed' stands twice)"),
        ("a: [1\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("- 1\n", "must hold keys and values, not list"),
        ("? [1, 2]\n: 3\n", "line 1: is not valid YAML (a key must be a plain value)"),
        ("seed: {{seed}}\n", "line 1: is not valid YAML"),
        ("seed: 2024-99-99\n", "cannot be read"),
        ("seed: \x00\n", "is not valid YAML"),
        ("seed: " + "[" * 3000 + "]" * 3000, "too many brackets"),
        ("training: {epoch: true}\n", "'training.epoch'"),
        ("seed: true\n", "'seed'"),
        ("training: {lr: false}\n", "'training.lr'"),
    ],
)
def test_what_is_no_config_is_refused(config, text, part):
    message = refused(*config(text))
    assert part in message and "my.yaml" in message


def test_merged_keys_give_way_to_those_that_stand_there(config):
    given = read(*config("training: &short {epoch: 7, lr: 0.5}\n"), "--epochs", "7").training
    merged = read(*config("network: {n_hid: 9, <<: {n_hid: 3, n_ff: 11}}\ntraining: {<<: {epoch: 7, lr: 0.5}}\n"))
    assert merged.training == given and (merged.network.n_hid, merged.network.n_ff) == (9, 11)
    assert "key 'n_ff' stands twice" in refused(*config("network: {n_ff: 1, n_ff: 2, <<: {n_hid: 3}}\n"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "No such file" in refused("--config", str(tmp_path / "absent.yaml"))
    assert "directory" in refused("--config", str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    assert "UTF-8" in refused("--config", str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("arguments", [("--epoch", "3"), ("--epochs",), ("3",)])
def test_an_unknown_option_is_refused_with_those_there_are(arguments):
    message = refused(*arguments)
    assert f"parameters are: config, {', '.join(option_keys(TrainConfig))}" in message and "epochs" in message


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in option_keys(TrainConfig))


class Broken(Exception):
    pass


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_nothing_changes_when_writing_fails(tmp_path, folder, before):
    path = tmp_path / "deep" / "out"

    def write(target, text):
        if folder:
            target.mkdir()
            target = target / "inner"
        target.write_text(text)

    if before:
        with atomic_path(path) as temporary:
            write(temporary, "old")
    old = file_digest(path) if before else None
    with pytest.raises(Broken), atomic_path(path) as temporary:
        write(temporary, "new")
        raise Broken
    assert (file_digest(path) if path.exists() else None) == old
    assert [p.name for p in path.parent.iterdir()] == ["out"] * before
    with atomic_path(path) as temporary:
        write(temporary, "new")
        assert (file_digest(path) if path.exists() else None) == old
    assert (path / "inner" if folder else path).read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["out"]


def test_a_path_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*choose another output path"), atomic_path(tmp_path / "file" / "out"):
        pass
    with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / "out"):
        pass  # nothing was written


def test_errors_that_have_nothing_to_do_with_the_path_pass_through(tmp_path):
    for error in (ConnectionResetError("peer"), FileNotFoundError(2, "none", str(tmp_path / "other"))):
        with pytest.raises(type(error)), atomic_path(tmp_path / "out"):
            raise error
    for error in (
        OSError(errno.ENOSPC, "no room"), PermissionError(13, "no", str(tmp_path / "out")), PermissionError(13, "PyArrow's")
    ):
        with pytest.raises(UserError, match="out: cannot be written"), atomic_path(tmp_path / "out"):
            raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["base_v1.2", "a/b", "a:b", "", "'a'"])
def test_names_that_the_registry_refuses_are_refused_before_any_work(config, name):
    for key in ("name", "registered_name"):
        assert f"'{key}'" in refused(*config(f'{key}: "{name}"\n'))


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="out: is a folder"), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_link_points_to_is_replaced_and_dots_are_followed(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for path in (tmp_path / "link", tmp_path / "there" / ".." / "there"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text(str(path))
        assert (tmp_path / "there" / "new").read_text() == str(path) and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(UserError, match="there: is a folder"), atomic_path(".") as temporary:
        temporary.write_text("new")


def test_what_was_left_of_another_path_stays(tmp_path):
    """``out.v2`` was being replaced when the process was killed: its only copy is not a thing of ``out``."""
    left = tmp_path / ".out.v2.0123abcd.old.tmp"
    left.mkdir()
    for _ in range(2):
        with atomic_path(tmp_path / "out") as temporary:
            temporary.mkdir()
        assert left.is_dir()
    with atomic_path(tmp_path / "out.v2") as temporary:
        temporary.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.v2"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.ENOSPC, "No space left", "x.csv"), "the disk is full"), (MemoryError("8 TiB"), "the memory is out"),
     (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "the memory is out")],
)
def test_what_the_machine_lacks_is_one_line(capsys, error, said):
    def main(argv):
        raise error

    assert run_command(main) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    for other in (OSError(errno.ECONNRESET, "reset"), RuntimeError("a defect")):
        error = other
        with pytest.raises(type(other)):
            run_command(main)


def test_an_error_that_names_the_file_in_its_text_alone_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"x\.csv: cannot be written"), atomic_path(tmp_path / "x.csv") as temporary:
        raise FileNotFoundError(errno.ENOENT, f"Failed to open local file '{temporary}'")  # as PyArrow says it
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.csv"):
        raise FileNotFoundError(errno.ENOENT, "Failed to open local file 'another'")


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match="pipe: is neither a file nor a folder"), atomic_path(tmp_path / name):
            pytest.fail("nothing is done before")
        with pytest.raises(UserError, match=f"{name}: is neither .* another out_file"):
            check_outputs({"out_file": tmp_path / name})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("name", ["n" * 255, "\N{GREEK SMALL LETTER ALPHA}" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    for text in ("old", "new"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "new"
    with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / (name + "more")) as temporary:
        temporary.write_text("new")


def test_a_folder_is_put_back_where_its_replacement_was_killed(tmp_path, monkeypatch):
    path = tmp_path / "out"
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "inner").write_text("old")
    real, renamed = os.replace, []

    def killed_at_the_second(source, target):
        renamed.append(target)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.mkdir()
    monkeypatch.setattr(os, "replace", real)
    assert not path.exists()
    with atomic_path(path) as temporary:
        assert (path / "inner").read_text() == "old"
        temporary.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not list(path.iterdir())


def test_sigterm_ends_a_command_in_order(tmp_path):
    def main(argv):
        with atomic_path(tmp_path / "out") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_command(main, [])
    assert ended.value.code == 128 + signal.SIGTERM and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_digest_is_of_content_and_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    with pytest.raises(UserError, match=r"absent: cannot be read"):
        file_digest(tmp_path / "absent")
