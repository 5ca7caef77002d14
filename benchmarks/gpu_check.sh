#!/usr/bin/env bash
# Everything that the backend `fused` has to show on a GPU, in under nine minutes:
#     bash benchmarks/gpu_check.sh [FOLDER]
# Parts run in processes of their own with a limit each; one that fails or hangs costs the others
# nothing. Correctness comes first, and without it no time is taken. Rows and logs go to FOLDER.
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"
rm -f "$out"/passed.* "$out"/failed.*
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

part() { # seconds, name, arguments
  local limit=$1 name=$2
  shift 2
  local log="$out/$name.log"
  if timeout -k 5 "$limit" "$@" >"$log" 2>&1; then
    echo "passed: $name"
    touch "$out/passed.$name"
  else
    echo "failed: $name (exit $?); the end of $log:"
    tail -n 5 "$log"
    touch "$out/failed.$name"
  fi
}
check() { # seconds, part of gpu_check.py, its arguments; named by all but the first
  part "$1" "$(IFS=-; echo "${*:2}")" "$python" benchmarks/gpu_check.py "$2" "$out" "${@:3}"
}
tests() { part "$1" "tests-$2" "$python" -P -m pytest -q -p no:cacheprovider "tests/$3"; }

check 15 environment
check 25 ceilings

# Side by side: they mostly compile, on the CPU, and leave the machine code in Triton's cache.
tests 170 conv ops/test_gpu_conv.py &
tests 170 refine ops/test_gpu_refine.py &
tests 170 head ops/test_gpu_head.py &
tests 170 pyramid ops/test_gpu_label_pyramid.py &
tests 170 fused test_fused.py &
for precision in fp32 fp16 bf16 fp8; do
  for upsampling in align_corners half_pixel; do
    part 170 "frame-$precision-$upsampling" \
      "$python" benchmarks/gpu_check.py frame "$out" "$precision" "$upsampling" &
  done
done
for network in 256p-small 1024p; do
  part 170 "engine-$network" "$python" benchmarks/gpu_check.py engine "$out" "$network" fp16 &
done
wait
if command -v compute-sanitizer >/dev/null; then
  part 40 sanitize compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" -P -m pytest -q -p no:cacheprovider tests/ops/test_gpu_conv.py -k "size1 and boxes"
else
  echo "not run: sanitize (there is no compute-sanitizer)"
fi

check 45 stages fp16 align_corners
check 45 stages fp16 half_pixel
check 45 times align_corners
check 45 times half_pixel
check 25 tune
check 80 compiled align_corners

ls "$out"/failed.* >/dev/null 2>&1 && exit 1
echo "all parts passed; rows are in $out/rows.jsonl"
