#!/bin/bash
# One command of the study as a Slurm job: sbatch job.sh SCRIPT.py FLAGS. Tasks of an array share the models.
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -u
cd @ROOT@ || exit
export PATH=@VENV@/bin:$PATH

# Two minutes before the time limit Slurm signals this shell, which signals the script; the script keeps its
# state, and the job is queued again.
stop() { told=yes; kill -USR1 $script; }
trap stop USR1
python "$@" &
script=$!
wait $script
status=$?
if [ -n "${told:-}" ]; then  # the signal ended the first wait, while the script keeps its state
    wait $script
    status=$?
    # Of a task of an array its number: the job's would queue all tasks again.
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit $status
