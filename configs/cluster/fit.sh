#!/bin/bash
# One run on several devices, which goes on from its last checkpoint when Slurm puts it back into the queue.
#
#   sbatch [options] configs/cluster/fit.sh --config CONFIG [further settings of lit-unlearn fit]
#
# Options of sbatch stand above those below: --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 for two nodes of four GPUs.
#SBATCH --job-name=unlearn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -euo pipefail
# One directory a run, the same after a requeue: two runs in one would resume from each other's checkpoints.
root=runs/$SLURM_JOB_NAME-$SLURM_JOB_ID

# One process per device, which only srun starts; its status is the job's. The settings below override the given ones.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" lit-unlearn fit "$@" \
    --trainer.num_nodes="$SLURM_JOB_NUM_NODES" --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.strategy=ddp \
    --trainer.default_root_dir="$root" --trainer.logger.save_dir="$root" --trainer.logger.version=run \
    --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.dirpath="$root/checkpoints" \
    --trainer.callbacks.save_last=true --ckpt_path=last --trainer.enable_progress_bar=false &
tasks=$!

# Before the time limit Slurm signals this script alone. It requeues the job; the tasks get no signal, since one that
# waits for the others could not answer it.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
status=0
wait "$tasks" || status=$?
while kill -0 "$tasks" 2>/dev/null; do # a signal ends wait, but not the tasks
    status=0
    wait "$tasks" || status=$?
done
exit "$status"
