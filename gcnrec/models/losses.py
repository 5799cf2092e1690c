"""Training losses: pure functions of embeddings, formula and paper each. All return a scalar, the mean over the batch.

Letters: B positives of the batch, N negatives per positive, J candidates of a pool, U users, R groups of entries, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from gcnrec.device import ops_for
from gcnrec.rows import Entries

_NO_SHARE = 1e-12
"""Shares below this are errors of rounding."""


@dataclass(frozen=True, slots=True)
class Own:
    """A negative of each entry's own user: rows of items `rows_BD`, and the log of its weight `log_weight_B`, -inf for none.

    A weight w makes it count w times all other negatives of the entry together, whatever their number and correction. Among many
    negatives from q, these then come from (q + w v) / (1 + w), with v at the item that was rated low. The optimum of a softmax is
    log p(i|u) less the log of that (Ma & Collins 2018): lower by log(1 + w / q(i)) for this item, and as it was for others.
    """

    rows_BD: torch.Tensor
    log_weight_B: torch.Tensor

    def logits(self, users_BD: torch.Tensor, scale: float, log_mass_B: torch.Tensor) -> torch.Tensor:
        """scale s(u, j) + log w + log M, float32 (B): M is the weight of the entry's other negatives, 1 where it has none."""
        log_mass_B = log_mass_B.masked_fill(torch.isinf(log_mass_B), 0.0)
        return (users_BD * self.rows_BD).sum(1) * scale + self.log_weight_B + log_mass_B

    def at(self, part: slice) -> Own:
        """Some of the entries."""
        return Own(self.rows_BD[part], self.log_weight_B[part])


def bpr(
    users_BD: torch.Tensor, positives_BD: torch.Tensor, negatives_BND: torch.Tensor, weights_B: torch.Tensor | None = None,
    own: Own | None = None,
) -> torch.Tensor:  # fmt: skip
    """mean -log sigmoid(s(u, i) - s(u, j)), also over the N negatives (Rendle et al. 2009, "BPR").

    With `own` of weight w an entry's mean over its negatives becomes (that mean + w times the term of its own) / (1 + w).
    """
    positive_B1 = (users_BD * positives_BD).sum(1, keepdim=True)
    terms_B = F.softplus(against(users_BD, negatives_BND) - positive_B1).mean(1)
    if own is not None:
        share_B = own.log_weight_B.sigmoid()  # w / (1 + w)
        own_B = F.softplus((users_BD * own.rows_BD).sum(1) - positive_B1[:, 0])
        terms_B = (1.0 - share_B) * terms_B + share_B * own_B
    return _mean(terms_B, weights_B)


