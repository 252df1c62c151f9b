"""Readers and writers of sequence and structure files: FASTA, dot-bracket, CT, BPSEQ, CSV.

Every ``parse_*`` takes lines and gives the records it could read and the ones it could not (:class:`Rejected`): one bad record
never loses another. To add a format of structures, write its parser and its writer here, and an entry in
:data:`STRUCTURE_FORMATS`.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from rna_s2.rna.pairs import as_pairs, from_dot_bracket, pair_table, to_dot_bracket
from rna_s2.rna.sequence import illegal_characters

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
"""What no name may hold: control characters, and what else some programs take for the end of a line."""

_BLANKS = re.compile(rf"(?:\t|(?!{_CONTROL.pattern})\s)+")
"""White space between the words of a header."""


class FileError(ValueError):
    """A file that cannot be read at all; the text is one line that names it and says why."""


@dataclass(frozen=True)
class SequenceRecord:
    """A named sequence.

    Attributes:
        name: the first word of its header.
        seq: bases as in the file (any case, T or U), without white space.
        description: the rest of the header.
    """

    name: str
    seq: str
    description: str = ""


@dataclass(frozen=True)
class StructureRecord:
    """A named sequence and its secondary structure.

    Attributes:
        name, seq: as in :class:`SequenceRecord`.
        pairs: ``(k, 2)`` int32 base pairs; they may cross.
        family: the RNA family; empty where the file does not say.
        energy: free energy in kcal/mol; NaN where the file does not say.
    """

    name: str
    seq: str
    pairs: np.ndarray
    family: str = ""
    energy: float = float("nan")


class Rejected(NamedTuple):
    """A record that could not be used: its name, the line it begins at (counting from 1), and why."""

    name: str
    line: int
    reason: str


Record = TypeVar("Record", bound=SequenceRecord | StructureRecord)


class Found(NamedTuple, Generic[Record]):
    """What a file of sequences or structures holds."""

    records: list[Record]
    rejected: list[Rejected]


Sequences = Found[SequenceRecord]
Structures = Found[StructureRecord]


# --- files -----------------------------------------------------------------------------------------------------------


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, plain or gzip by its content, without their ends (CR LF, LF or CR).

    Bytes that are not UTF-8 become replacement characters, which no sequence may contain.

    Raises:
        FileError: the file cannot be opened, or its gzip stream is broken.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, ValueError) as error:
            raise FileError(f"{path}: the gzip file is broken or cut short ({error})") from error
        except Exception as error:  # zlib.error derives from Exception alone
            raise FileError(f"{path}: the gzip file is broken ({error})") from error
    lines = raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_fasta(path: str | Path) -> Sequences:
    """:func:`parse_fasta` on a file, plain or gzip.

    Raises:
        FileError: the file cannot be read.
    """
    return parse_fasta(read_lines(path))


def read_structures(path: str | Path) -> Structures:
    """Structures from a file whose ending says its format (:data:`STRUCTURE_FORMATS`; ``.gz`` may follow).

    Raises:
        FileError: the file cannot be read, or its name has none of the known endings.
    """
    parse, lines = structure_format(path).parse, read_lines(path)
    try:
        return parse(lines)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def structure_format(path: str | Path) -> StructureFormat:
    """The format of a file by the ending of its name.

    Raises:
        FileError: its name has none of the known endings.
    """
    name = str(path).lower().removesuffix(".gz")
    for known in STRUCTURE_FORMATS.values():
        if name.endswith(known.suffixes):
            return known
    suffixes = ", ".join(suffix for known in STRUCTURE_FORMATS.values() for suffix in known.suffixes)
    raise FileError(f"{path}: the name of a structure file must end in one of {suffixes}")


# --- FASTA -----------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """A header line (without its mark), the line it stands at, and the lines up to the next header."""

    header: str
    line: int
    body: list[str]


def _blocks(lines: Iterable[str], part: Callable[[str], tuple[str | None, str]]) -> Iterator[_Block]:
    """Blocks of a file, the first with line 0 where lines stand before the first header. ``part`` gives a line's header (None
    where it is none) and its text (empty where the line is passed over)."""
    block = _Block("", 0, [])
    for number, line in enumerate(lines, start=1):
        header, text = part(line.strip())
        if header is not None:
            if block.line or block.body:
                yield block
            block = _Block(header, number, [])
        elif text:
            block.body.append(text)
    if block.line or block.body:
        yield block


def _fasta_part(line: str) -> tuple[str | None, str]:
    return (line[1:].strip(), "") if line.startswith(">") else (None, "" if line.startswith(";") else line)


def _words(text: str, at_most: int = 0) -> list[str]:
    """Words of a header, parted by white space; there is one at least, which may be empty."""
    return _BLANKS.split(text.strip(), max(at_most - 1, 0))


def _collected(entries: Iterable[tuple[str, int, Callable[[], Record]]]) -> Found[Record]:
    """Records from names, lines and what makes them. A ``ValueError`` of that, no name of its own, or control characters in
    the name reject one."""
    found = Found[Record]([], [])
    first_line: dict[str, int] = {}
    for name, line, make in entries:
        try:
            record = make()
            if not name:
                raise ValueError("the record has no name")
            control = _CONTROL.search(name)
            if control:
                place = control.start() + 1
                raise ValueError(f"character {control[0]!r} at position {place} of the name is a control character")
            if name in first_line:
                raise ValueError(f"the name is already taken by the record at line {first_line[name]}")
        except ValueError as error:
            shown = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], name)  # spelt out
            found.rejected.append(Rejected(shown, max(line, 1), str(error)))
        else:
            first_line[name] = line
            found.records.append(record)
    return found


def _check_header(block: _Block) -> None:
    if not block.line:
        raise ValueError("text stands before the first header, a line that begins with '>'")


def _check_sequence(seq: str) -> None:
    if not seq:
        raise ValueError("the record has no sequence")
    problem = illegal_characters(seq)
    if problem:
        raise ValueError(problem)


def parse_fasta(lines: Iterable[str]) -> Sequences:
    """Sequences of a FASTA file.

    Rejected: a record without a name or sequence, with a character outside the IUPAC alphabet, with a control character
    in its name, or with a name that an earlier record has; text before the first header.
    """
    return _collected(
        (_words(block.header)[0], block.line, partial(_fasta_record, block)) for block in _blocks(lines, _fasta_part)
    )


def _fasta_record(block: _Block) -> SequenceRecord:
    _check_header(block)
    name, *description = _words(block.header, at_most=2)
    seq = "".join("".join(block.body).split())
    _check_sequence(seq)
    return SequenceRecord(name, seq, "".join(description))


# --- dot-bracket -----------------------------------------------------------------------------------------------------

_ENERGY = re.compile(r"^(?P<structure>\S+)\s+\(?\s*(?P<energy>[-+]?\d+(\.\d+)?)\s*\)?$")


def parse_dot_bracket(lines: Iterable[str]) -> Structures:
    """Structures of a dot-bracket file: header, sequence line, structure line, the latter with an optional energy
    (``(((...))) (-1.20)``, as RNAfold writes it).

    Rejected besides what :func:`parse_fasta` rejects: unbalanced brackets, unknown structure characters, a structure
    of another length than its sequence, a record with more or fewer lines.
    """
    return _collected(
        (_words(block.header)[0], block.line, partial(_dot_bracket_record, block)) for block in _blocks(lines, _fasta_part)
    )


def _dot_bracket_record(block: _Block) -> StructureRecord:
    _check_header(block)
    if len(block.body) != 2:
        raise ValueError(f"{len(block.body)} lines follow the header; it must be two, sequence and structure")
    seq, structure = block.body
    match = _ENERGY.match(structure)
    energy = float(match["energy"]) if match else float("nan")
    return _structure(_words(block.header)[0], seq, match["structure"] if match else structure, energy=energy)


def _structure(name: str, seq: str, structure: str, family: str = "", energy: float = float("nan")) -> StructureRecord:
    """A checked record from its dot-bracket."""
    _check_sequence(seq)
    if len(structure) != len(seq):
        raise ValueError(f"the structure has {len(structure)} characters, the sequence {len(seq)}")
    return StructureRecord(name, seq, from_dot_bracket(structure), family, energy)


def format_dot_bracket(records: Iterable[StructureRecord]) -> str:
    """Structures as dot-bracket text: header, sequence, structure (and energy where there is one)."""
    out = []
    for record in records:
        energy = "" if np.isnan(record.energy) else f" ({record.energy:.2f})"
        out.append(f">{record.name}\n{record.seq}\n{to_dot_bracket(record.pairs, len(record.seq))}{energy}\n")
    return "".join(out)


# --- CT --------------------------------------------------------------------------------------------------------------

_CT_ENERGY = re.compile(r"(?:ENERGY|dG)\s*=\s*(?P<energy>[-+]?\d+(\.\d+)?)\s*(\[[^\]]*\]\s*)?(?P<rest>.*)$", re.IGNORECASE)
_WHOLE = re.compile("[0-9]{1,9}")
CT_COLUMNS = 6
"""Columns of a CT line: index, base, index before, index after, partner (0 for none), and an index in another
numbering, which may be absent."""


def parse_ct(lines: Iterable[str]) -> Structures:
    """Structures of a CT (connectivity table) file, one or several one after the other.

    A header gives the number of bases, an optional ``ENERGY = x`` (or ``dG = x [initially y]``), and the name. Rejected: a
    table with more or fewer bases than that, or not numbered 1, 2, ...; partners that do not point at each other; a base
    paired with itself; what :func:`parse_fasta` rejects. Several structures of one sequence share its name in CT files: the
    first counts.
    """
    return _collected(map(_ct_entry, _blocks(lines, _ct_part)))


def _ct_entry(block: _Block) -> tuple[str, int, Callable[[], StructureRecord]]:
    count = _words(block.header)[0]
    title = block.header[len(count):].strip()
    match = _CT_ENERGY.search(title)
    name = _words(match["rest"] if match else title)[0]
    energy = float(match["energy"]) if match else float("nan")
    return name, block.line, partial(_ct_record, name, count, energy, block.body)


def _ct_record(name: str, count: str, energy: float, body: list[str]) -> StructureRecord:
    if not _WHOLE.fullmatch(count):
        raise ValueError("the line is neither a header (number of bases, name) nor that of a base")
    if len(body) != int(count):
        raise ValueError(f"the header promises {count} bases, {len(body)} lines of bases follow it")
    return _table_record(name, body, partner=4, energy=energy)


def _ct_part(line: str) -> tuple[str | None, str]:
    """A line that is not that of a base is a header."""
    text = line.split("#")[0].strip()
    fields = text.split()
    base = len(fields) >= CT_COLUMNS - 1 and len(fields[1]) == 1 and all(map(_WHOLE.fullmatch, fields[2:5]))
    return (None if base or not text else text), text


def _table_record(name: str, body: list[str], partner: int, energy: float = float("nan")) -> StructureRecord:
    """A checked record from a table with one line per base: its number from 1, its letter, and in column ``partner`` the number
    of its partner (0 for none)."""
    fields = [line.split() for line in body]
    for n, values in enumerate(fields, start=1):
        if len(values) <= partner or len(values[1]) != 1 or not _WHOLE.fullmatch(values[partner]):
            raise ValueError(f"line {n} of the table is not that of a base: {body[n - 1]!r}")
        if values[0] != str(n):
            raise ValueError(f"line {n} of the table is numbered {values[0]}")
    seq = "".join(values[1] for values in fields)
    _check_sequence(seq)
    partners = np.array([int(values[partner]) for values in fields], np.int64)
    return StructureRecord(name, seq, _pairs_of_partners(partners), "", energy)


def _pairs_of_partners(partner: np.ndarray) -> np.ndarray:
    """Base pairs from the partner (from 1, 0 for none) of each base.

    Raises:
        ValueError: a partner beyond the end, a base paired with itself, partners that do not point at each other.
    """
    base = np.arange(1, len(partner) + 1)
    paired = partner > 0
    if (partner > len(partner)).any():
        n = int(np.argmax(partner > len(partner)))
        raise ValueError(f"base {n + 1} is paired with base {partner[n]}, beyond the end of {len(partner)}")
    pairs = as_pairs(base[paired] - 1, partner[paired] - 1)
    one_sided = paired & (partner[partner - 1] != base)
    if one_sided.any():
        n = int(np.argmax(one_sided))
        raise ValueError(f"base {n + 1} is paired with base {partner[n]}, but not the other way round")
    return pairs


def format_ct(records: Iterable[StructureRecord]) -> str:
    """Structures as CT text."""
    out = []
    for record in records:
        length = len(record.seq)
        energy = "" if np.isnan(record.energy) else f"ENERGY = {record.energy:.2f} "
        out.append(f"{length} {energy}{record.name}\n")
        partner = pair_table(record.pairs, length) + 1
        for n, (letter, other) in enumerate(zip(record.seq, partner.tolist(), strict=True), start=1):
            out.append(f"{n} {letter} {n - 1} {n + 1 if n < length else 0} {other} {n}\n")
    return "".join(out)


# --- BPSEQ -----------------------------------------------------------------------------------------------------------


def parse_bpseq(lines: Iterable[str], name: str = "bpseq") -> Structures:
    """The structure of a BPSEQ file: one line per base with its number, letter and partner (0 for none).

    Lines before the first base that do not begin with a number are its header; ``Filename: x``, ``Organism: x`` or a
    comment ``# x`` there gives the name, else ``name`` does. Rejected as in :func:`parse_ct`.
    """
    body: list[str] = []
    first = 1
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not body and not text[:1].isdigit():
            word = _words(text.lstrip("#").removeprefix("Filename:"))[0]
            if text.startswith(("#", "Filename:")) and word:
                name = word.removesuffix(".bpseq")
        elif text and not text.startswith("#"):
            first = first if body else number
            body.append(text)
    return _collected([(name, first, partial(_table_record, name, body, partner=2))])


def format_bpseq(records: Iterable[StructureRecord]) -> str:
    """A structure as BPSEQ text.

    Raises:
        ValueError: more or fewer than one record: a BPSEQ file holds one.
    """
    (record,) = records
    partner = pair_table(record.pairs, len(record.seq)) + 1
    lines = [f"{n} {b} {p}\n" for n, (b, p) in enumerate(zip(record.seq, partner.tolist(), strict=True), start=1)]
    return f"# {record.name}\n" + "".join(lines)


# --- CSV -------------------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("id", "sequence", "structure")
"""Columns that a CSV of structures must have; ``family`` is read where it is there, others are passed over."""

_LONGEST_FIELD = 2**31 - 1
"""Longest CSV field that is read: the largest limit that :mod:`csv` takes everywhere."""


@contextmanager
def _long_fields() -> Iterator[None]:
    """Within the block, CSV fields may be longer than the 131072 characters that :mod:`csv` sets as a limit."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@_long_fields()
