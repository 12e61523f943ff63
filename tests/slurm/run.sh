#!/bin/bash
# The job scripts of jobs/ on a real Slurm: a cluster of 4 nodes on this host, a real model, a short real text.
#
#     tests/slurm/run.sh --precis build/precis --model M.gguf [--parallel build/tests/parallel/test_comm] [--real-limit] [--keep]
#
# `tests/slurm/run.sh build/precis` is enough when MODEL is set. --real-limit waits for Slurm's own warning before a time limit of one minute (which comes when
# Slurm gets round to it: add two minutes); otherwise the test sends that signal itself, to the same place.
# Prints a line per check and `slurm: N passed, N failed`; where Slurm, root or the model is missing: `slurm: 0 passed, 0 failed, 1 skipped (why)`.
# --keep leaves the folder with logs, jobs and stores, also named when a check fails.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/tests/expect.sh"
. "$root/tests/tiny_model.sh"
suite=slurm
precis= model=${MODEL:-} parallel= real_limit=0 keep=0
while [ $# -gt 0 ]; do
    case $1 in
    --precis) precis=$2; shift 2 ;;
    --model) model=$2; shift 2 ;;
    --parallel) parallel=$2; shift 2 ;;
    --real-limit) real_limit=1; shift ;;
    --keep) keep=1; shift ;;
    [!-]*) precis=$1; shift ;;
    *) sed -n '4p' "$0" >&2; exit 2 ;;
    esac
done

for tool in slurmctld slurmd munged srun sbatch scontrol; do command -v $tool >/dev/null || skip "no $tool: apt-get install slurmctld slurmd slurm-client munge"; done
[ "$(id -u)" -eq 0 ] || skip "starting a Slurm cluster needs root"
[ -n "$precis" ] && [ -x "$precis" ] || skip "no program: --precis BIN"
[ -n "$model" ] && [ -e "$model" ] || skip "no model: --model FILE"
precis=$(realpath "$precis") model=$(realpath "$model")
[ -z "$parallel" ] || parallel=$(realpath "$parallel")

tell=yes
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/precis-slurm.XXXXXX")
chmod 755 "$dir" # munge wants its socket reachable
stop_cluster() {
    [ -d "$dir/cluster" ] || return 0
    "$here/mkcluster.sh" stop "$dir/cluster"; check "every daemon stops" $?
    mv "$dir/cluster" "$dir/cluster-stopped"
}
finish() {
    stop_cluster
    if [ "$failed" -gt 0 ] || [ $keep -eq 1 ]; then echo "logs, jobs and stores: $dir"; else rm -rf "$dir"; fi
    count_end
}
trap 'finish >&2; exit 1' INT TERM

"$here/mkcluster.sh" start "$dir/cluster" 4 1
started=$?
check "a cluster of 4 nodes starts" $started
[ $started -eq 0 ] || { finish; exit 1; }
export SLURM_CONF=$dir/cluster/slurm.conf
srun --mpi=list 2>&1 | grep -q pmix || { stop_cluster; rm -rf "$dir"; skip "this Slurm has no PMIx"; }
cd "$dir" || exit 1

# What a user would write in jobs/site.env. No binding here: the four nodes are one host.
cat >"$dir/site.env" <<SITE
. "$root/tests/parallel/env.sh"
PRECIS="$precis"
SRUN_MPI=pmix
export OMP_PROC_BIND=false
SITE
export SITE_ENV=$dir/site.env

