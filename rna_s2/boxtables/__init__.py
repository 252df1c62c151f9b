"""The S1 prediction table: schema, checks, Parquet, restricted reading of old pickles, and its columnar form."""
