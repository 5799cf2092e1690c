#!/usr/bin/env bash
# A shop's evening: train on views, carts and purchases, recommend with caps, list like items, score given pairs, look back in time.
#
#   bash jobs/examples/shop.sh JOB.toml FOLDER ITEMS.parquet
#
# [data] of the job names the events, with behaviour, target and time. ITEMS has an item and a category in each row. FOLDER gets
# run, lists.parquet, similar.parquet, scores.parquet and back. The variable GCNREC names another command than gcnrec.
set -euo pipefail

job=$1 folder=$2 items=$3
gcnrec=${GCNREC:-gcnrec}

mkdir -p "$folder"
"$gcnrec" run "$job" --out "$folder/run" --resume
"$gcnrec" recommend "$folder/run" --k 10 --max-per category=3 --attributes "$items" --out "$folder/lists.parquet" --force
"$gcnrec" similar "$folder/run" --items all --k 10 --out "$folder/similar.parquet" --force
"$gcnrec" score "$folder/run" --pairs "$folder/lists.parquet" --out "$folder/scores.parquet" --force
"$gcnrec" backtest "$job" --cuts 2 --every 2d --out "$folder/back"
