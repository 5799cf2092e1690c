"""The parts of a training stage, built as a job and its plan say: the first table, the step, the explorer.

Letters: N nodes, E interactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.closed_forms import closed_form
from gcnrec.closed_forms.known_first import repeat
from gcnrec.config import INDUCTIVE, Job, Optimizer
from gcnrec.device import ops_for
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.extensions.load import require
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.loaders.schema import Dataset
from gcnrec.models.convolutions import PinSageHead, pinsage_convolutions, sage_convolutions
from gcnrec.models.encoder import Encoder
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.models.node_encoder import IdDropout, NodeEncoder, NodeLayers
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.objective import objective_of
from gcnrec.models.pooling import Means, Visits, WeightedMeans
from gcnrec.models.scores.parts import PartObjective
from gcnrec.models.spectral import varimax
from gcnrec.models.weighted_hop import WeightedHop
from gcnrec.models.whole_graph.behaviour_weights import BehaviourWeights
from gcnrec.models.whole_graph.cascade import Cascade
from gcnrec.models.whole_graph.ngcf import Ngcf
from gcnrec.models.whole_graph.own import OwnEncoder
from gcnrec.ops.draws.dated import dated, edge_times, pair_times
from gcnrec.ops.draws.directions import Direction, uniform, weighted, weighted_sums
from gcnrec.ops.weighted import EdgeWeights, union_weights
from gcnrec.ranking.popularity import require_times
from gcnrec.ranking.seen import seen_rule
from gcnrec.sampling.blocks import BlockSampler, NeighbourSampler
from gcnrec.sampling.dated_blocks import DatedSampler
from gcnrec.sampling.minibatches import IN_TRAINING, beside_a_gpu
from gcnrec.sampling.parts import PartedSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.sampling.walk_blocks import WalkSampler
from gcnrec.sparsity.first_support import RandomKeys, fill, magnitude_keys, random_keys
from gcnrec.steps.columns import ColumnsStep
from gcnrec.steps.deferred import Deferred
from gcnrec.steps.earlier import earlier_run
from gcnrec.steps.explore import Explorer, degree_deciles
from gcnrec.steps.guards import Check, Immediate
from gcnrec.steps.parted import PartedStep
from gcnrec.steps.protocol import TrainingStep
from gcnrec.steps.start import spectral_rows
from gcnrec.steps.step import Step
from gcnrec.system.limits import read_limits
from gcnrec.system.observer import SILENT, Observer
from gcnrec.system.scratch import trim_heap
from gcnrec.tables.dealt.columns import ColumnShards, ColumnsTable
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.shards import DenseShards, RowShards, SlotShards
from gcnrec.tables.dealt.staged import StagedShards
from gcnrec.tables.dense import Allocate, DenseTable, StepTable, in_ram
from gcnrec.tables.features.sides import Features, FeatureSides, feature_tables, stored_bytes, with_codes
from gcnrec.tables.late import LateTable, Past
from gcnrec.tables.pipelined import HostTable
from gcnrec.tables.placement import placed
from gcnrec.tables.rules import LateAdam
from gcnrec.tables.slots import SlotTable
from gcnrec.training.mixture_choice import refuse_impossible_mixture
from gcnrec.training.plan import Plan, plan_of
from gcnrec.training.workers.shared import by_columns
from gcnrec.workers.world import World


@dataclass(frozen=True)
class TrainData:
    """What a stage trains on: the graph of positives, a positive weight of each edge (float32 (E), None: all alike), features
    of both sides (None: none that the model reads).

    `negatives`: user -> items that the user rated low, None where the data has none.

    Models read the union of the graph with its other behaviours.
    """

    graph: BipartiteGraph
    weights_E: NDArray[np.float32] | None = None
    features: FeatureSides | None = None
    negatives: Csr | None = None


def planned(job: Job, dataset: Dataset) -> Plan | None:
    """The plan of a job's table, None of a closed form, after all that `gcnrec check` and `gcnrec train` refuse at once.

    Raises UsageError for settings that the data does not allow, DataError for data without what the job reads, DeviceError for
    a GPU that is absent and for a table that memory cannot hold. Costs no pass over the data, or one over the weights of edges
    where edges count by them.
    """
    has_features = dataset.item_features is not None
    if job.evaluate.baselines != "auto" and "contentknn" in job.evaluate.baselines and not has_features:
        raise UsageError(f"evaluate.baselines names contentknn, and {dataset.folder} has no features of items; leave it out")
    if job.model.popularity_days is not None:
        require_times(dataset.graph.history)
    chosen = (job.model.name,), job.evaluate.baselines, job.mixture.partners
    if any(closed_form.OF_REPEATS in names for names in chosen):
        repeat.require_repeats(seen_rule(job.evaluate.seen, dataset))
    if job.model.closed_form:
        closed_form.refuse_impossible(job.model, dataset.graph, has_features, len(dataset.valid))
        return None
    require(job.own)
    plan = plan_of(job, dataset.graph.num_nodes)
    objective_of(job.loss, job.sampler, dataset.graph, dataset.weights_E is not None)
    refuse_impossible_mixture(job.mixture, job.model.exponents, dataset)
    if job.model.name in INDUCTIVE:
        _require_features(job.model.inputs, has_features or dataset.user_features is not None)
    if job.model.behaviours in ("weighted", "cascade") and not dataset.graph.others:
        raise UsageError(
            f"model.behaviours = '{job.model.behaviours}' needs several behaviours, and this dataset has one; ingest with "
            "--behaviour and --target, or leave the key out"
        )
    setting = _weighs(job)
    if setting is not None:
        _require_weights(setting, dataset)
    if job.sampler.respect_time:
        _require_times_of_edges(dataset, refits=bool(job.train.refit))
    if job.loss.negative_weight:
        _require_negatives(job.loss.negative_weight, dataset.negatives is not None, plan.placement.on_gpu)
    plan.placement.require()
    features = Features(dataset.user_features, dataset.item_features) if job.model.reads_features else Features()
    _require_room(plan, stored_bytes(features, job.model.feature_dtype, plan.placement.on_gpu))
    return plan


def planned_start(job: Job, plan: Plan, dataset: Dataset) -> None:
    """Raise what the start from an earlier run would, as `gcnrec.steps.earlier.earlier_run`."""
    if job.train.init_from is not None:
        earlier_run(job.train.init_from, dataset, plan.width)


def first_table(plan: Plan, graph: BipartiteGraph, rows_ND: torch.Tensor | None = None, allocate: Allocate = in_ram) -> HostTable:
    """The table before its first step, from dense rows or, without any, from the start of the plan, in memory of `allocate`."""
    if plan.policy is None:
        return _dense_table(plan, graph, rows_ND, allocate)
    graph = graph.union
    policy, rule, start = plan.policy(graph), plan.rule, plan.start
    scalars = rule.state_width(0)
    table = SlotTable(
        graph.num_nodes, plan.width, plan.max_values, (rule.state_width(1) - scalars, scalars), plan.dtype, allocate
    )
    counts_N, keys = policy.first_counts(graph, table), plan.first_keys or policy.first_keys(start.seed)
    if rows_ND is not None:
        fill(table, counts_N, lambda first, last: rows_ND[first:last], keys, None)
    elif start.kind == "normal":
        # The largest of normal draws would all be large, so magnitude is no reason here.
        unless_magnitude = random_keys(start.seed) if keys is magnitude_keys else keys
        tiles = start.drawn if isinstance(unless_magnitude, RandomKeys) else start.noise
        fill(table, counts_N, partial(tiles, plan.width), unless_magnitude, start.scale)
    else:
        start_ND = spectral_rows(start, graph, plan.width)
        start_ND = start_ND @ varimax(start_ND)
        fill(table, counts_N, lambda first, last: start_ND[first:last], keys, start.scale)
        del start_ND
    trim_heap()
    return table


def _dense_table(plan: Plan, graph: BipartiteGraph, rows_ND: torch.Tensor | None, allocate: Allocate) -> DenseTable:
    start, state_width = plan.start, plan.rule.state_width(plan.width)
    if rows_ND is None and start.kind == "spectral":
        rows_ND = spectral_rows(start, graph.union, plan.width)
    if rows_ND is not None:
        return DenseTable(rows_ND, state_width, allocate)
    table = DenseTable(torch.zeros(1, 1).expand(graph.num_nodes, plan.width), state_width, allocate)  # may be larger than RAM
    table.fill(lambda first, last: start.noise(plan.width, first, last).mul_(start.scale))
    return table


def build_step(job: Job, plan: Plan, data: TrainData, table: StepTable, scratch: Allocate = in_ram) -> Step:
    """The step that a job describes, on `data`, updating `table`; `scratch` gives exports the memory of whole node matrices."""
    graph, weights_E = data.graph, data.weights_E
    edges = _edge_weights(job, graph, weights_E)
    neighbours = _past(job, graph) if job.sampler.respect_time else _neighbours(job, graph.union, edges)
    if job.model.name in INDUCTIVE:
        features = data.features or FeatureSides(graph.num_users)
        inductive = inductive_encoder(job, graph.union, table.width, features, scratch, edges)
        inductive.layers.to(table.device)
        encoder: Encoder = inductive
    else:
        encoder = _encoder(job, graph, edges, table.width, plan.rule.every_row)
    weights = None if weights_E is None else _mean_one(weights_E)
    optimizer = None if encoder.layers is None else _layer_optimizer(job.optimizer, encoder.layers, plan.placement.on_gpu)
    check: Check = Immediate()
    drawing = IN_TRAINING
    if plan.placement.on_gpu:
        check, drawing = Deferred(ops_for(table.device), table.device, optimizer), beside_a_gpu()
    negatives = data.negatives if job.loss.negative_weight else None
    sampler = edge_sampler(job.sampler, graph, weights, job.train.batch_size, job.train.seed, neighbours, negatives)
    return Step(
        sampler,
        encoder,
        _catching_up(plan, table, sampler.steps_per_epoch * job.train.epochs),
        plan.rule,
        objective_of(job.loss, job.sampler, graph, weights is not None),
        optimizer,
        job.optimizer.layer_rate,
        check,
        drawing,
        data.features,
    )


def _catching_up(plan: Plan, table: StepTable, total: int) -> StepTable:
    """The table that steps read, whose rows make up for missed steps where the plan has them do so; `total` steps are trained."""
    if not isinstance(plan.rule, LateAdam):
        return table
    if not isinstance(table, DenseTable):  # such jobs are refused before
        raise ValueError(f"rows catch up in a dense table of one process, got {type(table).__name__}")
    return LateTable(table, Past(plan.rule, lambda step: plan.rate(step, total)))


def shared_step(
    job: Job, plan: Plan, data: TrainData, world: World, host: HostTable | None, scratch: Allocate = in_ram,
    observer: Observer = SILENT,
) -> PartedStep | ColumnsStep:  # fmt: skip
    """The step of a job that `world`'s workers share; `host` is the leader's table, None on followers.

    A note says why a GPU does not read rows in place.
    """
    if by_columns(job.model):
        columns = ColumnsTable(world, ColumnShards(plan.num_rows, plan.width, plan.rule.state_width(1)), host)
        return ColumnsStep(build_step(job, plan, data, columns, scratch), columns, world)
    shares: RowShards = shards_of(plan)
    if plan.placement.on_gpu:
        world.connect(plan.placement.device)
        shares = staged(plan, data.graph, job.model.inputs != "features", observer)
    table = ExchangedTable(world, shares, host, job.model.inputs != "features")
    return parted(build_step(job, plan, data, table, scratch), table, world, job.train.parts or 1)


def parted(step: Step, table: ExchangedTable, world: World, parts: int) -> PartedStep:
    """The same step on batches of so many parts, as worker `world.rank` takes it; `step` was built on `table`."""
    own = tuple(range(world.rank, parts, world.size))
    sampler, objective = PartedSampler(step.sampler, parts, own), PartObjective(step.objective)
    return PartedStep(
        sampler, step.encoder, table, step.rule, objective, step.layer_optimizer, step.layer_rate, world, step.drawing,
        step.features,
    )  # fmt: skip


def shards_of(plan: Plan) -> DenseShards | SlotShards:
    """How workers share the plan's table, in memory of their hosts."""
    rule, rows, width, memory = plan.rule, plan.num_rows, plan.width, plan.placement.memory(Path())
    if plan.policy is None:
        return DenseShards(rows, width, rule.state_width(width), memory)
    scalars = rule.state_width(0)
    return SlotShards(rows, width, rule.state_width(1) - scalars, scalars, plan.dtype, memory)


