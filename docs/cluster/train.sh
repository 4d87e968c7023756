#!/bin/sh
# Train, or resume the training of this job if a process of it has left a checkpoint: for torchrun, which starts the same
# command again after a failure. Give each job its own MODEL_PATH, so that the checkpoint is the job's.
#
#   MODEL_PATH=models/JOB/model.pth torchrun ... --no-python docs/cluster/train.sh OPTIONS OF train.py
set -eu
folder=$(dirname "${MODEL_PATH:?set MODEL_PATH to models/JOB/model.pth}")
for checkpoint in "$folder"/*/checkpoint.pth; do
    if [ -e "$checkpoint" ]; then
        exec "${PYTHON:-python}" train.py --resume last
    fi
done
exec "${PYTHON:-python}" train.py "$@"
