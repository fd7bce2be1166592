#!/bin/bash
# Pretraining on a SLURM cluster: one task per GPU, no other launcher. Before its time limit, or when it is preempted, the
# job saves and goes back into the queue; after a lost node or a stalled read, too. Copy it, set the sizes, and
#
#   sbatch slurm.sh 4m_xl output=/runs/4m_xl data.train.datasets.cc12m.path=/data/cc12m/train
#
#SBATCH --job-name=fourm
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

# Not what the submitting shell may have of it: that is another job's.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# Ranks as torchrun numbers them. --kill-on-bad-exit: what one rank cannot go on with ends all. srun does not take over the
# processors of a task by itself. It ends with the highest status of all ranks, and those that it kills have 137: an error
# that would come again has to be higher, or it would be started again.
srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    trap : TERM USR1 INT  # the rank gets them too
    fourm pretrain "$@"
    status=$?
    case $status in
        0 | 143 | 138 | 137 | 134 | 75) exit "$status" ;;
        *) exit $((status < 50 ? 200 + status : 250)) ;;
    esac' fourm "$@"
status=$?

# 143 and 138: asked to stop by SIGTERM or SIGUSR1, and saved. 75: another rank, storage or a disk did not answer in time.
# 137: a rank was killed, for instance with its node. 134: it gave up waiting for another one on the GPU. Whatever else it
# is would come again.
case $status in
    0) echo "complete" ;;
    143 | 138 | 137 | 134 | 75)
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-100}" ]; then
            echo "status $status: started again ${SLURM_RESTART_COUNT} times already; RESTARTS allows more"
        else
            echo "status $status: back into the queue"
            scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
    *)
        status=$((status > 200 ? status - 200 : status))
        echo "status $status: not started again"
        ;;
esac
exit "$status"
