"""Readers and writers of sequence and structure files."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.rna.formats import (
    STRUCTURE_FORMATS,
    FileError,
    SequenceRecord,
    StructureFormat,
    StructureRecord,
    Structures,
    format_bpseq,
    format_csv,
    format_ct,
    format_dot_bracket,
    parse_bpseq,
    parse_csv,
    parse_ct,
    parse_dot_bracket,
    parse_fasta,
    read_fasta,
    read_lines,
    read_structures,
    structure_format,
)
from rna_s2.rna.pairs import as_pairs, from_dot_bracket
from tests.real_data import KNOWN_STRUCTURES, SHIPPED, name_of


def structure(name, seq, text, **more):
    return StructureRecord(name, seq, from_dot_bracket(text), **more)


def same(a, b):
    energies = a.energy == b.energy or (np.isnan(a.energy) and np.isnan(b.energy))
    return (a.name, a.seq, a.family) == (b.name, b.seq, b.family) and np.array_equal(a.pairs, b.pairs) and energies


@st.composite
def structures(draw, with_energy=True):
    count = draw(st.integers(0, 4))
    length = 2 * count + draw(st.integers(1, 4))
    bases = draw(st.permutations(range(length)))
    seq = draw(st.text("ACGUNacgt", min_size=length, max_size=length))
    energy = draw(st.sampled_from([float("nan"), -12.25, 0.5])) if with_energy else float("nan")
    return StructureRecord("rna1", seq, as_pairs(bases[:count], bases[count: 2 * count]), "", energy)


# FASTA


def test_fasta_records_with_all_that_may_stand_between():
    got = parse_fasta([">a first one", "ACGU", "", "; a comment", "nn rY", ">b", "gg", " >c\tx  y ", "T"])
    assert got.records == [
        SequenceRecord("a", "ACGUnnrY", "first one"), SequenceRecord("b", "gg"), SequenceRecord("c", "T", "x  y")
    ]
    assert got.rejected == []


def test_bad_fasta_records_are_listed_and_the_rest_is_read():
    got = parse_fasta(["ACGU", ">a", "ACGU", ">empty", ">b", "AC-U*", ">a", "GG", ">", "GG", ">c", "CC"])
    assert [r.name for r in got.records] == ["a", "c"]
    assert [(r.name, r.line) for r in got.rejected] == [("", 1), ("empty", 4), ("b", 5), ("a", 7), ("", 9)]
    reasons = [r.reason for r in got.rejected]
    assert reasons[0].startswith("text stands before the first header")
    assert reasons[1] == "the record has no sequence"
    assert reasons[2].startswith("character '-' at position 3 and 1 more is not a base")
    assert reasons[3] == "the name is already taken by the record at line 2"
    assert reasons[4] == "the record has no name"


def test_the_name_of_a_rejected_record_is_still_free():
    got = parse_fasta([">a", "XX", ">a", "GG"])
    assert got.records == [SequenceRecord("a", "GG")]


@given(st.lists(st.text("ACGUNacgt", min_size=1, max_size=150), max_size=4), st.integers(1, 70))
def test_fasta_round_trip(seqs, width):
    records = [SequenceRecord(f"s{n}", seq, "about it" if n % 2 else "") for n, seq in enumerate(seqs)]
    text = fasta(records, width)
    assert parse_fasta(text.splitlines()).records == records


def fasta(records: list[SequenceRecord], width: int) -> str:
    """FASTA text with ``width`` bases per line."""
    out = []
    for record in records:
        out.append(f">{record.name} {record.description}".rstrip())
        out.extend(record.seq[k: k + width] for k in range(0, len(record.seq), width))
    return "".join(f"{line}\n" for line in out)


def test_files_are_plain_or_gzip_told_apart_by_content(tmp_path):
    text = ">a\r\nACGU\r\n"
    (tmp_path / "plain.fa.gz").write_bytes(text.encode())
    (tmp_path / "packed.fa").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.fa.gz", "packed.fa"):
        assert read_fasta(tmp_path / name).records == [SequenceRecord("a", "ACGU")]


def test_lines_end_at_cr_and_lf_alone(tmp_path):
    path = tmp_path / "x.txt"
    for text, lines in (
        ("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\r\n\nb\rc\n\r", ["a", "", "b", "c", ""]),
        ("a\x0bb\x0cc\x1cd\x85e\u2028f\nb\x0c", ["a\x0bb\x0cc\x1cd\x85e\u2028f", "b\x0c"]),
    ):
        path.write_bytes(text.encode())
        assert read_lines(path) == lines


def test_a_form_feed_in_a_description_does_not_end_its_line():
    got = parse_fasta([">a one\x0ctwo", "ACGU", "\x0c>b\xa0three", "GG"])
    assert got.records == [SequenceRecord("a", "ACGU", "one\x0ctwo"), SequenceRecord("b", "GG", "three")]


def test_broken_files_are_named(tmp_path):
    packed = gzip.compress(b">a\n" + b"ACGU" * 1000)
    for name, content in (("cut.gz", packed[:-9]), ("broken.gz", packed[:12] + b"zzzz" + packed[16:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=rf"{name}: the gzip file is broken"):
            read_lines(tmp_path / name)
    with pytest.raises(FileError, match=r"none\.fa: cannot be read \(No such file"):
        read_fasta(tmp_path / "none.fa")
    with pytest.raises(FileError, match="cannot be read"):
        read_fasta(tmp_path)


def test_a_file_that_is_no_text_gives_rejects_and_no_error(tmp_path):
    (tmp_path / "image.fa").write_bytes(bytes(range(128, 256)))
    got = read_fasta(tmp_path / "image.fa")
    assert got.records == [] and len(got.rejected) == 1


# dot-bracket


def test_dot_bracket_with_and_without_energy():
    lines = [">a", "GGGAAACCC", "(((...))) (-1.20)", ">b x", "GGAACC", "((..))", ">c", "ACGU", ".... ( 0.00)"]
    got = parse_dot_bracket(lines)
    assert got.rejected == []
    wanted = [
        structure("a", "GGGAAACCC", "(((...)))", energy=-1.2),
        structure("b", "GGAACC", "((..))"),
        structure("c", "ACGU", "....", energy=0.0),
    ]
    assert all(same(x, y) for x, y in zip(got.records, wanted, strict=True))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["ACGU", "(..."], "'(' at position 1 is never closed"),
        (["ACGU", "...)"], "')' at position 4 closes nothing"),
        (["ACGU", "(..)."], "the structure has 5 characters, the sequence 4"),
        (["ACGU"], "1 lines follow the header"),
        (["ACGU", "(..)", "(..)"], "3 lines follow the header"),
        (["ACXU", "(..)"], "character 'X' at position 3"),
        (["ACGU", "(.?)"], "'?' at position 3 is neither"),
    ],
)
def test_bad_dot_bracket_records(lines, said):
    got = parse_dot_bracket([">ok", "AU", "()", ">bad", *lines, ">ok2", "AU", ".."])
    assert [r.name for r in got.records] == ["ok", "ok2"]
    ((name, line, reason),) = got.rejected
    assert (name, line) == ("bad", 4)
    assert said in reason


@given(structures())
def test_dot_bracket_round_trip(record):
    got = parse_dot_bracket(format_dot_bracket([record]).splitlines())
    assert got.rejected == [] and same(got.records[0], record)


# CT

CT = """\
5 ENERGY = -1.5 hairpin of five
1 G 0 2 5 1
2 A 1 3 0 2
3 A 2 4 0 3
4 A 3 5 0 4
5 C 4 0 1 5
"""


def test_ct_tables_one_after_the_other():
    got = parse_ct([*CT.splitlines(), "", "# a comment", "2  second", "1 A 0 2 0 1", "2 U 1 0 0 2"])
    assert got.rejected == []
    wanted = [structure("hairpin", "GAAAC", "(...)", energy=-1.5), structure("second", "AU", "..")]
    assert all(same(x, y) for x, y in zip(got.records, wanted, strict=True))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["2 bad", "1 A 0 2 1 1", "2 U 1 0 0 2"], "base 1 is paired with itself"),
        (["2 bad", "1 A 0 2 2 1", "2 U 1 0 0 2"], "base 1 is paired with base 2, but not the other way round"),
        (["2 bad", "1 A 0 2 7 1", "2 U 1 0 0 2"], "base 1 is paired with base 7, beyond the end of 2"),
        (["3 bad", "1 A 0 2 3 1", "2 U 1 0 3 2", "3 U 2 0 1 3"], "base 3 is in more than one pair"),
        (["3 bad", "1 A 0 2 0 1", "2 U 1 0 0 2"], "promises 3 bases, 2 lines"),
        (["1 bad", "1 A 0 2 0 1", "2 U 1 0 0 2"], "promises 1 bases, 2 lines"),
        (["2 bad", "1 A 0 2 0 1", "3 U 1 0 0 2"], "line 2 of the table is numbered 3"),
        (["2 bad", "1 A 0 2 0 1", "2 X 1 0 0 2"], "character 'X' at position 2"),
        (["0 bad"], "the record has no sequence"),
    ],
)
def test_bad_ct_tables(lines, said):
    got = parse_ct([*CT.splitlines(), *lines, *CT.replace("hairpin", "again").splitlines()])
    assert [r.name for r in got.records] == ["hairpin", "again"]
    ((name, line, reason),) = got.rejected
    assert (name, line) == ("bad", 7)
    assert said in reason


def test_text_that_is_no_ct_is_rejected_at_its_line():
    got = parse_ct(["hello", *CT.splitlines(), "² what"])
    assert [r.name for r in got.records] == ["hairpin"]
    assert [r.line for r in got.rejected] == [1, 8]
    assert "neither a header" in got.rejected[0].reason


@given(structures())
def test_ct_round_trip(record):
    got = parse_ct(format_ct([record]).splitlines())
    assert got.rejected == [] and same(got.records[0], record)


# BPSEQ


def test_bpseq_with_a_header():
    lines = ["Filename: x1.bpseq", "Organism: y", "Accession Number: z", "1 G 4", "2 A 0", "3 A 0", "4 C 1"]
    got = parse_bpseq(lines)
    assert got.rejected == [] and same(got.records[0], structure("x1", "GAAC", "(..)"))
    assert parse_bpseq(["1 G 0"], name="mine").records[0].name == "mine"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1 G 1"], "base 1 is paired with itself"),
        (["1 G 2", "2 A 0"], "but not the other way round"),
        (["1 G 0", "3 A 0"], "line 2 of the table is numbered 3"),
        (["1 G 0", "2 A"], "line 2 of the table is not that of a base: '2 A'"),
        (["1 G -1"], "line 1 of the table is not that of a base"),
        ([], "the record has no sequence"),
    ],
)
def test_bad_bpseq(lines, said):
    got = parse_bpseq(["# name", *lines])
    assert got.records == []
    assert got.rejected[0].name == "name" and said in got.rejected[0].reason


@given(structures(with_energy=False))
def test_bpseq_round_trip(record):
    got = parse_bpseq(format_bpseq([record]).splitlines())
    assert got.rejected == [] and same(got.records[0], record)


# CSV


def test_csv_rows_good_and_bad():
    lines = ["structure,id,sequence,family,more", "(.),a,GAC,tRNA,1", "((),b,GAC,,", "(),a,GC,,", "..,c,,,", "()"]
    lines.append(".,d,A")
    got = parse_csv(lines)
    wanted = [structure("a", "GAC", "(.)", family="tRNA"), structure("d", "A", ".")]
    assert all(same(x, y) for x, y in zip(got.records, wanted, strict=True))
    assert [(r.name, r.line) for r in got.rejected] == [("b", 3), ("a", 4), ("c", 5), ("", 6)]


def test_csv_without_a_column_is_refused_as_a_whole(tmp_path):
    (tmp_path / "x.csv").write_text("id,sequence\na,ACGU\n")
    with pytest.raises(FileError, match=r"x\.csv: the CSV has no column structure"):
        read_structures(tmp_path / "x.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(FileError, match="no column id, sequence, structure"):
        read_structures(tmp_path / "empty.csv")


def test_a_long_csv_field_is_read_and_loses_no_other_record(tmp_path):
    before = csv.field_size_limit()
    long = "A" * 200_000
    (tmp_path / "x.csv").write_text(f"id,sequence,structure\na,{long},.\nb,GAC,(.)\nc,{long},{'.' * len(long)}\n")
    got = read_structures(tmp_path / "x.csv")
    assert [r.name for r in got.records] == ["b", "c"] and got.records[1].seq == long
    assert [(r.name, r.line) for r in got.rejected] == [("a", 2)]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("control", ["\x00", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\u2028"])
def test_a_name_with_a_control_character_is_rejected_in_every_format(tmp_path, control):
    good, bad = structure("a", "GAC", "(.)"), structure(f"b{control}c", "GAC", "(.)")
    texts = {"x.dbn": format_dot_bracket, "x.ct": format_ct, "x.csv": format_csv}
    for name, write in texts.items():
        (tmp_path / name).write_text(write([good, bad]), encoding="utf-8", newline="")
        got = read_structures(tmp_path / name)
        assert [r.name for r in got.records] == ["a"], name
        ((shown, _, reason),) = got.rejected
        assert control not in shown and shown[0] == "b" and shown[-1] == "c"
        assert reason == f"character {control!r} at position 2 of the name is a control character"
    assert parse_csv(["id,sequence,structure", "a\tb,GAC,(.)"]).rejected[0].name == "a\\tb"
    (tmp_path / "x.bpseq").write_text(format_bpseq([bad]), encoding="utf-8", newline="")
    assert [r.reason for r in read_structures(tmp_path / "x.bpseq").rejected] == [reason]
    (tmp_path / "x.fa").write_text(f">a one\tw\nAC\n>{bad.name} x\nACGU\n", encoding="utf-8", newline="")
    fasta = read_fasta(tmp_path / "x.fa")
    assert fasta.records == [SequenceRecord("a", "AC", "one\tw")] and [r.reason for r in fasta.rejected] == [reason]


@given(structures(with_energy=False))
def test_csv_round_trip(record):
    got = parse_csv(format_csv([record]).splitlines())
    assert got.rejected == [] and same(got.records[0], record)


# by name


def test_every_format_reads_what_it_writes_by_the_name_of_the_file(tmp_path):
    record = structure("a", "GAAAC", "(...)")
    assert list(STRUCTURE_FORMATS) == ["dot_bracket", "ct", "bpseq", "csv"]
    for each in STRUCTURE_FORMATS.values():
        for suffix in each.suffixes:
            path = tmp_path / f"x{suffix.upper()}"
            path.write_text(each.write([record]))
            assert structure_format(path) is each
            assert same(read_structures(path).records[0], record), suffix


def test_a_further_format_is_read_by_its_ending(tmp_path, monkeypatch):
    further = StructureFormat((".one",), lambda lines: Structures([structure(*next(iter(lines)).split())], []), format_ct)
    monkeypatch.setitem(STRUCTURE_FORMATS, "one", further)
    (tmp_path / "x.one").write_text("a GAC (.)")
    assert same(read_structures(tmp_path / "x.one").records[0], structure("a", "GAC", "(.)"))
    with pytest.raises(FileError, match=r"\.csv, \.one$"):
        read_structures(tmp_path / "x.two")


def test_bpseq_holds_one_structure():
    with pytest.raises(ValueError, match="too many"):
        format_bpseq([structure("a", "A", "."), structure("b", "A", ".")])


def test_the_ending_of_a_file_says_its_format(tmp_path):
    record = structure("a", "GAAAC", "(...)")
    texts = {
        "x.dbn": format_dot_bracket([record]),
        "x.ct": format_ct([record]),
        "x.BPSEQ": format_bpseq([record]),
        "x.csv": format_csv([record]),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert same(read_structures(path).records[0], record), path
    with pytest.raises(FileError, match=r"must end in one of \.db, "):
        read_structures(tmp_path / "x.txt")


@pytest.mark.parametrize("path", KNOWN_STRUCTURES, ids=name_of)
def test_the_file_of_known_structures_is_read_whole(path):
    got = read_structures(path)
    assert (len(got.records), got.rejected) == (36 if path.parent == SHIPPED else 1669, [])
    assert {record.family for record in got.records} >= {"tRNA", "5s"}


def test_a_ct_header_of_many_words_is_no_base():
    lines = ["1 G 0 2 3 1", "2 A 1 3 0 2", "3 C 2 0 1 3"]
    headers = {
        "3 E coli tRNA": "E", "3 E coli tRNA Phe": "E", "3 dG = -1.2 one": "one", "3 dG = -1.2 [initially -1.3] one": "one"
    }
    for header, name in headers.items():
        got = parse_ct([header, *lines])
        assert [record.name for record in got.records] == [name] and not got.rejected


def test_a_bad_bpseq_file_names_its_first_line_of_bases():
    assert parse_bpseq(["# x", "# y", "1 G 2", "2 A 0"]).rejected[0].line == 3
