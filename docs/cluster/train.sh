#!/bin/sh
# Train, or resume the training of this job if a process of it has left a checkpoint: for torchrun, which starts the same
# command again after a failure. Give each job its own MODEL_PATH, so that the checkpoint is the job's.
#
#   MODEL_PATH=models/JOB/model.pth torchrun ... --no-python docs/cluster/train.sh OPTIONS OF train.py
#
# The options are recorded in models/JOB/train-options, the settings that decide the result, of options, environment and .env,
# in models/JOB/train-settings. A job with others does not resume the training, and one that has published its model is not
# trained again: exit code 2.
set -eu
: "${MLFLOW_TRACKING_URI:?set it to the MLflow server: without it, runs are recorded in mlflow.db of one checkout}"
folder=$(dirname "${MODEL_PATH:?set MODEL_PATH to models/JOB/model.pth}")
record=$folder/train-options
settings=$folder/train-settings

# Print a line once on each machine, and end.
refuse() {
    [ "${LOCAL_RANK:-0}" != 0 ] || echo "train.sh: $1" >&2
    exit 2
}

# Print the settings of train.py that somebody has set and that decide the result, one NAME=VALUE a line.
job_settings() {
    "${PYTHON:-python}" -c '
import runpy
from config import Settings, load_settings
from core.command_line.setting_options import given_options
from core.process import run_script

def main(arguments):
    options = runpy.run_path("train.py")["parse"](arguments)
    settings = load_settings(**given_options(options, Settings))
    values = settings.reproducible_settings()
    print(*(f"{name.upper()}={values[name]}" for name in values if name in settings.explicit), sep="\n")
    return 0

run_script(main)
' "$@"
}

resume=
for checkpoint in "$folder"/*/checkpoint.pth; do
    [ -e "$checkpoint" ] || continue
    [ -e "$record" ] ||
        refuse "$checkpoint: not of a training that this script started: set MODEL_PATH to a directory of this job, or resume that one with train.py --resume last"
    [ "$(cat "$record")" = "$(printf '%s\n' "$@")" ] ||
        refuse "$checkpoint: started with other options: expected $(paste -sd ' ' "$record"), found $*: give the same ones, or set MODEL_PATH to a directory of this job"
    resume=yes
done

# A restart after the model was published (a refused --git-tag, a node that died last) would train it a second time.
if [ -z "$resume" ] && [ -e "$record" ] && [ -e "$MODEL_PATH" ] && [ ! "$MODEL_PATH" -ot "$record" ] &&
    [ "$(cat "$record")" = "$(printf '%s\n' "$@")" ]; then
    refuse "$MODEL_PATH: the training of this job is complete: to train again, set MODEL_PATH to another directory"
fi

# The others take over what the first process has decided.
[ "${RANK:-0}" = 0 ] || exec "${PYTHON:-python}" train.py "$@"

found=$(job_settings "$@")
if [ -z "$resume" ]; then
    mkdir -p "$folder"
    printf '%s\n' "$found" >"$settings.part"
    mv "$settings.part" "$settings" # at once: a kill leaves no half of it
    printf '%s\n' "$@" >"$record.part"
    mv "$record.part" "$record"
    exec "${PYTHON:-python}" train.py "$@"
fi
if [ -e "$settings" ] && [ "$(cat "$settings")" != "$found" ]; then # a job of an earlier version has none
    before=$(printf '%s\n' "$found" | grep -vxFf - "$settings" | paste -sd ' ' -)
    now=$(printf '%s\n' "$found" | grep -vxFf "$settings" - | paste -sd ' ' -)
    refuse "$folder: started with other settings in the environment or .env: expected ${before:-nothing more}, found ${now:-nothing more}: set the same ones, or set MODEL_PATH to a directory of this job"
fi

# The checkpoint has what decides the result: pass on only the other options, each with its value.
passed_on=
for argument in "$@"; do
    shift
    case $argument in
        --device | --device=* | --workers | --workers=* | --stream | --stream=*) passed_on=yes ;;
        --git-tag | --git-tag=* | --git-commit | --quiet | --debug) passed_on=yes ;;
        --*) passed_on= ;;
    esac
    [ -z "$passed_on" ] || set -- "$@" "$argument"
done
exec "${PYTHON:-python}" train.py --resume last "$@"