# A text of a few dozen segments: the licence, twice with different beginnings.
{ cat "$root/LICENSE"; echo; echo "The same again."; tac "$root/LICENSE"; } | head -c "${SLURM_TEST_BYTES:-14000}" >"$dir/text.txt"
head -c 400 "$dir/text.txt" >"$dir/mixed.txt"
encode_args=(--model "$model" --segment 128 --batch 128 "$dir/text.txt")
one_cpu=(--cpus-per-task=1 --time=5)
# job_wait JOB SECONDS: its last description in $state; 0 when it completed. (`sbatch --wait` looks too seldom.)
job_wait() {
    local end=$((SECONDS + $2))
    while [ $SECONDS -lt $end ]; do
        state=$(scontrol show job "$1" 2>/dev/null)
        ! grep -Eq 'JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY)' <<<"$state" || break
        sleep 0.1
    done
    grep -q 'JobState=COMPLETED' <<<"$state"
}
committed() { cat "$1"/*.index 2>/dev/null | wc -l; } # a line is a committed segment

if [ -n "$parallel" ]; then
    out=$(. "$here/../parallel/env.sh"; SLURM_PMIX_FENCE=tree timeout -k 5 60 srun -N4 -n4 --mpi=pmix "$parallel" 2>&1)
    check "the communicator over 4 nodes" $? "$(tail -3 <<<"$out")"
fi

# The store to compare with: one process, no Slurm, no MPI.
OMP_NUM_THREADS=1 "$precis" encode --store "$dir/plain" "${encode_args[@]}" >"$dir/plain.log" 2>&1
check "encode without Slurm" $? "$(tail -1 "$dir/plain.log")"
want=$(digest "$dir/plain")

# ---- encode on 4 nodes ----
job=$(sbatch --parsable "${one_cpu[@]}" --output=encode.log "$root/jobs/encode.sbatch" --store "$dir/four" "${encode_args[@]}")
job_wait "$job" 120
check "encode.sbatch on 4 nodes" $? "$(tail -1 encode.log)"
same "$(digest "$dir/four")" "$want"; check "its store equals the one made without Slurm" $? "$(digest "$dir/four") / $want"

# ---- query on 2 nodes what 4 encoded ----
cat >prompts.jsonl <<'PROMPTS'
{"id":"a","prompt":"The licence says that You may"}
{"id":"b","prompt":"Each Contributor hereby grants"}
PROMPTS
query_args=(--model "$model" --store "$dir/four" --prompts "$dir/prompts.jsonl" --max-tokens 8 --temperature 0 --format jsonl)
ids() { grep -o '"tokens": *\[[^]]*\]' "$1" | tr -d ' '; }
job=$(ANSWERS=$dir/answers.jsonl sbatch --parsable "${one_cpu[@]}" --output=query.log "$root/jobs/query.sbatch" "${query_args[@]}")
job_wait "$job" 60
check "query.sbatch on 2 nodes" $? "$(tail -1 query.log)"
OMP_NUM_THREADS=1 "$precis" query "${query_args[@]}" >plain.jsonl 2>>plain.log
[ "$(ids answers.jsonl | wc -l)" -eq 2 ] && same "$(ids answers.jsonl)" "$(ids plain.jsonl)"; check "its answers equal those of one process" $?

# ---- a pool of edits, by the same scripts ----
tiny_edits 40 >edits.jsonl
job=$(COMMAND='edit encode' sbatch --parsable "${one_cpu[@]}" --output=edits.log "$root/jobs/encode.sbatch" --model "$model" --store "$dir/edits" "$dir/edits.jsonl")
job_wait "$job" 60
check "edit encode on 4 nodes" $? "$(tail -1 edits.log)"
edit_args=(--model "$model" --store "$dir/edits" --prompts "$dir/prompts.jsonl" --max-tokens 8 --format jsonl)
job=$(COMMAND='edit query' ANSWERS=$dir/edited.jsonl sbatch --parsable "${one_cpu[@]}" --output=edited.log "$root/jobs/query.sbatch" "${edit_args[@]}")
job_wait "$job" 60
OMP_NUM_THREADS=1 "$precis" edit query "${edit_args[@]}" >plain-edited.jsonl 2>>plain.log
[ "$(ids edited.jsonl | wc -l)" -eq 2 ] && same "$(ids edited.jsonl)" "$(ids plain-edited.jsonl)"; check "edit query on 2 nodes" $? "$(tail -1 edited.log)"

# ---- a job of two parts whose ranks are unlike: what jobs/mixed.sbatch does with GPU nodes and CPU nodes ----
sed 's/ --gpus-per-node=4//; s/--ntasks-per-node=4/--ntasks-per-node=1/; s/--nodes=4/--nodes=2/; s/--cpus-per-task=[0-9][0-9]*/--cpus-per-task=1/; s/--time=[0-9:][0-9:]*/--time=5/' \
    "$root/jobs/mixed.sbatch" >mixed.sbatch
job=$(FIRST='--backend cpu --speed 2' SECOND='--backend cpu_ref --speed 1' sbatch --parsable --output=mixed.log mixed.sbatch --model "$model" --store "$dir/mixed" --segment 16 --batch 16 "$dir/mixed.txt")
job_wait "$job" 120
check "mixed.sbatch on 3 nodes" $? "$(tail -1 mixed.log)"
grep -q 'rank 0 runs on cpu in .*, rank 1 on cpu_ref' mixed.log && [ "$(ls "$dir"/mixed/rank*.index | wc -l)" -ge 2 ]; check "ranks of both parts encoded" $? "$(tail -1 mixed.log)"

# ---- a job that is warned of its time limit: 75, requeue, and the rest on the second try ----
limit=()
[ $real_limit -eq 0 ] || limit=(--time=1 --signal=B:USR1@50)
job=$(sbatch --parsable "${one_cpu[@]}" "${limit[@]}" --output=requeue.log "$root/jobs/encode.sbatch" --store "$dir/twice" "${encode_args[@]}")
for _ in $(seq 1 600); do [ "$(committed "$dir/twice")" -lt 2 ] || break; sleep 0.1; done
[ $real_limit -eq 1 ] || scancel --batch --signal=USR1 "$job"
for _ in $(seq 1 600); do ! grep -q 'queueing again' requeue.log 2>/dev/null || break; sleep 0.1; done
grep -q 'queueing again (restart 1)' requeue.log; check "the warned job stops with 75 and queues itself again" $? "$(tail -1 requeue.log)"
before=$(committed "$dir/twice") total=$(committed "$dir/plain")
[ "$before" -ge 2 ] && [ "$before" -lt "$total" ]; check "it stopped in the middle with its work saved" $? "$before of $total segments"
job_wait "$job" $((90 + 140 * real_limit)); check "it finishes" $? "$(grep -o 'JobState=[A-Z]*' <<<"$state") $(tail -1 requeue.log)"
grep -q "Restarts=$([ $real_limit -eq 1 ] && echo '[1-9]' || echo 1) " <<<"$state"; check "on its second try" $? "$(grep -o 'Restarts=[0-9]*' <<<"$state")"
same "$(digest "$dir/twice")" "$want"; check "its store equals the one made in one go" $? "$(digest "$dir/twice") / $want"
"$precis" store check "$dir/twice" >>log 2>&1; check "and checks clean" $? "$(tail -1 log)"

finish
