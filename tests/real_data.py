"""Real tables for tests: those that come with the repository, and the whole ones where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent / "data"
WHOLE = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_files(shipped: str, whole: str) -> list[Path]:
    """The file of ``tests/data``, and the one it was cut from where that is on this machine."""
    beside = WHOLE / whole
    return [SHIPPED / shipped, *([beside] if beside.is_file() else [])]


PARQUET_TABLES = real_files("debug_s1_36.parquet", "debug_s1_pred_len20_200_100.parquet")
PICKLED_TABLES = real_files("debug_s1_36.pkl.gz", "debug_s1_pred_len20_200_100.pkl.gz")
"""The same rows as :data:`PARQUET_TABLES`, one by one."""
PANDAS_1_TABLES = [SHIPPED / "pandas1_debug_s1_pred_30.pkl.gz"]
"""30 rows pickled by pandas 1.5.3: the whole file is with the repository."""
REAL_TABLES = [*PARQUET_TABLES, *PICKLED_TABLES, *PANDAS_1_TABLES]
KNOWN_STRUCTURES = real_files("known_structures_36.csv.gz", "known_structures_archiveII_half.csv.gz")
LARGE_TABLE = WHOLE / "human_transcriptome_segment_high_mfe_freq_s1_pred_len20_200_5000.pkl.gz"
"""5,000 rows; not with the repository."""


def name_of(path: Path) -> str:
    """The name of a parametrised test on this file."""
    return path.name
