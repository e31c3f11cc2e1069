#!/bin/bash
# A real two-node Slurm on one Debian machine: `cluster.sh up`, `cluster.sh down` (root; changes only $DIR,
# two lines of /etc/hosts, and its own network devices).
#
#   apt-get install -y --no-install-recommends slurm-wlm munge iproute2
#
# node1 and node2 each have a network namespace (10.99.0.11, .12) and a host name of their own; the controller,
# 10.99.0.1, is the machine itself. The nodes share its files, as nodes of a cluster share a file system.
set -euo pipefail
DIR=${SLURM_SANDBOX_DIR:-/run/slurm_sandbox}
HOSTS=${SLURM_SANDBOX_HOSTS:-/etc/hosts}
NET=10.99.0
NODES="1 2"
export SLURM_CONF=$DIR/etc/slurm.conf

check() {  # before anything is changed
    local lacking=""
    for name in slurmctld slurmd sbatch munged ip unshare; do
        command -v $name > /dev/null || lacking+=" $name"
    done
    if [ -n "$lacking" ]; then
        echo "there is no$lacking here: apt-get install -y --no-install-recommends slurm-wlm munge iproute2" >&2
        exit 2
    fi
    [ "$(id -u)" = 0 ] || { echo "the Slurm sandbox needs root: sudo $0" >&2; exit 2; }
    if [ -e "$DIR" ] || ip link show br-slurm > /dev/null 2>&1; then
        echo "a Slurm sandbox is up, or was left behind: scripts/slurm_sandbox/cluster.sh down" >&2
        exit 2
    fi
}

network_up() {
    ip link add br-slurm type bridge
    ip addr add $NET.1/24 dev br-slurm
    ip link set br-slurm up
    for i in $NODES; do
        ip netns add node$i
        ip link add veth$i type veth peer name eth0 netns node$i
        ip link set veth$i master br-slurm up
        ip -n node$i addr add $NET.1$i/24 dev eth0
        ip -n node$i link set eth0 up
        ip -n node$i link set lo up
        echo "$NET.1$i node$i # slurm sandbox" >> "$HOSTS"
    done
}

write_config() {
    cat > "$SLURM_CONF" <<EOF
ClusterName=sandbox
SlurmctldHost=$(hostname)($NET.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool.%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
# nothing is constrained or accounted: the nodes share the CPUs of one machine
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName=node1 NodeAddr=$NET.11 CPUs=2 State=UNKNOWN
NodeName=node2 NodeAddr=$NET.12 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
    # a network namespace sees /sys without cgroups, which the default plugin refuses
    printf 'CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\n' > "$DIR/etc/cgroup.conf"
}

munge_up() {  # with a key and a socket of its own, beside a munge that the machine may have
    dd if=/dev/urandom of="$DIR/munge/key" bs=64 count=1 status=none
    chmod 600 "$DIR/munge/key"
    munged --force --socket="$DIR/munge/socket" --key-file="$DIR/munge/key" --pid-file="$DIR/munged.pid" \
        --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed" 2> /dev/null
}

up() {
    check
    trap down EXIT  # what is half up comes down
    mkdir -p "$DIR"/{etc,log,munge,state,spool.node1,spool.node2}
    chmod 755 "$DIR" "$DIR/munge"
    network_up
    write_config
    munge_up
    slurmctld -f "$SLURM_CONF"
    for i in $NODES; do
        ip netns exec node$i unshare --uts bash -c "hostname node$i && slurmd -f '$SLURM_CONF' -N node$i"
    done
    for _ in $(seq 60); do
        [ "$(sinfo -h -N -t idle -o %N 2> /dev/null | wc -l)" = 2 ] && { trap - EXIT; return; }
        sleep 0.5
    done
    echo "the nodes did not come up; see $DIR/log" >&2
    exit 1
}

down() {
    for name in slurmd.node1 slurmd.node2 slurmctld munged; do
        [ -f "$DIR/$name.pid" ] && kill "$(cat "$DIR/$name.pid")" 2> /dev/null || true
    done
    sleep 1
    for i in $NODES; do
        ip link del veth$i 2> /dev/null || true
        ip netns del node$i 2> /dev/null || true
    done
    ip link del br-slurm 2> /dev/null || true
    # in place: a container's /etc/hosts can't be replaced
    grep -v '# slurm sandbox' "$HOSTS" > "$DIR/hosts" && cat "$DIR/hosts" > "$HOSTS" || true
    rm -rf "$DIR"
}

case ${1:-} in
    check) check ;;
    up) up ;;
    down) down ;;
    *) echo "usage: $0 check|up|down" >&2; exit 2 ;;
esac