def parse_csv(lines: Iterable[str]) -> Structures:
    """Structures of a CSV file with columns id, sequence, structure (dot-bracket) and optionally family.

    Rejected as in :func:`parse_dot_bracket`.

    Raises:
        FileError: the header lacks a column, or the text is not CSV.
    """
    reader = csv.DictReader(lines)
    entries = []
    try:
        missing = [column for column in CSV_COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise FileError(f"the CSV has no column {', '.join(missing)}; it needs {', '.join(CSV_COLUMNS)}")
        for row in reader:
            name, seq, structure = (str(row[column] or "").strip() for column in CSV_COLUMNS)
            family = (row.get("family") or "").strip()
            entries.append((name, reader.line_num, partial(_structure, name, seq, structure, family=family)))
    except csv.Error as error:
        raise FileError(f"what follows line {reader.line_num} is not CSV ({error})") from error
    return _collected(entries)


def format_csv(records: Iterable[StructureRecord]) -> str:
    """Structures as CSV text with columns id, family, sequence, structure, length."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "family", "sequence", "structure", "length"])
    for record in records:
        structure = to_dot_bracket(record.pairs, len(record.seq))
        writer.writerow([record.name, record.family, record.seq, structure, len(record.seq)])
    return out.getvalue()


# --- all formats of structures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StructureFormat:
    """A format of structure files.

    Attributes:
        suffixes: endings of file names, in lower case.
        parse: records of the lines of a file.
        write: text of records.
    """

    suffixes: tuple[str, ...]
    parse: Callable[[Iterable[str]], Structures]
    write: Callable[[Iterable[StructureRecord]], str]


STRUCTURE_FORMATS: dict[str, StructureFormat] = {
    "dot_bracket": StructureFormat((".db", ".dbn", ".dot", ".dotbracket"), parse_dot_bracket, format_dot_bracket),
    "ct": StructureFormat((".ct",), parse_ct, format_ct),
    "bpseq": StructureFormat((".bpseq",), parse_bpseq, format_bpseq),
    "csv": StructureFormat((".csv",), parse_csv, format_csv),
}
"""The formats by name. A file's ending says its format (:func:`structure_format`)."""