def staged(plan: Plan, graph: BipartiteGraph, reads_rows: bool = True, observer: Observer = SILENT) -> StagedShards:
    """How workers share the plan's table, each share behind a GPU, which moves no row of it without `reads_rows`."""

    def behind(share: HostTable) -> StepTable:
        return placed(plan.placement, graph, share, observer, reads_rows=reads_rows)

    return StagedShards(shards_of(plan), plan.placement.device, behind)


def _layer_optimizer(settings: Optimizer, layers: torch.nn.Module, fused: bool) -> torch.optim.Optimizer:
    """Adam of the layers; a fused one can be stopped on its device (`gcnrec.steps.deferred`)."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(layers.parameters(), betas=betas, eps=settings.epsilon, fused=fused or None)


def explorer_of(plan: Plan, step: TrainingStep, epochs: int, folder: Path) -> Explorer | None:
    """The explorer of a sparse table in a training of `epochs`, with scratch in `folder`; None for a dense table."""
    table = step.table.drained()
    if plan.policy is None or not isinstance(table, SlotTable):
        return None
    per_epoch, graph = step.sampler.steps_per_epoch, step.sampler.graph
    every = max(1, round(plan.interval * per_epoch))
    return Explorer(plan.policy(graph.union), table, degree_deciles(graph.union), every, epochs * per_epoch, folder)


def _encoder(job: Job, graph: BipartiteGraph, edges: EdgeWeights | None, width: int, dense_grad: bool) -> Encoder:
    layers = job.model.layers
    hop = WeightedHop(graph.union, edges) if job.model.weighted_graph and edges is not None else Hop(graph.union)
    match (job.model.name, job.model.propagation, job.model.behaviours):
        case ("mf", _, _) | ("lightgcn", "none", _):
            return MatrixFactorisation(width)
        case ("lightgcn", "full", "weighted"):
            return BehaviourWeights(graph, layers, width)
        case ("lightgcn", "full", "cascade"):
            return Cascade(graph, layers, width)
        case ("lightgcn", "full", _):
            return LightGcn(hop, layers, width, dense_grad)
        case ("lightgcn", "sampled", _):
            return SampledLightGcn(hop, layers, width)
        case _ if job.model.own:
            return OwnEncoder(job.model.own, graph.union, width, job.train.seed)
        case _:
            return Ngcf(graph.union, layers, width, job.train.seed)


def inductive_encoder(
    job: Job,
    graph: BipartiteGraph,
    width: int,
    features: FeatureSides,
    scratch: Allocate = in_ram,
    weights: EdgeWeights | None = None,
) -> NodeEncoder:
    """The encoder of graphsage or pinsage as it starts; neighbours count by `weights`, alike without.

    UsageError when it is to read features that the data does not have.
    """
    model, seed = job.model, job.train.seed
    _require_features(model.inputs, any(side is not None for side in features.sides))
    inputs = NodeInputs(graph, features, width, model.inputs != "features", model.feature_scale or model.start_scale)
    dropout = IdDropout(model.id_dropout, seed)
    if model.name == "pinsage":
        layers = NodeLayers(inputs, pinsage_convolutions(model.layers, width, seed), PinSageHead(width, seed))
        return NodeEncoder(layers, features, Visits(_walks(job, graph)), dropout, scratch)
    layers = NodeLayers(inputs, sage_convolutions(model.layers, width), torch.nn.Identity())
    means = Means(graph) if weights is None else WeightedMeans(graph, weights)
    return NodeEncoder(layers, features, means, dropout, scratch)


def features_read(job: Job, features: Features, graph: BipartiteGraph, allocate: Allocate, for_gpu: bool = False) -> FeatureSides:
    """The features that a job's model reads, as `model.feature_dtype` stores them, in memory of `allocate`.

    Codes that `features` lacks are those of `graph`. DataError for values that the type does not hold.
    """
    if not job.model.reads_features:
        return FeatureSides(graph.num_users)
    if features.codes is None:
        features = with_codes(features, graph, job.model.feature_dtype, job.train.seed)
    return feature_tables(features, graph.num_users, allocate, for_gpu)


def _edge_weights(job: Job, graph: BipartiteGraph, weights_E: NDArray[np.float32] | None) -> EdgeWeights | None:
    """What edges weigh in propagation, or by what neighbours are drawn; None: all alike."""
    setting = _weighs(job)
    if setting is None:
        return None
    if weights_E is None:
        raise _without_weights(setting)
    return union_weights(graph, weights_E)


def _weighs(job: Job) -> str | None:
    """The setting that reads the weights of edges."""
    if job.model.weighted_graph:
        return "model.weighted_graph = true"
    return "sampler.neighbours = 'weighted'" if job.sampler.neighbours == "weighted" else None


def _require_features(inputs: str | None, has_features: bool) -> None:
    if inputs == "features" and not has_features:
        raise UsageError("model.inputs = 'features' needs features; ingest with --item-features or --user-features")


def _without_weights(setting: str) -> UsageError:
    return UsageError(
        f"{setting} needs weights of interactions, and this dataset has none; ingest with --weight, or leave the key out"
    )


def _require_weights(setting: str, dataset: Dataset) -> None:
    """UsageError for data without weights, DataError where an edge has a weight by which it cannot count."""
    if dataset.weights_E is None:
        raise _without_weights(setting)
    for weights_E in (dataset.weights_E, *(other.weights_E for other in dataset.graph.others if other.weights_E is not None)):
        bad = int(np.count_nonzero(~((weights_E > 0) & np.isfinite(weights_E))))
        if bad:
            raise DataError(
                f"{setting} needs weights that are finite and above 0, and {bad:,} of {len(weights_E):,} edges of "
                f"{dataset.folder} have others; ingest with other weights or without these rows (--where), or leave the key out"
            )


def _require_times_of_edges(dataset: Dataset, refits: bool) -> None:
    """UsageError where an edge that training reads has no time."""
    lacks = "this dataset has none"
    if dataset.times_E is not None:
        names = [other.name for other in dataset.graph.others if other.times_E is None]
        without_valid = refits and len(dataset.valid) and dataset.valid.times_E is None
        lacks = f"behaviour {names[0]!r} has none" if names else "validation pairs have none" if without_valid else ""
    if lacks:
        raise UsageError(
            f"sampler.respect_time needs times of interactions, {lacks}; ingest with --time, or leave sampler.respect_time out"
        )


def _require_negatives(weight: float, has_negatives: bool, on_gpu: bool) -> None:
    if not has_negatives:
        raise UsageError(
            f"loss.negative_weight = {weight:g} needs pairs that users rated low, and this dataset has none; ingest with "
            "--rating and --negative-below, or set loss.negative_weight = 0"
        )
    if on_gpu:
        raise UsageError(
            f"loss.negative_weight = {weight:g} is not known on a GPU in this version; set train.device = 'cpu', or "
            "loss.negative_weight = 0"
        )


def _require_room(plan: Plan, feature_bytes: int) -> None:
    """DeviceError where table and features are to lie in memory, and do not fit there."""
    available, wanted = read_limits().available, plan.table_bytes + feature_bytes
    if wanted > available and not plan.placement.on_disk:
        features = f", features {feature_bytes:,}" if feature_bytes else ""
        needed = f"the table and its optimizer state need {plan.table_bytes:,} bytes{features}"
        fewer = ", model.feature_dtype = 'int8'" if feature_bytes else ""
        raise DeviceError(
            f"{needed}, {available:,} are free for this process; lower model.width, choose another optimizer.rule{fewer}, "
            "or set table.placement = 'disk' with model.start = 'normal'"
        )


def _neighbours(job: Job, graph: BipartiteGraph, weights: EdgeWeights | None) -> BlockSampler | None:
    if job.model.propagation != "sampled":
        return None
    if job.model.name == "pinsage":
        return _walks(job, graph)
    if weights is None:
        directions: tuple[Direction, Direction] = uniform(graph)
    else:
        directions = weighted_sums(graph, weights) if job.model.weighted_graph else weighted(graph, weights)
    return NeighbourSampler(graph, _fanouts(job), job.train.seed, job.model.name == "graphsage", directions)


def _past(job: Job, graph: BipartiteGraph) -> DatedSampler:
    """What draws the neighbours of each pair of `graph` from before it; `planned` has refused graphs without times."""
    past = dated(graph.union, edge_times(graph))
    return DatedSampler(past, past.dates(pair_times(graph)), _fanouts(job), job.train.seed, job.model.name == "graphsage")


def _walks(job: Job, graph: BipartiteGraph) -> WalkSampler:
    settings = job.sampler
    return WalkSampler(graph, _fanouts(job), settings.walks, settings.walk_length, settings.restart, job.train.seed)


def _fanouts(job: Job) -> tuple[int, ...]:
    return (10,) * job.model.layers if job.sampler.fanouts is None else job.sampler.fanouts


def _mean_one(weights_E: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights scaled to a mean of 1, so that they do not change the learning rate."""
    mean = float(weights_E.mean(dtype=np.float64))
    if not mean > 0:
        raise DataError(
            "every weight of the train interactions is 0, so nothing can be learnt; ingest with other weights or none"
        )
    return (weights_E / mean).astype(np.float32)
