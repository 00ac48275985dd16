#!/usr/bin/env bash
# The paper's four benchmarks for one adapter: answers, judge, scores, table. Run again to go on.
#   bash experiments/benchmarks/run.sh ADAPTER DATA OUT [RUN]
# ADAPTER may be "null" (the base model). DATA holds the folders that README.md lists. RUN names the
# table's row, such as "UE-DPO, RLHF-V". Keys come from UEDPO_JUDGE_KEY or OPENAI_API_KEY.
set -euo pipefail
adapter=$1 data=$2 out=$3 run=${4:-$(basename "$3")}
python=${PYTHON:-python}
model=${MODEL:-llava-hf/llava-1.5-7b-hf}
revision=${REVISION:-null}
protocol=${PROTOCOL:-rlaifv}
gpus=${GPUS:-1}
base_url=${BASE_URL:-https://api.openai.com/v1}
mmhal_judge=${MMHAL_JUDGE:-gpt-4-1106-preview}
object_judge=${OBJECT_JUDGE:-gpt-3.5-turbo-0613}
mkdir -p "$out"

generate() { # benchmark, assets, further key=value ...
  local name=$1 assets=$2 i pids=() shards=()
  shift 2
  [ -e "$out/$name.jsonl" ] && [ "$gpus" != 1 ] && return # merged before
  for ((i = 0; i < gpus; i++)); do
    CUDA_VISIBLE_DEVICES=$i $python -m uedpo.evaluation.generate benchmark="$name" model="$model" \
      revision="$revision" adapter="$adapter" assets="$assets" output="$out/$name.jsonl" \
      protocol="$protocol" dtype=bfloat16 batch_size="${BATCH_SIZE:-16}" shard="$i/$gpus" "$@" &
    pids+=($!)
    shards+=("$out/$name.$i-of-$gpus.jsonl")
  done
  for i in "${pids[@]}"; do wait "$i"; done
  if [ "$gpus" != 1 ]; then
    $python -m uedpo.evaluation.merge output="$out/$name.jsonl" "${shards[@]}"
  fi
}

judge() { # benchmark, assets, judge, template
  $python -m uedpo.evaluation.judge benchmark="$1" assets="$2" answers="$out/$1.jsonl" judge="$3" \
    template="$4" output="$out/$1.replies.jsonl" base_url="$base_url" yes="${YES:-false}"
}

score() { # benchmark, assets, further key=value ...
  local name=$1 assets=$2
  shift 2
  # a metric without its assets is null, with the reason in the report: the others go on
  $python -m uedpo.evaluation.score benchmark="$name" answers="$out/$name.jsonl" assets="$assets" \
    output="$out/$name.report.json" "$@" || [ $? = 1 ]
}

generate object_halbench "$data/object_halbench"
generate mmhal "$data/mmhal" images="$data/mmhal/images"
generate amber_generative "$data/amber" images="$data/amber/images"
generate amber_discriminative "$data/amber" images="$data/amber/images"
judge object_halbench "$data/object_halbench" "$object_judge" "$data/object_halbench/judge_prompt.txt"
judge mmhal "$data/mmhal" "$mmhal_judge" "$data/mmhal/judge_prompt.txt"
score object_halbench "$data/object_halbench" judge_replies="$out/object_halbench.replies.jsonl"
score mmhal "$data/mmhal" judge_replies="$out/mmhal.replies.jsonl"
score amber_generative "$data/amber"
score amber_discriminative "$data/amber"
$python -m uedpo.evaluation.table run="$run" "$out"/*.report.json output="$out/table.md" html="$out/table.html"
