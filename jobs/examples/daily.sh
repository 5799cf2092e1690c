#!/usr/bin/env bash
# One day of a recommender: ingest what is there, train cold and warm, compare, say what changed since yesterday, recommend.
#
#   bash jobs/examples/daily.sh DAY JOB.toml FOLDER --train 'events/day=*/*.parquet' --user user --item item --time time
#
# What follows FOLDER are flags of `gcnrec ingest`. FOLDER/DAY gets data, cold, warm, compare.txt, changes.txt and lists.parquet.
# FOLDER/served leads to the run that made the last lists: the warm run of the next day continues it. After a failure the same
# command continues the day. The variable GCNREC names another command than gcnrec.
set -euo pipefail

day=$1 job=$2 folder=$3
shift 3
gcnrec=${GCNREC:-gcnrec}
today=$folder/$day
yesterday=$(realpath -q "$folder/served" || true)
if [ "${yesterday%/*}" = "$(realpath -m "$today")" ]; then
    echo "$today is complete"
    exit 0
fi

mkdir -p "$today"
[ -e "$today/data" ] || "$gcnrec" ingest "$@" --out "$today/data"
"$gcnrec" run "$job" --data "$today/data" --out "$today/cold" --resume
made=cold
if [ -n "$yesterday" ]; then
    "$gcnrec" run "$job" --data "$today/data" --out "$today/warm" --resume --set "train.init_from=$yesterday"
    "$gcnrec" compare "$today/cold" "$today/warm" | tee "$today/compare.txt"
    "$gcnrec" info "$today/warm" --since "$yesterday" | tee "$today/changes.txt"
    made=warm
fi
"$gcnrec" recommend "$today/$made" --out "$today/lists.parquet"
ln -sfn "$day/$made" "$folder/served"
