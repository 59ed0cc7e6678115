#!/bin/sh
# Runs a RabbitMQ server and removes every trace of it once the test process is gone.
#
# usage: FOLDER/watchdog.sh RABBITMQ-SERVER
#
# The test process holds the other end of our standard input. However it ends - by exit, abort or kill -9 - the
# kernel closes that end, and we read the end of the file.
set -u
server=$1
folder=${0%/*}

# Process groups do not tell what is ours: Erlang starts its helpers and epmd in groups of their own. But each
# process inherits this mark in its environment, and the folder's name in it is unique.
mark="RPC_TESTS_NODE=$folder"

ours() {
    grep -lszxF "$mark" /proc/[0-9]*/environ | cut -d/ -f3
}

remove() {
    trap '' HUP INT TERM
    # By its own number too: killed this early, it might not show the mark yet.
    kill -KILL "$runner" 2>/dev/null
    # Once more while there are any: a process may have been born between the look and the kill.
    rounds=0
    while pids=$(ours) && [ -n "$pids" ] && [ "$rounds" -lt 200 ]; do
        kill -KILL $pids 2>/dev/null
        rounds=$((rounds + 1))
        sleep 0.05
    done
    cd / && rm -rf "$folder"
}

cd "$folder" || exit 1
env "$mark" sh -c '"$0"; : > exited' "$server" </dev/null &
runner=$!
trap remove EXIT
trap exit HUP INT TERM

while read -r _; do :; done
