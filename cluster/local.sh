#!/usr/bin/env bash
# Several Ray nodes on this machine, with token authentication: to try a cluster out, and for tests.
#
#   cluster/local.sh up [WORKERS]     a head and WORKERS more nodes (2); says the address for submit
#   cluster/local.sh down             stop them and remove their files
#
# ORCHESTRATOR_LOCAL_CLUSTER: their folder (/tmp/orchestrator-cluster; a short path, for Unix sockets); RAY_PORT (6379) and
# DASHBOARD_PORT (8265); PYTHON: an interpreter with this project installed (python3).
set -euo pipefail

folder=${ORCHESTRATOR_LOCAL_CLUSTER:-/tmp/orchestrator-cluster}
port=${RAY_PORT:-6379}
dashboard=${DASHBOARD_PORT:-8265}
python=${PYTHON:-python3}

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$folder/token
export RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 # who asks for no GPU sees none
export RAY_JOB_STOP_WAIT_TIME_S=30          # a driver that is stopped lets its stages save

ray_begin() { # NAME ARGUMENT...: one node, in the background; its process is remembered
    local name=$1
    shift
    mkdir -p "$folder/$name"
    # a folder for each node: two that share one unpack a job's code over one another
    # and a port of its own, which by default is the same for all
    "$python" -m ray.scripts.scripts start "$@" --dashboard-agent-listen-port 0 --temp-dir "$folder/$name" --disable-usage-stats --block \
        >"$folder/$name.log" 2>&1 </dev/null &
    echo $! >"$folder/$name.pid"
}

up() {
    local workers=${1:-2} node
    if [ -e "$folder" ]; then
        echo "error: $folder is there: a cluster runs, or has not been taken down" >&2
        echo "   next: cluster/local.sh down" >&2
        exit 2
    fi
    mkdir -p "$folder"
    (umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$folder/token")
    ray_begin head --head --port "$port" --num-cpus 1 --dashboard-host 127.0.0.1 --dashboard-port "$dashboard"
    for _ in $(seq 120); do
        if "$python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$dashboard/api/authentication_mode')" 2>/dev/null; then
            for node in $(seq "$workers"); do
                ray_begin "worker-$node" --address "127.0.0.1:$port" --num-cpus 1
            done
            echo "export RAY_AUTH_TOKEN_PATH=$folder/token"
            echo "orchestrator submit FILE --address http://127.0.0.1:$dashboard"
            return
        fi
        sleep 1
    done
    echo "error: the head did not start; the end of $folder/head.log:" >&2
    tail -n 20 "$folder/head.log" >&2
    down
    exit 7
}

down() {
    local file
    for file in "$folder"/*.pid; do
        if [ -e "$file" ]; then
            kill -TERM "$(cat "$file")" 2>/dev/null || true
        fi
    done
    for file in "$folder"/*.pid; do
        if [ -e "$file" ]; then # a node that drains takes up to half a minute
            for _ in $(seq 40); do
                kill -0 "$(cat "$file")" 2>/dev/null || break
                sleep 1
            done
            kill -KILL "$(cat "$file")" 2>/dev/null || true
        fi
    done
    rm -rf "${folder:?}"
}

case "${1:-}" in
up) up "${2:-2}" ;;
down) down ;;
*)
    echo "usage: cluster/local.sh up [WORKERS] | down" >&2
    exit 2
    ;;
esac
