#!/bin/bash
# Three real Slurm jobs on the two-node sandbox, in a folder of their own; its output is docs/slurm_sandbox_output.md:
#   sudo scripts/slurm_sandbox/run.sh [OUTPUT.md]
# (a) DDP training on two nodes, (b) a sweep of four runs with submitit, (c) a run that Slurm tells to go in the
# middle of its epoch, puts back into the queue, and that ends with the weights of an undisturbed run.
set -euo pipefail
cd "$(dirname "$0")/../.."
HERE=scripts/slurm_sandbox
PYTHON=${PYTHON:-$(command -v python || command -v python3)}
export SLURM_SANDBOX_DIR=${SLURM_SANDBOX_DIR:-/run/slurm_sandbox}
export SLURM_CONF=$SLURM_SANDBOX_DIR/etc/slurm.conf
export PYTHONPATH=$PWD OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0 HYDRA_FULL_ERROR=1 PYTHONWARNINGS=ignore
"$HERE/cluster.sh" check
RUNS=$(mktemp -d)
OUTPUT=${1:-/dev/stdout}
STEPS=${STEPS:-60}  # of (a) and (c)

# the five tasks on digit scenes, with a network of a few thousand weights
TINY="num_workers=0 trainer.accelerator=cpu logger=csv ~callbacks.pictures ~callbacks.progress
 backbone.network.width=32 backbone.network.depth=2 backbone.network.heads=2 backbone.network.global_layers=[1]
 backbone.network.new_layers=1 mask_points=32 prepare.digits.out=$RUNS/digits prepare.digits.train=48
 prepare.digits.val=6 +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
 trainer.log_every_n_steps=1 tasks.detection.max_length=8 tasks.instance_segmentation.max_length=8
 tasks.semantic_segmentation.max_length=8 tasks.caption.max_length=8 tasks.grounding.max_length=8
 tasks.instance_segmentation.mask_tokens=4 tasks.semantic_segmentation.mask_tokens=4"
for task in detection instance_segmentation semantic_segmentation caption grounding; do
    TINY+=" sources.$task.batch_size=2 sources.$task.val_batch_size=2 resolution.$task=56"
