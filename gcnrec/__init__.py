"""gcnrec: graph recommenders trained in offline jobs; Parquet in, recall out.

Letters used in names: B seeds, N negatives per seed (or nodes of the graph), V nodes of a batch, R distinct rows,
E interactions, U users, I items, D width, K list length, L layers.
"""

from __future__ import annotations

__version__ = "0.1.0"
