#!/bin/bash
# Pretraining on one machine with several GPUs, started again after what may go well the next time:
#
#   cfgs/launch/torchrun.sh 4m_l output=/runs/4m_l data.train.datasets.cc12m.path=/data/cc12m/train
#
# For several machines run it on each, with
#
#   NNODES=4 HEAD=host-of-the-first:29500 ID=any-name cfgs/launch/torchrun.sh ...
set -u
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
GPUS=$((GPUS > 0 ? GPUS : 1))
RESTARTS=${RESTARTS:-10}
if [ "${NNODES:-1}" -gt 1 ]; then
    RENDEZVOUS=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$ID")
else
    RENDEZVOUS=(--standalone)
fi

# A signal reaches the ranks through torchrun, which kills those that have not saved after 30 seconds, or SAVE_SECONDS.
stop=0
trap 'stop=1; kill -TERM "$child" 2>/dev/null' TERM INT USR1
for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
    # As torchrun, but it ends with the status of the rank that failed first.
    "${PYTHON:-python}" -m fourm.pipeline.torchrun "${RENDEZVOUS[@]}" --nproc-per-node "$GPUS" \
        ${SAVE_SECONDS:+--shutdown-timeout "$SAVE_SECONDS"} \
        -m fourm pretrain "$@" &
    child=$!
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
    case $status in
        75 | 134 | 137) [ "$stop" -eq 0 ] || exit "$status" ;;  # a rank was lost, aborted or killed
        *) exit "$status" ;;
    esac
    echo "status $status: started again from the newest checkpoint" >&2
done
exit "$status"
