"""The job file: its sections and rules, TOML, grids of jobs, settings without effect.

The sections are handed on here: `from gcnrec.config import Data, Job`.
"""

from gcnrec.config.data import Data
from gcnrec.config.job import (
    INDUCTIVE,
    Evaluate,
    Job,
    Loss,
    Mixture,
    Model,
    Optimizer,
    Run,
    Sampler,
    Sparsity,
    Table,
    Train,
)

__all__ = [
    "INDUCTIVE",
    "Data",
    "Evaluate",
    "Job",
    "Loss",
    "Mixture",
    "Model",
    "Optimizer",
    "Run",
    "Sampler",
    "Sparsity",
    "Table",
    "Train",
]