done
TINY=${TINY//$'\n'/}
TWO="trainer=ddp trainer.num_nodes=2 trainer.devices=1"

say() { printf '%s\n' "$@"; }
relevant() {  # without Lightning's and Hydra's greetings, and the same on every machine
    grep -E "node[12]|processes|Received|SIG|saved step|Slurm has|Restoring|^model:|skipped|rror|digits/.*:" \
        | grep -vE "GPU available|TPU|HPU|UserWarning|warnings.warn|LOCAL_RANK" \
        | sed -e "s#$RUNS#\$RUNS#g" -e "s#$PWD#\$PWD#g" -e "s#$SLURM_SANDBOX_DIR#\$SANDBOX#g" \
              -e 's/\x1b\[[0-9;]*m//g' || true
}
wait_job() {
    while squeue -h -j "$1" 2> /dev/null | grep -q .; do
        # a requeued job waits two minutes by default
        scontrol update jobid="$1" StartTime=now 2> /dev/null || true
        sleep 0.5
    done
}

two_nodes() {  # $1 folder, the rest: overrides
    cat > "$RUNS/job.sh" <<EOF
#!/bin/bash
#SBATCH --job-name=ufo --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append --signal=USR1@90
srun --label $PYTHON train.py $TINY $TWO ${@:2} hydra.run.dir=$1
EOF
    sbatch --parsable --output="$1.log" "$RUNS/job.sh"
}

saved_step() {  # the newest checkpoint of the run in folder $1
    ls "$1/checkpoints" 2> /dev/null | sed -n 's/^step_\([0-9]*\)\.ckpt$/\1/p' | sort -n | tail -n 1
}

part_a() {
    say "## (a) Two nodes, one DDP training" "" '```console' '$ sinfo -N -o "%N %t %c"'
    sinfo -N -o "%N %t %c"
    say '$ srun -N2 hostname' "$(srun -N2 hostname | sort)"
    say '$ srun -N2 --ntasks-per-node=1 python train.py $TINY trainer=ddp trainer.num_nodes=2 trainer.devices=1 trainer.max_steps='"$STEPS"
    local job
    job=$(two_nodes "$RUNS/straight" trainer.max_steps=$STEPS trainer.val_check_interval=$STEPS)
    wait_job "$job"
    relevant < "$RUNS/straight.log"
    say "$(tail -n +2 "$RUNS"/straight/csv/version_0/metrics.csv | wc -l) rows in metrics.csv"
    say '```' ""
    [ -f "$RUNS/straight/model/model.safetensors" ]
}

part_b() {
    say "## (b) A sweep of four runs with submitit" "" '```console'
    say '$ python train.py -m $TINY hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=0 hydra.launcher.tasks_per_node=1 hydra.launcher.cpus_per_task=1 optimizer.lr=0.001,0.003 seed=1,2'
    # shellcheck disable=SC2086
    $PYTHON train.py -m $TINY ${LAUNCHER:-$SUBMITIT} trainer.max_steps=4 trainer.val_check_interval=4 \
        optimizer.lr=0.001,0.003 seed=1,2 hydra.sweep.dir="$RUNS/sweep" > "$RUNS/sweep.log" 2>&1 \
        || { cat "$RUNS/sweep.log"; exit 1; }
    (cd "$RUNS" && for run in sweep/[0-9]*; do
        say "$run  $(grep -hE 'lr=|seed=' "$run/.hydra/overrides.yaml" | tr -d '\n-')  $(ls "$run/model")" | tr '\n' ' '
        say ""
    done)
    say '```' ""
    [ "$(ls -d "$RUNS"/sweep/*/model | wc -l)" = 4 ]
}
SUBMITIT="hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=0 hydra.launcher.tasks_per_node=1
 hydra.launcher.cpus_per_gpu=null hydra.launcher.cpus_per_task=1 hydra.launcher.timeout_min=10"

part_c() {
    say "## (c) Told to go in the middle of the epoch, requeued, the same weights" "" '```console'
    local job size
    job=$(two_nodes "$RUNS/stopped" trainer.max_steps=$STEPS trainer.val_check_interval=$STEPS \
        callbacks.checkpoint.every_n_train_steps=$((STEPS / 6)))
    say '$ sbatch --requeue job.sh   # srun python train.py ..., as in (a)'
    until [ "0$(saved_step "$RUNS/stopped")" -ge $((STEPS / 3)) ]; do
        squeue -h -j "$job" | grep -q . || { cat "$RUNS/stopped.log" >&2; return 1; }
        sleep 0.1
    done
    scancel --signal=USR1 "$job"
    say '$ scancel --signal=USR1 $JOB   # after its step '$((STEPS / 3))
    wait_job "$job"
    relevant < "$RUNS/stopped.log"
    say '$ sha256sum straight/model/model.safetensors stopped/model/model.safetensors'
    (cd "$RUNS" && sha256sum straight/model/model.safetensors stopped/model/model.safetensors)
    grep -q "Slurm has the job" "$RUNS/stopped.log"
    cmp "$RUNS/straight/model/model.safetensors" "$RUNS/stopped/model/model.safetensors"
    say "bit for bit the same" '```' ""
}

main() {
    say "# Output of scripts/slurm_sandbox/run.sh" ""
    say "$(. /etc/os-release && say "$PRETTY_NAME"), $(sinfo -V), $($PYTHON -V), torch $($PYTHON -c 'import torch; print(torch.__version__)'), $(nproc) CPUs, no GPU. \`\$TINY\`: the overrides in the script." ""
    part_a
    part_b
    part_c
    say "Took $SECONDS s."
}

finish() {
    status=$?
    [ $status = 0 ] || { echo "failed; the logs:" >&2; tail -n 30 "$RUNS"/*.log >&2 || true; }
    "$HERE/cluster.sh" down
    [ -n "${KEEP:-}" ] && echo "kept: $RUNS" >&2 || rm -rf "$RUNS"
    exit $status
}
trap finish EXIT
trap "exit 130" INT TERM
"$HERE/cluster.sh" up
main > "$RUNS/output.md"
sed -e "s#$RUNS#\$RUNS#g" -e "s#$PWD#\$PWD#g" "$RUNS/output.md" > "$OUTPUT"