def sampled_softmax(
    users_BD: torch.Tensor,
    positives_BD: torch.Tensor,
    negatives_BND: torch.Tensor,
    temperature: float,
    corrections: tuple[torch.Tensor, torch.Tensor] | None = None,
    weights_B: torch.Tensor | None = None,
    own: Own | None = None,
) -> torch.Tensor:
    """mean of -l_i + log(exp(l_i) + sum over j of exp(l_j)), l = s/t less its correction.

    `corrections`: x log Q of the positives (B) and of the negatives (B, N), Q being what negatives are drawn from. Among a
    positive from p and N draws from Q the positive is k with a probability in proportion to p_k / Q_k, so that the optimum is
    s/t = log p - (1 - x) log Q for every N (ranking noise-contrastive estimation, Ma & Collins 2018).
    `own` adds a logit to each row; its M is the sum over the N negatives of Q^-x.
    """
    positive_B1 = (users_BD * positives_BD).sum(1, keepdim=True) / temperature
    negative_BN = against(users_BD, negatives_BND) / temperature
    if corrections is not None:
        positive_B1 = positive_B1 - corrections[0][:, None]
        negative_BN = negative_BN - corrections[1]
    logits = [positive_B1, negative_BN]
    if own is not None:
        bias_BN = torch.zeros_like(negative_BN) if corrections is None else -corrections[1]
        logits.append(own.logits(users_BD, 1.0 / temperature, torch.logsumexp(bias_BN, 1))[:, None])
    return _mean(torch.logsumexp(torch.cat(logits, 1), 1) - positive_B1[:, 0], weights_B)


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates `rows_JD` that a batch shares; `bias_J` is added to a candidate's logits.

    `own_B`, float32 (B): what the logit of a row's own candidate gets more than `bias_J`.
    `items_J` int64, ascending: candidates of the row's own item are no negatives, even if they differ; None: all items differ.
    """

    rows_JD: torch.Tensor
    bias_J: torch.Tensor
    own_B: torch.Tensor
    items_J: torch.Tensor | None = None


def pool_softmax(
    users_BD: torch.Tensor,
    pool: Pool,
    target_B: torch.Tensor,
    temperature: float,
    weights_B: torch.Tensor | None = None,
    product_dtype: torch.dtype = torch.float32,
    own: Own | None = None,
) -> torch.Tensor:
    """Softmax over a pool of candidates shared by the batch, computed in chunks without a B x J matrix.

    mean of -l_i + log(exp(l_i) + sum over j != i of exp(s_uj/t + bias_j)), l_i = s_ui/t + bias_i + own_B, i = target of the row.
    With the batch's distinct positives as the pool and bias_j = log(count of j in the batch) this is the in-batch softmax
    in which another occurrence of the user's own positive is not a negative.
    For the logQ correction (Yi et al. 2019) subtract log q_j from `bias_J`; `own_B` takes the log count away again.
    `product_dtype` is that of the matrix products' operands and results; all else is float32.
    `own` adds a logit to each row; its M is the sum over j != i of exp(bias_j).
    """
    with torch.no_grad():
        swept = _sweep(users_BD, pool, target_B, temperature, weights_B, product_dtype, own)
    return _Swept.apply(users_BD, pool.rows_JD, None if own is None else own.rows_BD, *swept)  # type: ignore[no-any-return]


def twins(items_J: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
    """Bool (B, J): which candidates are of the target's item and not the target itself."""
    return (items_J == items_J[target_B][:, None]).scatter_(1, target_B[:, None], False)


def log_mass_of_others(bias_J: torch.Tensor, target_B: torch.Tensor, items_J: torch.Tensor | None = None) -> torch.Tensor:
    """log of the sum over j != target of exp(bias_j), float32 (B); -inf where the target is the only candidate.

    With `items_J`, ascending: over candidates of other items.
    """
    mass_J = (bias_J.double() - bias_J.max()).exp()
    own_J = mass_J
    if items_J is not None:
        first_J = torch.searchsorted(items_J, items_J)
        own_J = torch.zeros_like(mass_J).index_add_(0, first_J, mass_J)[first_J]
    others_B = mass_J.sum() - own_J[target_B]
    # What float64 leaves of a difference of equal sums is no mass.
    others_B = others_B.masked_fill(others_B < _NO_SHARE * mass_J.sum(), 0.0)
    return (others_B.log() + bias_J.max()).float()


def bsl(
    positive_B: torch.Tensor,
    negative_BJ: torch.Tensor,
    bias_BJ: torch.Tensor,
    users: Entries[torch.Tensor],
    temperature: float,
    positive_temperature: float,
) -> torch.Tensor:
    """Bilateral softmax loss (Wu et al. 2024, "BSL"), divided by the temperature t2 of the negatives:

    mean over the batch's users of -(t1/t2) log mean over i in P(u) of exp(s_ui/t1) + log mean over j of exp(s_uj/t2).
    Takes scores. `users`: the entries of each user, of whom every one has some; P(u): the positives of user u in the batch.
    `bias_BJ` is the log of each negative's weight in the mean over j (-inf leaves it out); an entry without any negative
    has no second term.
    """
    ratio = positive_temperature / temperature
    count_U = users.start_R1[1:] - users.start_R1[:-1]
    positive_U = _logsumexp_of(positive_B / positive_temperature, users) - count_U.log()
    alone_B = torch.isinf(bias_BJ).all(1)
    bias_BJ = bias_BJ.masked_fill(alone_B[:, None], 0.0)
    negative_B = torch.logsumexp(negative_BJ / temperature + bias_BJ, 1) - torch.logsumexp(bias_BJ, 1)
    negative_B = negative_B.masked_fill(alone_B, 0.0)
    negative_U = _sums_of(negative_B, users) / count_U
    return (negative_U - ratio * positive_U).mean()


