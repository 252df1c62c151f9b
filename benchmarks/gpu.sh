#!/usr/bin/env bash
# What a GPU is measured by: tests, rates of training and prediction, and trainings of three seeds. The time limits of the
# parts add up to half an hour.
#
#     bash benchmarks/gpu.sh [OUT]                # on a machine with a CUDA device, from an activated environment
#     DEBUG=1 bash benchmarks/gpu.sh [OUT]        # the same parts in debug size on the CPU, to see that they run
#
# Each part has a time limit and a log in OUT (gpu-bench); a part that fails or runs out of time does not stop the others.
# TABLE=PATH gives another table than the sample.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu-bench}
mkdir -p "$out"
export MLFLOW_TRACKING_URI="sqlite:///$(realpath "$out")/mlflow.db" PYTHONPATH=$PWD
table=${TABLE:-data/sample_s1.parquet}
if [ -n "${DEBUG:-}" ]; then
    device=cpu rows=8 rounds=1 epochs=1 sequences=4 budgets="512" sizes="2"
else
    device=cuda rows=1500 rounds=3 epochs=50 sequences=2000 budgets="8192 32768 65536" sizes="2 64 256"
fi

part() { # part NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    echo "$name: status $status, $((SECONDS - start)) s" | tee -a "$out/parts.txt"
    tail -n 4 "$out/$name.log"
}

part environment 30 python -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())"
part tests 240 python -m pytest -q -p no:cacheprovider tests/test_cuda.py
for size in $sizes; do
    part "train-baseline-$size" 90 python benchmarks/bench_train.py --model baseline --batch_size "$size" \
        --table "$table" --cache_dir "$out/cache" --device $device --rows $rows --rounds $rounds --n_length_groups 4
done
for model in baseline lstm_attn relational; do
    for budget in $budgets; do
        part "train-$model-$budget-boxes" 90 python benchmarks/bench_train.py --model $model --batch_boxes "$budget" \
            --table "$table" --cache_dir "$out/cache" --device $device --rows $rows --rounds $rounds --n_length_groups 4
    done
done
for seed in 0 1 2; do
    part "seed-$seed" 120 python -m rna_s2.commands.train --config configs/baseline_gpu.yaml --in_file "$table" \
        --cache_dir "$out/cache" --max_rejects -1 --epochs $epochs --seed $seed
done
part stage-1 90 python -m rna_s2.commands.train_s1 --config configs/s1_debug.yaml --cache_dir "$out/cache" --out_dir "$out/s1"
python - "$sequences" "$out/random.fa" <<'PYTHON'
import random
import sys

random.seed(0)
with open(sys.argv[2], "w", encoding="ascii") as file:
    for k in range(int(sys.argv[1])):
        file.write(f">r{k}\n{''.join(random.choices('ACGU', k=100))}\n")
PYTHON
part predict 120 python -m rna_s2.commands.predict --sequences "$out/random.fa" --out_dir "$out/structures" --drawings 0 \
    --device $device
grep -h "^| " "$out"/train-*.log >"$out/rates.md"
cat "$out/rates.md"
