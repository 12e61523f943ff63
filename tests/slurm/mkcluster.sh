#!/bin/bash
# A Slurm cluster of several nodes on this one host, for tests: no systemd, no cgroups, everything under DIR, its own munged. Root only.
#
#     tests/slurm/mkcluster.sh start DIR [NODES] [CPUS_PER_NODE]      then: export SLURM_CONF=DIR/slurm.conf; sinfo; sbatch ...
#     tests/slurm/mkcluster.sh stop DIR                               ends every daemon it started, and nothing else
#
# The nodes are slurmd processes with their own ports and spool folders. MPI between them goes over loopback; see tests/parallel/env.sh.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# A stopped daemon can stay a zombie for ever where pid 1 does not reap.
alive() { [ -r "/proc/$1/stat" ] && [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" != Z ]; }

write_conf() { # DIR NODES CPUS BASE_PORT
    local host; host=$(hostname -s)
    cat >"$1/slurm.conf" <<CONF
ClusterName=precis
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$4
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job waits this long before it may start (120 s by default)
AuthInfo=socket=$1/munge/socket,cred_expire=5
SlurmctldPidFile=$1/run/slurmctld.pid
SlurmdPidFile=$1/run/slurmd-%n.pid
SlurmctldLogFile=$1/log/slurmctld.log
SlurmdLogFile=$1/log/slurmd-%n.log
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
# a folder per node, or the nodes' PMIx servers trip over each other's files
TmpFS=$1/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=pmix
ReturnToService=2
# the nodes may claim more processors and memory than the host has
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
MinJobAge=300
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
MessageTimeout=20
SwitchType=switch/none
NodeName=n[1-$2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$(($4 + 1))-$(($4 + $2))] CPUs=$3 Boards=1 SocketsPerBoard=1 CoresPerSocket=$3 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
}

start() { # DIR NODES CPUS
    local d=$1 n=$2 c=$3 i
    mkdir -p "$d"/{state,spool,log,run,tmp,munge}
    chmod 755 "$d" "$d/munge"
    head -c 128 /dev/urandom >"$d/munge/key"
    chmod 400 "$d/munge/key"
    munged --socket="$d/munge/socket" --key-file="$d/munge/key" --pid-file="$d/run/munged.pid" --log-file="$d/log/munged.log" \
        --seed-file="$d/munge/seed" --num-threads=2
    write_conf "$d" "$n" "$c" $((20000 + ($$ % 300) * 20))
    export SLURM_CONF=$d/slurm.conf
    slurmctld -f "$SLURM_CONF" -c
    for i in $(seq 1 "$n"); do
        mkdir -p "$d/spool/n$i" "$d/tmp/n$i"
        slurmd -f "$SLURM_CONF" -N "n$i"
    done
    for i in $(seq 1 150); do
        [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" -ne "$n" ] || return 0
        sleep 0.1
    done
    echo "the nodes are not idle after 15 s; see $d/log" >&2
    return 1
}

stop() { # DIR
    local f pid pids=() i left
    export SLURM_CONF=$1/slurm.conf
    if [ -r "$SLURM_CONF" ] && [ -n "$(timeout 10 squeue -h 2>/dev/null)" ]; then
        timeout 10 scancel --state=PENDING,RUNNING,SUSPENDED -u root || true
        for i in $(seq 1 80); do [ -n "$(timeout 10 squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
    fi
    for f in "$1"/run/slurmd-*.pid "$1"/run/slurmctld.pid "$1"/run/munged.pid; do
        [ -r "$f" ] || continue
        pid=$(cat "$f")
        kill "$pid" 2>/dev/null || continue
        pids+=("$pid")
    done
    for i in $(seq 1 100); do
        left=0
        for pid in "${pids[@]}"; do ! alive "$pid" || left=1; done
        [ $left -eq 1 ] || return 0
        sleep 0.1
    done
    for pid in "${pids[@]}"; do ! alive "$pid" || kill -9 "$pid"; done
    echo "some daemons did not stop in 10 s and were killed" >&2
    return 1
}

[ $# -ge 2 ] || usage
case $1 in
start) start "$(mkdir -p "$2" && cd "$2" && pwd)" "${3:-4}" "${4:-1}" ;;
stop) stop "$(cd "$2" && pwd)" ;;
*) usage ;;
esac
