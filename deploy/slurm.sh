#!/bin/bash
# Four workers of one study as a job array:
#   sbatch deploy/slurm.sh digits
#   sbatch --array=0-15 --gres=gpu:1 deploy/slurm.sh my.toml --name mine
# Storage and artifacts must be places that all nodes reach. By default both are in $GLORA_RUNS on
# the shared file system: a journal file, which network file systems carry, and a folder.
#SBATCH --job-name=glora
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=glora-%A_%a.out
#SBATCH --open-mode=append
set -euo pipefail

export GLORA_RUNS="${GLORA_RUNS:-$PWD/runs}"
export GLORA_STORAGE="${GLORA_STORAGE:-$GLORA_RUNS/studies.log}"
export GLORA_ARTIFACTS="${GLORA_ARTIFACTS:-$GLORA_RUNS/artifacts}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
mkdir -p "$GLORA_RUNS"

# In the background, so that bash passes the signal on: SLURM sends it two minutes before the end.
glora search "${@:-digits}" --patience 600 --log-format json &
worker=$!
trap 'kill -TERM "$worker"' TERM
code=0
wait "$worker" || code=$?
if kill -0 "$worker" 2> /dev/null; then # the signal ended the first wait
    code=0
    wait "$worker" || code=$?
fi
# A stopped worker is queued again and continues.
if [ "$code" -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
