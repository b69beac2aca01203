#!/usr/bin/env bash
# Everything that a first machine with a GPU should tell, the most important first:
#
#     MINUTES=25 PYTHON=python3 bench/first_gpu.sh FOLDER
#
# The package must be installed for PYTHON. A stage has a limit of its own within MINUTES, and leaves FOLDER/STAGE.log;
# FOLDER/summary.md says how each ended, and what could not be done. A stage that succeeded in FOLDER is not repeated, so
# that a call that was cut off may be. STAGES names some of them: STAGES="test headline_1" bench/first_gpu.sh FOLDER.
# With CAMVID, a folder as docs/studies.md has it, and WEIGHTS, a file for the backbone, the CamVid study follows.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:?usage: [MINUTES=25] [PYTHON=python3] [STAGES=...] [CAMVID=DIR WEIGHTS=FILE] bench/first_gpu.sh FOLDER}
python=${PYTHON:-python3}
case ${MINUTES:=25} in
    '' | *[!0-9]*)
        echo "bench/first_gpu.sh: MINUTES must be a whole number, got $MINUTES: for example MINUTES=25" >&2
        exit 2
        ;;
esac
deadline=$((SECONDS + 10#$MINUTES * 60))
failed=0
mkdir -p "$out"
summary=$out/summary.md
[ -e "$summary" ] || printf '| stage | result | seconds | what |\n|---|---|--:|---|\n' > "$summary"

note() { # STAGE RESULT SECONDS WHAT
    printf '| %s | %s | %s | %s |\n' "$@" | tee -a "$summary"
}

# stage NAME LIMIT WHAT COMMAND...: run a command for LIMIT seconds at most
stage() {
    local name=$1 limit=$2 what=$3 left=$((deadline - SECONDS)) begin=$SECONDS status
    shift 3
    case " ${STAGES:-$name} " in *" $name "*) ;; *) return ;; esac
    [ ! -e "$out/.$name-done" ] || return
    if ! command -v "$1" > /dev/null; then
        note "$name" "not done: no $1 here" 0 "$what"
        return
    fi
    if ((left < 20)); then
        note "$name" 'not done: no time left' 0 "$what"
        return
    fi
    # An interrupt, as from a keyboard: pytest then still prints its summary, and the benchmarks write their results.
    timeout --signal=INT --kill-after=20 "$((limit < left ? limit : left))" "$@" > "$out/$name.log" 2>&1
    status=$?
    case $status in
        0) touch "$out/.$name-done" && note "$name" done $((SECONDS - begin)) "$what" ;;
        124 | 137) note "$name" "cut off after $((SECONDS - begin)) s" $((SECONDS - begin)) "$what" ;;
        *) failed=1 && note "$name" "failed with status $status" $((SECONDS - begin)) "$what" ;;
    esac
}

bench() { # NAME SUITE MINUTES LIMIT WHAT
    stage "$1" "$4" "$5" "$python" -m pytest bench -q --device cuda --suite "$2" --minutes "$3" \
        --benchmark-json "$out/$1.json" --benchmark-columns=min,median,iqr,rounds
    [ ! -s "$out/$1.json" ] || stage "$1_report" 60 "tables and pictures of $1" \
        "$python" -m fpl_fast.bench.report "$out/$1.json"
}

stage machine 30 'driver, clocks, processes' nvidia-smi -q
stage environment 60 'versions and commit' "$python" -c \
    'import json; from fpl_fast.environment import describe_environment as d; print(json.dumps(d(), indent=1))'
# One test at a time to each worker, in this order: the most telling first, the kernels that compile longest last.
tests=(streams paths step kernels_fuzzy_positive functional label_losses ops consistency_loss adaptive_threshold
    pseudo_labels pixel_thresholds derivatives kernels_student kernels_finish kernels_confidence kernels_ranking
    kernels_classes kernels_keys kernels_distance kernels_mean_scale measure configurations planes_peer schedules training default_device
    kernels_upsampled kernels_assignment determinism hub deterministic
    compiled fuzz)
tests=("${tests[@]/#/tests/test_}")
cores=$(nproc)
stage test 540 'tests that need a GPU' "$python" -m pytest -v -m gpu -p no:randomly -n "$((cores > 2 ? cores - 1 : 1))" \
    --maxschedchunk 1 "${tests[@]/%/.py}"
# A cache of kernels of its own: empty in the first run, whose first calls compile; the runs after it find them.
export TRITON_CACHE_DIR=$out/triton
bench headline_1 headline 4 330 'headline rows of the benchmark, kernels compiled in it'
bench headline_2 headline 4 330 'the same again, kernels from the cache'
if [ -s "$out/headline_1.json" ] && [ -s "$out/headline_2.json" ]; then
    stage spread 30 'spread between the two runs' \
        "$python" -m fpl_fast.bench.spread "$out/headline_1.json" "$out/headline_2.json"
fi
stage trace 180 'launches, host time and device time of a step' "$python" -m fpl_fast.bench.trace
stage configurations 150 'launch configurations at full resolution, side by side' "$python" -m fpl_fast.bench.configurations
profile() { # NAME CASE KERNEL: the first launches compile; the profiler replays one behind them
    stage "$1" 150 "Nsight Compute on the $2 kernel" \
        ncu --set full --clock-control none --kernel-name "regex:$3" --launch-skip 2 --launch-count 1 --force-overwrite \
        --export "$out/$2" "$python" -m fpl_fast.bench.launches "$2"
}
profile profile headline fuzzy_positive_kernel
profile profile_upsampled upsampled upsampled_kernel
# The checkers watch the compiler as well, which takes minutes under them: here it finds nothing left to do.
stage small 180 'compilation of a small case of each kernel' "$python" -m fpl_fast.bench.launches small
for tool in memcheck racecheck initcheck synccheck; do
    # Blocks that the allocator keeps would hide accesses beyond a tensor.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage $tool 120 "compute-sanitizer $tool on a small case of each kernel" \
        compute-sanitizer --tool $tool --error-exitcode 9 "$python" -m fpl_fast.bench.launches small
done
bench full full 7 510 'full suite of the benchmark'
stage train 360 'training steps against the style of the public code' \
    "$python" -m fpl_fast.trainer.cli bench train --seconds 30 --out "$out"
stage step 150 'where a step of training goes' "$python" -m fpl_fast.bench.training.step_profile
stage methods 600 'a step of every method beside CPS' \
    "$python" -m fpl_fast.trainer.cli bench methods --rounds 3 --out "$out"
# On the first GPU a process that used both broke off in the loader of the compiled engine's packages.
stage compiled 240 'compiled engine on the CPU beside the GPU' "$python" -m pytest -v -p no:randomly -k fullgraph \
    tests/test_ops.py tests/test_packages.py
if [ -n "${CAMVID:-}" ]; then
    stage study 900 'CamVid study at 360 x 480' "$python" -m fpl_fast.trainer.cli study bench/studies/camvid_gpu.yaml --jobs 3 \
        --out "$out/camvid" --data-root "$CAMVID" ${WEIGHTS:+--model.weights_file "$WEIGHTS"}
elif [[ " ${STAGES:-study} " == *" study "* ]]; then
    note study 'not done: CAMVID is not set' 0 'CamVid study at 360 x 480'
fi
exit $failed
