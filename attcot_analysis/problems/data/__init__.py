"""Adapters: datasets as they are published, read as problems."""

from attcot_analysis.problems.data.registry import (
    ADAPTERS,
    Adapter,
    DataCheck,
    check_data,
    convert_data,
    read_data,
)

__all__ = ["ADAPTERS", "Adapter", "DataCheck", "check_data", "convert_data", "read_data"]