def directau(users_BD: torch.Tensor, positives_BD: torch.Tensor, uniformity: float) -> torch.Tensor:
    """Alignment plus `uniformity` times the mean uniformity of both sides, on the unit sphere (Wang et al. 2022, "DirectAU").

    align = mean |u - i|^2; uniform(x) = log mean over pairs a < b of exp(-2 |x_a - x_b|^2).
    """
    users, items = F.normalize(users_BD, dim=1), F.normalize(positives_BD, dim=1)
    align = (users - items).square().sum(1).mean()
    return align + uniformity * (_uniform(users) + _uniform(items)) / 2


def half_squared_norm(rows_VD: torch.Tensor, roots_V: torch.Tensor, batch_size: int, factor: float) -> torch.Tensor:
    """L2 of the batch's rows per positive, the LightGCN rule: factor x sum over v of (root_v |row_v|)^2 / (2 B)."""
    return _HalfSquaredNorm.apply(rows_VD, roots_V, batch_size, factor)  # type: ignore[no-any-return]


def against(users_BD: torch.Tensor, negatives_BND: torch.Tensor) -> torch.Tensor:
    """Scores of each user's own negatives, (B, N)."""
    return torch.einsum("bd,bnd->bn", users_BD, negatives_BND)


def _mean(losses_B: torch.Tensor, weights_B: torch.Tensor | None) -> torch.Tensor:
    """The mean over the batch; weights have mean 1 over the train set, so they need no division."""
    return losses_B.mean() if weights_B is None else (weights_B * losses_B).mean()


def _logsumexp_of(values_B: torch.Tensor, groups: Entries[torch.Tensor]) -> torch.Tensor:
    """log of the sum of exp(value) over the entries of each group."""
    top_R = values_B.new_full((len(groups.start_R1) - 1,), -math.inf)
    top_R = top_R.scatter_reduce(0, groups.index_B, values_B.detach(), "amax")
    return top_R + _sums_of((values_B - top_R[groups.index_B]).exp(), groups).log()


