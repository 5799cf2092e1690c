import numpy as np
import torch


def tree(pieces):
    xs = list(pieces)
    while len(xs) > 1:
        h = len(xs) // 2
        xs = [xs[k] + xs[k + h] for k in range(h)]
    return xs[0]


def _add(a, b):
    rows = np.union1d(a[0], b[0])
    g = torch.zeros(len(rows), a[1].shape[1])
    for r, t in (a, b):
        g.index_add_(0, torch.from_numpy(np.searchsorted(rows, r)), t)
    return rows, g


def tree_rows(pieces, width):
    xs = [(np.asarray(r, dtype=np.int64), t) for r, t in pieces]
    while len(xs) > 1:
        h = len(xs) // 2
        xs = [_add(xs[k], xs[k + h]) for k in range(h)]
    return xs[0]


def by_owner(rows, size):
    return np.argsort(rows % size, kind="stable"), np.bincount(rows % size, minlength=size)


def placed(g, o):
    out = torch.empty_like(g)
    out[torch.from_numpy(o)] = g
    return out


def grouped(t, o):
    return t[torch.from_numpy(o)]
