"""Parquet as a stream of small batches: never a row group at a time, as a scan of `pyarrow.dataset` reads it, however large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_BUFFER = 2**18
"""Bytes of a column that are read at a time."""
_VALUE_BYTES = 16
"""What a value is taken to have at least: one of a dictionary, or of a run of equal ones, takes less in the file."""


def stream(
    dataset: ds.Dataset, fragment: ds.ParquetFileFragment, columns: dict[str, ds.Expression], paths: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """`columns` of one file of `dataset`, in the order of its rows, at most `rows` of them at a time.

    `paths` names what the expressions read, `a.b` a field of a struct; other columns are not read. At hand are a batch and, for
    each column, a page of the file and its dictionary.
    """
    with fragment.filesystem.open_input_file(fragment.path) as source:
        file = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        present = [path for path in dict.fromkeys(paths) if _holds(file, path)]
        # Without any column, a batch would not know its rows.
        for batch in file.iter_batches(rows, columns=present or [file.schema.column(0).path], use_threads=False):
            whole = _completed(batch, dataset.schema, fragment, paths)
            table = ds.InMemoryDataset(whole).to_table(columns=columns, use_threads=False)
            yield from table.combine_chunks().to_batches()


def bytes_and_rows(fragment: ds.ParquetFileFragment, paths: Sequence[str]) -> tuple[int, int]:
    """Bytes of the columns `paths` of a file, as it tells before compression (long texts that repeat take more), and its rows.

    Raises OSError or ArrowException where what it tells is damaged.
    """
    size = rows = 0
    with fragment.filesystem.open_input_file(fragment.path) as source:
        file = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        present = [path for path in dict.fromkeys(paths) if _holds(file, path)]
        leaves = [number for number, leaf in enumerate(_leaf_paths(file)) if any(_below(leaf, path) for path in present)]
        for number in range(file.num_row_groups if leaves else 0):
            # Asked for what a damaged group says of a column, Arrow ends the process. When it reads one, it raises.
            if next(file.iter_batches(1, row_groups=[number], columns=present, use_threads=False), None) is None:
                continue
            group = file.metadata.row_group(number)
            rows += group.num_rows
            for column in map(group.column, leaves):
                size += max(column.total_uncompressed_size, _VALUE_BYTES * column.num_values)
    return size, rows


def _leaf_paths(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(number).path for number in range(len(file.schema.names))]


def _holds(file: pq.ParquetFile, path: str) -> bool:
    """Whether the file has a column, or columns of a struct, at `path`."""
    return any(_below(leaf, path) for leaf in _leaf_paths(file))


def _below(leaf: str, path: str) -> bool:
    return leaf == path or leaf.startswith(f"{path}.")


def _completed(batch: pa.RecordBatch, schema: pa.Schema, fragment: ds.Fragment, paths: Sequence[str]) -> pa.RecordBatch:
    """The batch in the types of the whole data set, with the partition's values, and nulls for columns that this file lacks."""
    partition = ds.get_partition_keys(fragment.partition_expression)
    names = [name for name in schema.names if any(_below(path, name) for path in paths)]
    columns = []
    for name in names:
        kind = schema.field(name).type
        if name in batch.schema.names:
            columns.append(_cast(batch.column(batch.schema.get_field_index(name)), kind))
        elif name in partition:
            columns.append(pa.repeat(pa.scalar(partition[name]).cast(kind), len(batch)))
        else:
            columns.append(pa.nulls(len(batch), kind))
    return pa.RecordBatch.from_arrays(columns, names)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as `kind`; fields of a struct go by name, and one that the file lacks, or that was not asked for, is null.

    What reads the batches later believes their schema: a struct of another layout would be read as other fields.
    """
    if column.type == kind:
        return column
    if not (pa.types.is_struct(kind) and pa.types.is_struct(column.type)):
        return column.cast(kind)
    own = {field.name: number for number, field in enumerate(column.type)}
    children = [
        _cast(pc.struct_field(column, [own[field.name]]), field.type) if field.name in own else pa.nulls(len(column), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