def _sums_of(values_B: torch.Tensor, groups: Entries[torch.Tensor]) -> torch.Tensor:
    """The sum over the entries of each group, in batch order on every device."""
    return _Sums.apply(values_B, groups)  # type: ignore[no-any-return]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_B: torch.Tensor, groups: Entries[torch.Tensor]) -> torch.Tensor:
        ctx.groups = groups
        return ops_for(values_B.device).reduce_rows(groups, values_B.detach()[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return grad_outputs[0][ctx.groups.index_B], None


def _uniform(points_BD: torch.Tensor) -> torch.Tensor:
    """log mean exp(-2 |a - b|^2) over pairs of different rows, 0 without a pair; |a - b|^2 = 2 - 2 a.b on the unit sphere."""
    size = len(points_BD)
    if size < 2:
        return points_BD.new_zeros(())
    kernel = torch.exp(4.0 * (points_BD @ points_BD.T) - 4.0)
    pairs = (kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))
    return pairs.log()


def _sweep(
    users: torch.Tensor, pool: Pool, target: torch.Tensor, temperature: float, row_weights: torch.Tensor | None,
    product_dtype: torch.dtype, own: Own | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Loss and its gradients of users, pool and each row's own negative, in one sweep over chunks of users."""
    rows, bias, width = pool.rows_JD, pool.bias_J, len(pool.rows_JD)
    low_pool, exact = rows.to(product_dtype), product_dtype == rows.dtype
    grad_users, grad_pool = torch.empty_like(users), (torch.empty_like if exact else torch.zeros_like)(rows)
    grad_own = None if own is None else torch.empty_like(users)
    total = torch.zeros((), dtype=torch.float64, device=users.device)
    ops = ops_for(users.device)
    size = ops.scored_at_once(width)
    scores = users.new_empty(min(size, len(users)), width if own is None else width + 1)
    scale = 1.0 / temperature
    for first in range(0, len(users), size):
        chunk = slice(first, first + size)
        part, goal = users[chunk], target[chunk]
        low_part, whole = part.to(product_dtype), scores[: len(part)]
        logits = whole[:, :width]
        if exact:  # product and sum in one go round once less
            torch.addmm(bias, part, rows.T, alpha=scale, out=logits)
        else:
            torch.add(bias, low_part @ low_pool.T, alpha=scale, out=logits)
        logits.scatter_add_(1, goal[:, None], pool.own_B[chunk, None])
        if pool.items_J is not None:
            logits.masked_fill_(twins(pool.items_J, goal), -math.inf)
        if own is not None:
            whole[:, width] = own.at(chunk).logits(part, scale, log_mass_of_others(bias, goal, pool.items_J))
        losses = ops.softmax_gradient_(whole, goal)
        if row_weights is not None:
            losses *= row_weights[chunk]
            whole.mul_(row_weights[chunk, None])
        total += losses.sum()
        low_logits = logits.to(product_dtype)
        grad_users[chunk] = low_logits @ low_pool
        if exact and first == 0:
            torch.mm(logits.T, part, out=grad_pool)
        elif exact:
            grad_pool.addmm_(logits.T, part)
        else:
            grad_pool += low_logits.T @ low_part
        if own is not None and grad_own is not None:
            grad_own[chunk] = _pulled_own(whole[:, width], part, own.at(chunk), grad_users[chunk])
    scale /= len(users)
    grads = grad_users.mul_(scale), grad_pool.mul_(scale), None if grad_own is None else grad_own.mul_(scale)
    return (total / len(users)).to(users.dtype), *grads


def _pulled_own(slopes_B: torch.Tensor, users_BD: torch.Tensor, own: Own, grad_BD: torch.Tensor) -> torch.Tensor:
    """The gradient of the own negatives' rows from that of their logits; `grad_BD` gets what users have of it."""
    slopes_B1 = slopes_B.masked_fill(torch.isinf(own.log_weight_B), 0.0)[:, None]
    grad_BD += slopes_B1 * own.rows_BD
    return slopes_B1 * users_BD


class _HalfSquaredNorm(torch.autograd.Function):
    """By hand: autograd's own formulas cost the host twice as many dispatches."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, roots: torch.Tensor, batch_size: int, factor: float) -> torch.Tensor:
        weighted = rows * roots[:, None]
        ctx.save_for_backward(weighted, roots)
        ctx.scale = 2.0 * factor, 2 * batch_size
        return factor * (weighted.square().sum() / (2 * batch_size))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (upstream,), (weighted, roots), (factor, divisor) = grad_outputs, ctx.saved_tensors, ctx.scale
        return (weighted * (upstream * factor / divisor)).mul_(roots[:, None]), None, None, None


class _Swept(torch.autograd.Function):
    """The loss of `_sweep`; the backward pass only scales its gradients."""

    @staticmethod
    def forward(
        ctx: Any, users: torch.Tensor, rows: torch.Tensor, own: torch.Tensor | None, loss: torch.Tensor, *grads: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (upstream,) = grad_outputs
        pulled = [None if grad is None else upstream * grad for grad in ctx.saved_tensors]
        return *pulled, None, *[None for _ in pulled]
