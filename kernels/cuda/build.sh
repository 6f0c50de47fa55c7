#!/bin/sh
# Compiles the CUDA kernels: kernels.cu to kernels.fatbin, for sm_80, sm_90a and
# as PTX for what is newer. No GPU and no CUDA toolkit are needed: the compiler's
# wheels are installed by pip under target/, or CUDA_HOME names a toolkit.
set -eu
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

if [ -z "${CUDA_HOME:-}" ]; then
    environment=$target/cuda-compiler
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 \
        nvidia-cuda-cuobjdump==13.2.86 nvidia-cuda-nvdisasm==13.2.86
    CUDA_HOME=$("$environment/bin/python" -c 'import nvidia.cu13 as c; print(list(c.__path__)[0])')
fi

report=$target/kernels.ptxas
if ! "$CUDA_HOME/bin/nvcc" -std=c++17 -O3 --fatbin -Xptxas -v -Xfatbin -compress-all \
    -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a \
    -gencode=arch=compute_80,code=compute_80 \
    -o "$target/kernels.fatbin" kernels.cu 2>"$report"; then
    cat "$report" >&2
    exit 1
fi

# A register spill in a kernel that sets the pace is a defect.
if ! awk '
    /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
    /bytes spill stores/ && name ~ /^(matmul|attention|rms_norm|layer_norm|rope_norm|adamw|cross_entropy|linear_cross_entropy)/ {
        if ($0 !~ / 0 bytes spill stores, 0 bytes spill loads/) { print name ": " $0; bad = 1 }
    }
    END { exit bad }' "$report"; then
    echo "registers spill (see $report); use fewer, or smaller tiles" >&2
    exit 1
fi

# Nor may warpgroup products wait for one another where they were meant to run
# side by side, or warpgroups keep the registers that they were to hand over.
if grep -e "wgmma.*serialized" -e "setmaxnreg.*ignored" "$report" >&2; then
    exit 1
fi

cp "$target/kernels.fatbin" kernels.fatbin
# What is in it; a test reads this, and disassembles again where it can.
CUOBJDUMP=$CUDA_HOME/bin/cuobjdump sh assembly.sh >"$target/kernels.assembly"
cp "$target/kernels.assembly" kernels.assembly
# What the image was made of: a test compares.
LC_ALL=C sha256sum ./*.cu ./*.cuh kernels.fatbin kernels.assembly | sed 's| \./| |' >kernels.sources
echo "kernels.fatbin: $(wc -c <kernels.fatbin) bytes, $(grep -c 'Compiling entry function' "$report") kernels compiled"
