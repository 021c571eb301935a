#!/usr/bin/env bash
# A real Slurm of one node with two GPUs that are only device files: `cluster.sh up DIR`, `down DIR`.
# All state lies in DIR; only /etc/slurm is written elsewhere, because Slurm's own steps look there.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where the daemons are
state=$(mkdir -p "$2" && cd "$2" && pwd)
host=$(hostname)

install_packages() {
    command -v slurmctld > /dev/null && command -v munged > /dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurm-wlm munge > /dev/null
}

# The directory of the test that wrote the configuration which is there.
maker() {
    sed -n "s/^# splitcodec's test: //p" /etc/slurm/slurm.conf 2> /dev/null || true
}

stop() {
    for daemon in slurmd slurmctld munged; do
        [[ -f $state/$daemon.pid ]] && kill "$(< "$state/$daemon.pid")" 2> /dev/null || true
    done
    for _ in {1..50}; do
        pgrep --pidfile "$state/slurmctld.pid" > /dev/null 2>&1 || break
        sleep 0.2
    done
    if [[ $(maker) == "$state" ]]; then rm /etc/slurm/slurm.conf /etc/slurm/gres.conf; fi
}

start() {
    if ((EUID != 0)); then
        echo 'the Slurm test starts daemons: run it as root, in a container or a virtual machine' >&2
        exit 1
    fi
    install_packages
    if [[ -f /etc/slurm/slurm.conf ]]; then
        former=$(maker) # a killed test leaves its file; its daemons may be gone
        if [[ -z $former ]] || pgrep --pidfile "$former/slurmctld.pid" > /dev/null 2>&1; then
            echo "/etc/slurm/slurm.conf exists: this machine belongs to a cluster${former:+; or $0 down $former}" >&2
            exit 1
        fi
    fi
    mkdir -p /etc/slurm "$state/control" "$state/node"
    chmod 755 "$state"
    for number in 0 1; do mknod -m 666 "$state/gpu$number" c 1 3; done
    # More processors and memory than there are, so that jobs of the tiny experiment run side by side.
    cat > /etc/slurm/slurm.conf << END
# splitcodec's test: $state
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$state/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/control
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$state/completed.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
MpiDefault=none
MinJobAge=3600
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=$host MaxTime=INFINITE State=UP
END
    echo "Name=gpu File=$state/gpu[0-1]" > /etc/slurm/gres.conf
    head -c 128 /dev/urandom > "$state/munge.key"
    chown munge:munge "$state/munge.key"
    chmod 400 "$state/munge.key"
    install -d -o munge -g munge "$state/munge"
    munged --force --key-file="$state/munge.key" --socket="$state/munge.socket" \
        --pid-file="$state/munged.pid" --log-file="$state/munge.log" --seed-file="$state/munge.seed"
    slurmctld
    slurmd -N "$host"
    for _ in {1..30}; do
        [[ $(timeout 2 sinfo --noheader --format=%t 2> /dev/null | sort -u) == idle ]] && return
        sleep 0.5
    done
    echo 'Slurm did not come up:' >&2
    tail -n 20 "$state"/*.log >&2
    exit 1
}

case $1 in
    up) start ;;
    down) stop ;;
esac
