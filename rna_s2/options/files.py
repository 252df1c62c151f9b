"""Outputs that are never half written, and digests of what was read."""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from rna_s2.options.errors import UserError

KEY_LENGTH = 24
"""Characters of a name made by :func:`content_key`."""

_OLD = ".old.tmp"
_MARK_LENGTH = 8  # hexadecimal digits by which temporary names differ
_NAME_LENGTH = 200  # of a temporary name what comes from the path; file systems take 255 bytes
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EIO)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file or folder to; renamed to ``path`` when the block ends well.

    When the block raises, what was written is removed and ``path`` is as it was. A folder takes two renames; where the
    process was killed between them, the next call for the same path begins by putting the old folder back.

    A folder is replaced by a folder only. Where ``path`` is a link, what it points to is replaced.

    Raises:
        UserError: ``path`` or what belongs to it cannot be written, it is a folder and what was written is a file, or it is a
            device, a pipe or a socket. Other errors of the block pass through as they are.
    """
    path = Path(os.path.realpath(path))
    temporary = _beside(path, ".tmp")
    if is_special(path):
        raise UserError(f"{path}: is neither a file nor a folder, and would be replaced; choose another output path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_back(path)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made ({error.strerror}); choose another output path") from error
    try:
        yield temporary
        if path.is_dir():
            if not temporary.is_dir():
                raise UserError(f"{path}: is a folder; choose another output path")
            old = _beside(path, _OLD)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        if not _is_about(error, path, temporary):
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another output path") from error
    finally:
        with suppress(OSError):  # what the block raised is what matters
            if temporary.is_dir() and not temporary.is_symlink():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def is_special(path: str | Path) -> bool:
    """Whether a path is a device, a pipe or a socket."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def creation_lock(path: str | Path) -> Iterator[None]:
    """Holds a lock while what belongs at ``path`` is made, so that of several processes that want it one makes it. The others
    wait; they must look whether it is there when their turn comes. Where the block raises, folders that were made for the
    lock are gone again.

    Raises:
        UserError: the folder of ``path`` cannot be written.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(lock.lock_file)
            for folder in new:
                folder.rmdir()
        raise
    finally:
        lock.release()


def check_folder(
    path: str | Path, what: str, is_one: Callable[[Path], bool], written: Collection[str], option: str = "out_dir"
) -> Path:
    """An output folder that may be made or replaced; to be called before long work.

    Args:
        path: the folder.
        what: what it may hold from before, and be replaced: ``prediction``.
        is_one: says of a folder whether it is that.
        written: all names that such a folder may hold.
        option: name of the option that gives the folder, for messages.

    Raises:
        UserError: it is a file, a mount point, the current folder or one above it; it holds something else, or more than
            that; or it cannot be looked into.
    """
    out = Path(path)
    another = f"choose another {option}"
    try:
        with suppress(FileNotFoundError):
            out.stat()  # says of a path what exists() keeps to itself
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; {another}")
        if Path.cwd().is_relative_to(out.resolve()):
            raise UserError(f"{out}: is the current folder or one above it; {another}")
        if out.is_mount():
            raise UserError(f"{out}: is a mount point, which cannot be replaced as a whole; give a folder inside it")
        held = {inner.name for inner in out.iterdir()} if out.is_dir() else set()
        is_other = bool(held) and not is_one(out)
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be used ({getattr(error, 'strerror', error)}); {another}") from error
    if is_other:
        raise UserError(f"{out}: is not empty and holds no {what}; {another}")
    more = sorted(held - set(written))
    if more:
        raise UserError(f"{out}: holds {', '.join(more[:3])} beside an earlier {what}, which would be lost; {another}")
    return out


def _temporary_stem(path: Path) -> str:
    """How the temporary names for a path begin; a long name is cut, and a digest of it stands for the rest."""
    name = path.name
    if len(os.fsencode(name)) > _NAME_LENGTH:
        name = os.fsencode(name)[: _NAME_LENGTH - KEY_LENGTH].decode(errors="ignore") + content_key(name=name)
    return f".{name}."


def _beside(path: Path, ending: str) -> Path:
    """A name for temporary use beside a path."""
    return path.with_name(f"{_temporary_stem(path)}{uuid.uuid4().hex[:_MARK_LENGTH]}{ending}")


def _put_back(path: Path) -> None:
    """The folder that was at ``path``, where a process was killed while it replaced it; else what such a process left."""
    for old in path.parent.glob(f"{glob.escape(_temporary_stem(path))}{'[0-9a-f]' * _MARK_LENGTH}{_OLD}"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


def _is_about(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error comes from writing there: it names one of the two (PyArrow's in its text alone), names nothing and says
    that something was refused, or says that there is no room at all."""
    if error.errno in _NO_ROOM or (error.filename is None and (error.errno in _REFUSED or temporary.name in str(error))):
        return True
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return any(each in (path, temporary, path.parent) or temporary in each.parents for each in named)


def content_key(**parts: object) -> str:
    """A file name that stands for the content it was made from: a digest of plain values and digests."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names, in hexadecimal.

    A file is read once in a process, as long as its size and its time of change stay.

    Raises:
        UserError: the path cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            whole = hashlib.sha256()
            for inner in sorted(p for p in path.rglob("*") if p.is_file()):
                whole.update(f"{inner.relative_to(path).as_posix()}\0{file_digest(inner)}\n".encode())
            return whole.hexdigest()
        about = path.stat()
        return _digest(os.path.realpath(path), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    except (OSError, ValueError) as error:  # a null character is a ValueError
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from error


@functools.lru_cache(maxsize=1024)
def _digest(path: str, *about: int) -> str:
    """SHA-256 of a file; ``about`` differs where its content may."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
