
# What is above differs from service to service; what follows does not.
#
# start|stop|restart|status. `start` leaves a supervisor behind: it starts the service again where it ends
# with an error, after 1 s, 2 s, 4 s ... 300 s; asks it for a sign of life through its socket, and ends it
# where none comes; and keeps its log short. A service that is stopped in order commits what it has learned.
set -u
umask 007
export PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
LOG_BYTES=131072 # of the log; as much lies in log.1
GRACE=60         # seconds that a start may take
STOP=20          # seconds that a stop in order may take
LONGEST=300      # seconds until another start
case $RUNTIME in
    native) serve=$S/current/bin/zgedge-native ask=$S/current/bin/zgedge-native ;;
    *) serve=$S/current/venv/bin/zgedge ask="$S/current/venv/bin/python -I -m zgedge.runtime.board" ;;
esac

uptime_now() {
    read -r up _ </proc/uptime
    echo "${up%%.*}"
}
born() { # when a process started, in ticks since the boot; fails where it has ended
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # shellcheck disable=SC2086 # words
    set -- ${stat##*) }
    case $1 in Z | X) return 1 ;; esac
    shift 19
    echo "$1"
}
note() { # file pid: remember a process so that its number is not taken for another's
    echo "$2 $(born "$2") $(cat /proc/sys/kernel/random/boot_id)" >"$1.new" && mv -f "$1.new" "$1"
}
noted() { # file: the process that it remembers; fails where that has ended
    [ -s "$1" ] && read -r pid ticks boot <"$1" || return 1
    [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] && [ "$(born "$pid")" = "$ticks" ] && echo "$pid"
}
say_log() { echo "supervisor: $*" >>"$S/log"; }
end_process() { # pid: in order, else at once
    kill -TERM "$1" 2>/dev/null
    kill -CONT "$1" 2>/dev/null
    left=$((STOP * 5))
    while born "$1" >/dev/null; do
        if [ $left -le 0 ]; then
            kill -KILL "$1" 2>/dev/null
        fi
        left=$((left - 1))
        sleep 0.2 2>/dev/null || sleep 1
    done
}
trim_log() {
    if [ "$(($(wc -c <"$S/log")))" -gt $LOG_BYTES ]; then
        tail -c $LOG_BYTES "$S/log" >"$S/log.1.new" && mv -f "$S/log.1.new" "$S/log.1"
        : >"$S/log"
    fi
}
become() { # run a program as the service's user
    if [ "$(id -u)" != 0 ] || [ "$RUN_AS" = - ]; then
        exec "$@"
    elif setpriv --reuid "$RUN_AS" --regid "$(id -g "$RUN_AS")" --init-groups true 2>/dev/null; then
        exec setpriv --reuid "$RUN_AS" --regid "$(id -g "$RUN_AS")" --init-groups --no-new-privs "$@"
    elif setuidgid "$RUN_AS" true 2>/dev/null; then
        exec setuidgid "$RUN_AS" "$@"
    elif chpst -u "$RUN_AS" true 2>/dev/null; then
        exec chpst -u "$RUN_AS" "$@"
    elif start-stop-daemon -S -c "$RUN_AS" -p "$S/init.none" -x /bin/true >/dev/null 2>&1; then
        program=$1
        shift
        exec start-stop-daemon -S -q -c "$RUN_AS" -p "$S/init.none" -x "$program" -- "$@"
    fi
    echo "supervisor: nothing here changes users (setpriv, setuidgid, chpst): the service runs as root" >&2
    exec "$@"
}
alive() {
    # shellcheck disable=SC2086 # words
    reply=$(echo '{"op": "status"}' | $ask ask "$S/run/socket" --timeout 10 2>/dev/null)
    case $reply in *'"ok": true'* | *'"ok":true'*) return 0 ;; esac
    return 1
}
serve() {
    ulimit -c 0
    # Where the system does not know a limit the service goes on without it.
    ulimit -d "$LIMIT_KB" 2>/dev/null
    # shellcheck disable=SC2086 # words
    become "$serve" run "$S/current/model.zge" --state "$S/current/state" --socket "$S/run/socket" $OPTIONS
}
supervise() {
    trap '' HUP
    trap 'stopping=yes' TERM INT
    stopping=no delay=1
    while :; do
        (
            trap - HUP TERM INT
            serve
        ) </dev/null >>"$S/log" 2>&1 &
        child=$!
        note "$S/init.child" $child
        began=$(uptime_now) asked=$(uptime_now) seen=no missed=0 hung=no
        while [ $stopping = no ] && born $child >/dev/null; do
            sleep 1 &
            wait $!
            now=$(uptime_now)
            if [ $((now - asked)) -lt "$HEARTBEAT" ]; then continue; fi
            asked=$now
            trim_log
            if alive; then
                seen=yes missed=0
            elif [ $seen = yes ] || [ $((now - began)) -gt $GRACE ]; then
                missed=$((missed + 1))
            fi
            if [ $missed -ge 2 ]; then
                say_log "no sign of life: the service is ended"
                hung=yes
                kill -KILL $child 2>/dev/null
                break
            fi
        done
        if [ $stopping = yes ]; then
            end_process $child
            break
        fi
        code=0
        wait $child || code=$?
        if [ $stopping = yes ]; then break; fi
        if [ $code = 0 ] && [ $hung = no ]; then
            say_log "the service ended in order"
            break
        fi
        if [ $(($(uptime_now) - began)) -gt 60 ]; then delay=1; fi
        say_log "the service ended with code $code; again in $delay s"
        trim_log
        until=$(($(uptime_now) + delay))
        while [ $stopping = no ] && [ "$(uptime_now)" -lt $until ]; do
            sleep 1 &
            wait $!
        done
        if [ $stopping = yes ]; then break; fi
        delay=$((delay * 2))
        if [ $delay -gt $LONGEST ]; then delay=$LONGEST; fi
    done
    rm -f "$S/init.child" "$S/init.pid"
    exit 0
}
locked() { # one start or stop at a time; a lock that its owner left behind is taken over
    tries=0
    while ! mkdir "$S/init.lock" 2>/dev/null; do
        if [ -d "$S/init.lock" ] && ! noted "$S/init.lock/pid" >/dev/null && [ $tries -ge 3 ]; then
            rm -rf "$S/init.lock"
            continue
        fi
        tries=$((tries + 1))
        if [ ! -w "$S" ] || [ $tries -gt 60 ]; then
            echo "zgedge-$NAME: $S cannot be written, or another start or stop goes on" >&2
            exit 4
        fi
        sleep 1
    done
    trap 'rm -rf "$S/init.lock"' EXIT
    trap 'exit 1' INT TERM
    note "$S/init.lock/pid" $$
}
start() {
    if noted "$S/init.pid" >/dev/null; then return 0; fi
    if stray=$(noted "$S/init.child"); then end_process "$stray"; fi
    if [ ! -e "$S/current/model.zge" ]; then
        echo "zgedge-$NAME: nothing is installed in $S" >&2
        return 5
    fi
    : >>"$S/log"
    if command -v setsid >/dev/null 2>&1; then
        setsid sh "$0" supervise </dev/null >/dev/null 2>>"$S/log" &
    else
        sh "$0" supervise </dev/null >/dev/null 2>>"$S/log" &
    fi
    boss=$! tries=0
    # A service that ends in order at once takes its supervisor with it.
    while ! noted "$S/init.pid" >/dev/null && born $boss >/dev/null; do
        tries=$((tries + 1))
        if [ $tries -gt 50 ]; then
            echo "zgedge-$NAME: the supervisor does not start" >&2
            return 1
        fi
        sleep 0.2 2>/dev/null || sleep 1
    done
}
stop() {
    if boss=$(noted "$S/init.pid"); then
        # It ends the service first; where it cannot any more, that is done here.
        kill -TERM "$boss" 2>/dev/null
        left=$(((STOP + 10) * 5))
        while [ $left -gt 0 ] && born "$boss" >/dev/null; do
            left=$((left - 1))
            sleep 0.2 2>/dev/null || sleep 1
        done
        kill -KILL "$boss" 2>/dev/null
    fi
    if stray=$(noted "$S/init.child"); then end_process "$stray"; fi
    rm -f "$S/init.pid" "$S/init.child"
}

case ${1:-} in
    start)
        locked
        code=0
        start || code=$?
        # A switch that the end of the power cut off is judged by the board itself.
        if [ -f "$S/pending" ] && [ -f "$S/agent.sh" ]; then
            (
                trap '' HUP
                exec sh "$S/agent.sh" "${S%/*}" "$NAME" boot
            ) </dev/null >/dev/null 2>&1 &
        fi
        exit $code
        ;;
    stop)
        locked
        stop
        ;;
    restart | force-reload)
        locked
        stop
        start
        ;;
    status)
        if noted "$S/init.pid" >/dev/null; then
            if pid=$(noted "$S/init.child"); then
                echo "zgedge-$NAME runs (process $pid)"
            else
                echo "zgedge-$NAME waits until it is started again"
            fi
        else
            echo "zgedge-$NAME is stopped"
            exit 3
        fi
        ;;
    supervise)
        note "$S/init.pid" $$
        supervise
        ;;
    *)
        echo "usage: $0 start|stop|restart|status" >&2
        exit 2
        ;;
esac
