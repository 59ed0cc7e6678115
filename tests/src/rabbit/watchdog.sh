#!/bin/sh
# Runs a RabbitMQ server and removes every trace of it once the test process is gone.
#
# usage: FOLDER/watchdog.sh RABBITMQ-SERVER
#
# Two lines on standard input are commands: "kill" ends the server as a power failure does and leaves its folder,
# "start" starts it again there. The file "exited" shows that the server is not running.
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
    # By its own number too: killed this early, it might not show the mark yet. Once it has exited, another process
    # may have that number.
    [ -e exited ] || kill -KILL "$runner" 2>/dev/null
    # Once more while there are any: a process may have been born between the look and the kill.
    rounds=0
    while pids=$(ours) && [ -n "$pids" ] && [ "$rounds" -lt 200 ]; do
        kill -KILL $pids 2>/dev/null
        rounds=$((rounds + 1))
        sleep 0.05
    done
    cd / && rm -rf "$folder"
}

start() {
    env "$mark" sh -c '"$0"; : > exited' "$server" </dev/null &
    runner=$!
}

# The Erlang machine alone: epmd stays, as other nodes may have their names there. The number is that of a living
# process of ours, or nothing is killed: the server may have exited, and another process have its number.
kill_server() {
    pid=$(cat pid) && ours | grep -qx "$pid" && kill -KILL "$pid"
}

cd "$folder" || exit 1
start
trap remove EXIT
trap exit HUP INT TERM

while read -r command; do
    case $command in
        kill) kill_server ;;
        start) start ;;
    esac
done
