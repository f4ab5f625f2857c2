#!/usr/bin/env bash
# Written by: scaler export slurm jobs/digits --run-id digits-1
#
#   sbatch docker/slurm.sh
#   squeue --me
#   scaler report digits-1 --storage jobs/digits/runs
#
# At the end:
#   scancel --name digits
#
#SBATCH --job-name=digits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
set -euo pipefail
PATH="$(realpath .venv/bin):$PATH"  # of the environment with scaler, which all nodes see
cd jobs/digits

# Every node's Ray asks for this token: other users reach its ports, too.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun does not take it from the job since Slurm 22.05

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
head_ip=${head_ip%% *}
port=$((20000 + SLURM_JOB_ID % 20000))  # two jobs may share a node
export RAY_ADDRESS="$head_ip:$port"
resources=(--num-cpus=1 --num-gpus=0)

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --block --node-ip-address="$head_ip" --port="$port" --dashboard-port=$((port + 1)) --include-dashboard=false "${resources[@]}" &
until ray health-check --address="$RAY_ADDRESS" 2>/dev/null; do sleep 1; done
if ((SLURM_NNODES > 1)); then
  srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" --overlap \
    ray start --block --address="$RAY_ADDRESS" "${resources[@]}" &
fi

python -c "
import ray, time
ray.init(log_to_driver=False)
while sum(node['Alive'] for node in ray.nodes()) < $SLURM_NNODES:
    time.sleep(1)
"

# The command starts the run, or resumes it from its checkpoint. This script runs on the head's node.
python -m scaler submit job.yaml --address auto --run-id digits-1 &
run=$!

# 180 s before the time is over, Slurm sends USR1: the run saves a checkpoint, and the job queues again.
queue_again() {
  kill -TERM "$run"
  wait "$run" || true
  scontrol requeue "$SLURM_JOB_ID"
}
trap queue_again USR1
wait "$run"
