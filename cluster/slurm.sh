#!/usr/bin/env bash
# A Ray over the nodes of one Slurm allocation, one workflow on it, and the end of both:
#
#   sbatch --nodes=4 --gpus-per-node=1 --time=08:00:00 cluster/slurm.sh workflows/vit_compress.yaml [SUBMIT FLAGS...]
#
# The project must be installed in $VENV on a file system that all nodes see, and the store be a bucket (ORCHESTRATOR_STORE) or
# a folder there. Slurm sends SIGTERM $GRACE seconds before the end of the allocation: stages save and stop, and the same sbatch
# goes on. A requeued job (--requeue, after preemption) does so by itself.
#SBATCH --job-name=orchestrator
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [SLURM FLAGS] cluster/slurm.sh FILE [SUBMIT FLAGS...]" >&2
    exit 2
fi
venv=${VENV:-$HOME/orchestrator/.venv}
port=${RAY_PORT:-6379}
cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
gpus=${SLURM_GPUS_ON_NODE:-0}

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$("$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN # reaches the other nodes by the environment of srun, and no file
export RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
export OMP_NUM_THREADS=1

head_name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_name" hostname --ip-address | cut -d ' ' -f 1)
folder=/tmp/ray-$SLURM_JOB_ID # of each node; short, for Unix sockets

begin() { # NODES EXCLUDED-OR-CHOSEN... -- ARGUMENT...: ray start in the background of this allocation
    local flags=()
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    srun "${flags[@]}" --ntasks-per-node=1 --overlap \
        "$venv/bin/ray" start "$@" --num-cpus "$cpus" --num-gpus "$gpus" --temp-dir "$folder" --disable-usage-stats --block &
}

begin --nodes=1 --nodelist="$head_name" -- --head --node-ip-address "$head_ip" --port "$port" --include-dashboard false
for _ in $(seq 60); do
    "$venv/bin/ray" health-check --address "$head_ip:$port" >/dev/null 2>&1 && break
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    begin --nodes="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head_name" -- --address "$head_ip:$port"
fi

"$venv/bin/orchestrator" submit "$@" --address "$head_ip:$port" &
submit=$!
trap 'kill -TERM "$submit" 2>/dev/null || true' TERM INT
code=0
wait "$submit" || code=$?
if kill -0 "$submit" 2>/dev/null; then # the signal ended the wait; the run still saves
    code=0
    wait "$submit" || code=$?
fi
exit "$code"
