#!/bin/sh
# The board's side of a deployment: sh agent.sh ROOT NAME COMMAND [TOKEN] [ARGUMENTS...]
#
# For dash and busybox ash, with coreutils or busybox beside it; nothing else is taken for granted.
# Every command can be run again after it was cut anywhere: what is made is made under another name
# and renamed, and the switch from one version to another is one rename of a link. Answers are lines
# `key value` on standard output; the last is `ok`, or `error CODE text` with exit code 9.
# docs/deploy.md says what each is for; ROOT's layout is there too.
set -eu
umask 022
export LC_ALL=C PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
unset CDPATH ENV PYTHONPATH PYTHONHOME 2>/dev/null || :
set -f # no word is a pattern

ROOT=$1 NAME=$2 COMMAND=$3
shift 3
case $ROOT in
    '~/'*) ROOT=$HOME/${ROOT#'~/'} ;;
    /*) ;;
    *) echo "error usage $ROOT is no absolute path"; exit 9 ;;
esac
SILENCE=60 # seconds after which a deployment that says nothing is taken over
START=${ZGEDGE_START:-60} # seconds that a service may take until it answers
HISTORY=50 # lines of it that are kept
BOOTS=3 # that a version which is watched may need

BUNDLE='' # that is being unpacked; what is refused does not stay

say() { printf '%s\n' "$*" 2>/dev/null || :; } # where what it goes to is full, work goes on
fail() {
    [ -z "$BUNDLE" ] || rm -rf "$BUNDLE" "$S/incoming/work" "$S/versions/part"
    say "error $*"
    exit 9
}
sweep() { # a pattern of files that go
    set +f
    # shellcheck disable=SC2086 # a pattern
    rm -f $1
    set -f
}

# ---- small things ----

matches() { # a name of a service
    case $1 in
        '' | trusted | -* | *[!a-z0-9-]*) return 1 ;; # `trusted` is the file of keys
    esac
    [ ${#1} -le 32 ]
}
number() { # 0 to 999999999, written in one way
    case $1 in
        '' | *[!0-9]* | 0?*) return 1 ;;
    esac
    [ ${#1} -le 9 ]
}
hash_like() {
    case $1 in *[!0-9a-f]*) return 1 ;; esac
    [ ${#1} -eq 64 ]
}
version_like() { # COUNTER-HASH8
    case $1 in
        *-*) ;;
        *) return 1 ;;
    esac
    number "${1%%-*}" || return 1
    rest=${1#*-}
    case $rest in *[!0-9a-f]*) return 1 ;; esac
    [ ${#rest} -eq 8 ]
}
sum_of() { # sha256 of a file
    sum=$(sha256sum <"$1")
    say "${sum%% *}"
}
size_of() {
    size=$(wc -c <"$1")
    say $((size))
}
line_of() { # the value of a line `KEY value` in a file; nothing where it has none
    sed -n "s/^$1 //p" "$2" 2>/dev/null | head -n 1
}
uptime_now() {
    read -r up _ </proc/uptime
    say "${up%%.*}"
}
boot_id() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || say none; }
born() { # when a process started, in ticks since the boot; fails where it has ended
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # shellcheck disable=SC2086 # words
    set -- ${stat##*) }
    case $1 in Z | X) return 1 ;; esac
    shift 19
    say "$1"
}
settle() { sync 2>/dev/null || :; }
# Run a command that writes; a full disk is told from all else.
writing() {
    if said=$("$@" 2>&1); then
        [ -z "$said" ] || say "$said"
        return 0
    fi
    case $said in
        *"No space left"* | *"quota exceeded"* | *"Errno 28"* | *"Errno 122"*)
            fail full "the disk of the board is full" ;;
        *"Read-only file system"* | *"Permission denied"*) fail denied "$(last_line "$said")" ;;
        *) fail broken "$(last_line "$said")" ;;
    esac
}
last_line() { printf '%s\n' "$1" | tr -cd '\040-\176\012' | sed '/^ *$/d' | tail -n 1 | head -c 400; }
store() { cat >"$1"; } # standard input into a file

machine() { # of the programs here, not of the kernel: 64-bit kernels run 32-bit systems
    # shellcheck disable=SC2046 # words
    set -- $(head -c 20 /bin/sh | od -An -tu1 -j 18 -N 2)
    case "$1" in
        62) say x86_64 ;;
        183) say aarch64 ;;
        40) say armv7l ;;
        *) uname -m ;;
    esac
}
find_python() { # the newest there is, its version behind it; nothing where there is none
    for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        command -v $p >/dev/null 2>&1 || continue
        v=$($p -I -c 'import sys, venv, zipimport; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $v in
            3.[0-9]) old="${old:-$p $v}" ;;
            *)
                say "$p $v"
                return
                ;;
        esac
    done
    say "${old:-}"
}
has_verifier() {
    command -v ssh-keygen >/dev/null 2>&1 || return 1
    # Every ssh-keygen with -Y knows `check-novalidate`; an old one has no such option.
    case $(ssh-keygen -Y check-novalidate 2>&1 </dev/null || :) in
        *"illegal option"* | *"unknown option"* | *"invalid option"*) return 1 ;;
    esac
}

# ---- the lock ----
# A folder, with a line of who works here: token, boot, second of the boot, process and its birth. It is
# stale after a reboot, and where its process has ended and nothing was heard for a minute. The clock on the
# wall has no part in it.

write_owner() { # token pid
    # By cat, which says why it could not write: a shell's own printf may not.
    printf '%s %s %s %s %s\n' "$1" "$(boot_id)" "$(uptime_now)" "$2" "$(born "$2" || say 0)" | writing store "$S/lock/owner.$$"
    mv -f "$S/lock/owner.$$" "$S/lock/owner"
}
read_owner() { # sets o_*
    o_token='' o_boot='' o_up=0 o_pid=0 o_born=0
    [ ! -f "$S/lock/owner" ] || read -r o_token o_boot o_up o_pid o_born <"$S/lock/owner" || :
    o_alive=no
    [ "$o_boot" != "$(boot_id)" ] || [ "$(born "$o_pid" 2>/dev/null || :)" != "$o_born" ] || o_alive=yes
}
take_lock() { # token [the token of a deployment that is known to be dead]
    writing mkdir -p "$S"
    if mkdir "$S/lock" 2>/dev/null; then
        write_owner "$1" $$
        return
    fi
    read_owner
    [ -n "$o_token" ] || { sleep 1; read_owner; }
    was=$o_token silent=$(($(uptime_now) - o_up))
    if [ "$was" != "$1" ]; then
        if [ "$o_alive" = yes ]; then fail locked "$was 0"; fi
        if [ "$o_boot" = "$(boot_id)" ] && [ "$was" != "${2:-}" ] && [ $silent -lt $SILENCE ]; then
            fail locked "$was $((SILENCE - silent))"
        fi
        # One of several takers gets it.
        if ! ln -s $$ "$S/lock/taken" 2>/dev/null; then
            other=$(readlink "$S/lock/taken" || say 0)
            if born "$other" >/dev/null; then fail locked "$was 1"; fi
            rm -f "$S/lock/taken"
            ln -s $$ "$S/lock/taken" 2>/dev/null || fail locked "$was 1"
        fi
        read_owner
        if [ "$o_token" != "$was" ]; then
            rm -f "$S/lock/taken"
            fail locked "$o_token $SILENCE"
        fi
        say "took-over ${was:-unknown}"
    fi
    write_owner "$1" $$
    rm -f "$S/lock/taken"
}
keep_lock() { # token: it must still be ours
    read_owner
    [ -d "$S/lock" ] && [ "$o_token" = "$1" ] || fail lost "another deployment took over"
    write_owner "$1" $$
}
drop_lock() { # token
    read_owner
    # Where the desk left in the middle of a step, that goes on, and the lock stays its own.
    if [ "$o_alive" = yes ] && [ "$o_pid" != $$ ]; then return 0; fi
    if [ "$o_token" = "$1" ]; then
        rm -rf "$S/lock.gone"
        mv "$S/lock" "$S/lock.gone"
        rm -rf "$S/lock.gone"
    fi
}

# ---- what is here ----

pending_target() { read -r v _ <"$S/pending" && say "$v"; }
current() { # name of the version that serves; nothing where there is none
    v=$(readlink "$S/$1" 2>/dev/null) || return 0
    v=${v#versions/}
    if version_like "$v" && [ -f "$S/versions/$v/MANIFEST" ]; then say "$v"; fi
}
versions() { # installed ones, the oldest first
    # shellcheck disable=SC2012 # names are our own
    ls "$S/versions" 2>/dev/null | sort -n | while read -r v; do
        if version_like "$v"; then say "$v"; fi
    done
}
manager() { if [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then say systemd; else say init; fi; }
free_kb() {
    df -Pk "$1" 2>/dev/null | tail -n 1 | while read -r _ _ _ free _; do say "$free"; done
}

do_facts() {
    say "agent 1"
    say "root $ROOT"
    say "machine $(machine)"
    say "kernel $(uname -m) $(uname -r)"
    say "uid $(id -u)"
    say "boot $(boot_id)"
    say "manager $(manager)"
    say "python $(find_python)"
    if has_verifier; then say "verifier yes"; else say "verifier no"; fi
    if [ -s "$ROOT/trusted" ]; then say "trusted yes"; else say "trusted no"; fi
    say "free $(free_kb "$ROOT")"
    say "memory $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
    say "time $(date +%s)"
    if command -v cc >/dev/null 2>&1; then say "cc yes"; else say "cc no"; fi
    [ -d "$S" ] || return 0
    say "device $(cat "$S/device" 2>/dev/null || :)"
    say "current $(current current)"
    say "previous $(current previous)"
    [ ! -f "$S/pending" ] || say "pending $(pending_target)"
    for v in $(versions); do
        m=$S/versions/$v/MANIFEST
        say "version $v $(line_of runtime "$m") $(line_of zgedge "$m") $(line_of model "$m") $(sum_of "$m")"
    done
}

do_names() {
    # shellcheck disable=SC2012
    ls "$ROOT" 2>/dev/null | while read -r n; do
        if matches "$n" && [ -d "$ROOT/$n/versions" ]; then say "name $n"; fi
    done
}

# ---- keys ----

do_keys() { # the number of the list that this board trusts
    n=$(line_of '#' "$ROOT/trusted")
    say "number ${n:-0}"
}
do_trust() { # standard input: the first keys that this board trusts
    [ ! -s "$ROOT/trusted" ] || fail trusted "this board trusts keys already"
    writing store "$ROOT/trusted.new"
    mv -f "$ROOT/trusted.new" "$ROOT/trusted"
    settle
}
do_retrust() { # sizes of a list of keys and of its signature by a trusted one; both on standard input
    has_verifier || fail verifier "this board has no ssh-keygen -Y"
    writing store "$ROOT/trusted.in"
    head -c "$1" "$ROOT/trusted.in" >"$ROOT/trusted.new"
    tail -c "+$(($1 + 1))" "$ROOT/trusted.in" | head -c "$2" >"$ROOT/trusted.sig"
    rm -f "$ROOT/trusted.in"
    verified zgedge-trust "$ROOT/trusted.sig" "$ROOT/trusted.new" || fail untrusted "the list of keys is not signed by a key that this board trusts"
    # The list's number: one that was replaced cannot come back.
    n=$(line_of '#' "$ROOT/trusted.new") old=$(line_of '#' "$ROOT/trusted")
    number "$n" && [ "$n" -gt "${old:-0}" ] || fail older "the list of keys is not newer than the board's"
    mv -f "$ROOT/trusted.new" "$ROOT/trusted"
    rm -f "$ROOT/trusted.sig"
    settle
}
verified() { # namespace signature file
    ssh-keygen -q -Y verify -f "$ROOT/trusted" -I zgedge -n "$1" -s "$2" <"$3" >/dev/null 2>&1
}

# ---- a bundle comes ----

do_begin() { # device
    if [ -f "$S/device" ]; then
        [ "$(cat "$S/device")" = "$1" ] || fail device "$(cat "$S/device")"
    fi
    writing mkdir -p "$S/incoming" "$S/versions" "$S/state" "$S/run"
    if [ ! -f "$S/device" ]; then
        printf '%s\n' "$1" >"$S/device.new"
        mv -f "$S/device.new" "$S/device"
    fi
    # A rename that would go into the folder behind a link is no switch.
    rm -rf "$S/try" "$S/try.new" "$S/incoming/try"
    mkdir -p "$S/incoming/try"
    ln -s incoming/try "$S/try"
    ln -s incoming "$S/try.new"
    mv -T "$S/try.new" "$S/try" 2>/dev/null || { rm -f "$S/try" "$S/try.new"; fail rename "mv on this board has no -T"; }
    rm -rf "$S/try" "$S/incoming/try"
}
do_offset() { # hash: what has come of the bundle already
    hash_like "$1" || fail usage "no hash"
    part=$S/incoming/$1.part
    if [ -f "$S/incoming/$1.zgb" ]; then
        say "have whole"
    elif [ -f "$part" ]; then
        say "have $(size_of "$part") $(sum_of "$part")"
    else
        say "have 0"
    fi
}
do_receive() { # hash size offset; standard input: the rest
    hash_like "$1" && number "$2" && number "$3" || fail usage "no hash or size"
    part=$S/incoming/$1.part
    if [ "$3" = 0 ]; then
        sweep "$S/incoming/*.part"
        : >"$part"
    fi
    [ "$(size_of "$part")" = "$3" ] || fail offset "$(size_of "$part")"
    free=$(free_kb "$S/incoming")
    if [ -n "$free" ] && [ $((($2 - $3) / 1024)) -gt "$free" ]; then
        fail full "the bundle has $2 bytes, and the disk of the board has $free KB"
    fi
    writing append "$part"
    [ "$(size_of "$part")" = "$2" ] || fail cut "$(size_of "$part") of $2 bytes came"
    if [ "$(sum_of "$part")" != "$1" ]; then
        rm -f "$part"
        fail tampered "the bundle that came is not the one that was sent"
    fi
    settle
    mv -f "$part" "$S/incoming/$1.zgb"
}
append() { cat >>"$1"; }

# Sets m_* from a manifest, and writes a line `size mode hash path` for each file to $2. Every line is
# what it should be, in its place, or the bundle is refused.
parse_manifest() { # manifest, list of files
    [ "$(tr -d '\040-\176\012' <"$1" | wc -c)" -eq 0 ] || fail manifest "it has bytes that are no text"
    : >"$2"
    n=0 seen=' ' total=0 count=0
    while IFS= read -r line; do
        n=$((n + 1))
        # shellcheck disable=SC2086 # words
        set -- $line -
        key=${1:-} value=${2:-}
        case $n in
            1) [ "$line" = 'zgedge-manifest 1' ] || fail manifest "line 1" ;;
            [2-8])
                case $n in
                    2) want=name ok=matches m_name=$value ;;
                    3) want=device ok=matches m_device=$value ;;
                    4) want=machine ok=machine_like m_machine=$value ;;
                    5) want=runtime ok=runtime_like m_runtime=$value ;;
                    6) want=counter ok=number m_counter=$value ;;
                    7) want=model ok=hash_like m_model=$value ;;
                    8) want=zgedge ok=release_like m_zgedge=$value ;;
                esac
                [ "$key" = $want ] && [ "$line" = "$want $value" ] && $ok "$value" || fail manifest "line $n"
                ;;
            *)
                [ $# -eq 6 ] && [ "$line" = "file $2 $3 $4 $5" ] || fail manifest "line $n"
                hash_like "$2" && number "$3" && path_like "$5" || fail manifest "line $n"
                case $4 in 644 | 755) ;; *) fail manifest "line $n" ;; esac
                case $seen in *" $5 "*) fail manifest "line $n" ;; esac
                seen="$seen$5 " total=$((total + $3)) count=$((count + 1))
                [ $count -le 100 ] && [ $total -le 999999999 ] || fail manifest "line $n"
                [ "$5" != model.zge ] || [ "$2" = "$m_model" ] || fail manifest "line $n"
                printf '%s %s %s %s\n' "$3" "$4" "$2" "$5" >>"$FILES"
                ;;
        esac
    done <"$1"
    [ -z "$line" ] && [ $n -ge 8 ] || fail manifest "line $((n + 1))"
    case $seen in *' model.zge '*) ;; *) fail manifest "no model.zge" ;; esac
    case $seen in *' golden.bin '*) ;; *) fail manifest "no golden.bin" ;; esac
    case $m_runtime$seen in
        native*' bin/zgedge-native '* | python*' wheels/'*) ;;
        *) fail manifest "no runtime" ;;
    esac
    m_total=$total
}
machine_like() { case $1 in aarch64 | armv7l | x86_64) ;; *) return 1 ;; esac; }
runtime_like() { case $1 in python | native) ;; *) return 1 ;; esac; }
release_like() {
    case $1 in
        [0-9]*) case $1 in *[!A-Za-z0-9.+]*) return 1 ;; esac ;;
        *) return 1 ;;
    esac
    [ ${#1} -le 32 ]
}
path_like() { # nothing but these: no path leads out of a folder
    case $1 in
        model.zge | golden.bin) return 0 ;;
        bin/* | wheels/*) leaf=${1#*/} ;;
        *) return 1 ;;
    esac
    case $leaf in
        '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._+-]*) return 1 ;;
    esac
    [ ${#leaf} -le 100 ]
}

do_unpack() { # hash downgrade|- unverified|-
    hash_like "$1" || fail usage "no hash"
    bundle=$S/incoming/$1.zgb work=$S/incoming/work
    [ -f "$bundle" ] || fail missing "the bundle has not come"
    BUNDLE=$bundle
    rm -rf "$work"
    writing mkdir -p "$work"
    all=$(size_of "$bundle")
    head -c 64 "$bundle" | head -n 1 >"$work/first"
    [ "$(tr -d '\040-\176\012' <"$work/first" | wc -c)" -eq 0 ] || fail bundle "this is no bundle of zgedge"
    IFS= read -r line <"$work/first" || fail bundle "this is no bundle of zgedge"
    downgrade=$2 unverified=$3
    # shellcheck disable=SC2086 # words
    set -- $line
    [ $# -eq 4 ] && [ "$line" = "zgedge-bundle 1 $3 $4" ] && number "$3" && number "$4" || fail bundle "this is no bundle of zgedge, or one of a later version"
    [ "$3" -le 65536 ] && [ "$4" -le 16384 ] || fail bundle "its manifest is too long"
    at=$((${#line} + 1))
    [ $((at + $3 + $4)) -le "$all" ] || fail bundle "it is cut"
    writing cut_out "$bundle" $at "$3" "$work/MANIFEST"
    at=$((at + $3))
    writing cut_out "$bundle" $at "$4" "$work/MANIFEST.sig"
    at=$((at + $4)) signed=$4
    # The signature first: what nobody vouches for is not even read.
    if has_verifier; then
        [ "$signed" -gt 0 ] || fail unsigned "the bundle is not signed"
        [ -s "$ROOT/trusted" ] || fail untrusting "this board trusts no key yet"
        verified zgedge-bundle "$work/MANIFEST.sig" "$work/MANIFEST" || fail untrusted "the bundle is not signed by a key that this board trusts"
    else
        [ "$unverified" = unverified ] || fail verifier "this board has no ssh-keygen -Y"
        say "unverified"
    fi
    FILES=$work/files
    parse_manifest "$work/MANIFEST" "$FILES"
    [ $((at + m_total)) -eq "$all" ] || fail bundle "it has $all bytes, and its manifest says $((at + m_total))"
    [ "$m_name" = "$NAME" ] || fail name "$m_name"
    [ "$m_device" = "$(cat "$S/device")" ] || fail device "$m_device"
    [ "$m_machine" = "$(machine)" ] || fail machine "$m_machine $(machine)"
    now=$(current current)
    if [ -n "$now" ] && [ "$m_counter" -lt "${now%%-*}" ] && [ "$downgrade" != downgrade ]; then
        fail older "$m_counter ${now%%-*}"
    fi
    sum=$(sum_of "$work/MANIFEST")
    version=$m_counter-$(printf %s "$sum" | head -c 8)
    if [ -f "$S/versions/$version/MANIFEST" ]; then
        [ "$(sum_of "$S/versions/$version/MANIFEST")" = "$sum" ] || fail version "$version is there already, and another"
    else
        part=$S/versions/part
        rm -rf "$part"
        writing mkdir -p "$part/bin" "$part/wheels"
        while read -r size mode want path; do
            writing cut_out "$bundle" $at "$size" "$part/$path"
            [ "$(sum_of "$part/$path")" = "$want" ] || fail tampered "$path"
            chmod "$mode" "$part/$path"
            at=$((at + size))
        done <"$FILES"
        cp "$work/MANIFEST.sig" "$part/MANIFEST.sig"
        cp "$work/MANIFEST" "$part/MANIFEST"
        settle
        mv "$part" "$S/versions/$version"
    fi
    rm -rf "$work"
    BUNDLE=''
    say "version $version"
}
cut_out() { tail -c "+$(($2 + 1))" "$1" | head -c "$3" >"$4"; }

# ---- a version is installed and tried ----

here() { # a version that is installed: sets V
    version_like "$1" && [ -f "$S/versions/$1/MANIFEST" ] || fail missing "there is no version $1 here"
    V=$S/versions/$1
}
runtime() { # of a version's folder: become its program, which takes this shell's place
    folder=$1
    shift
    if [ "$(line_of runtime "$folder/MANIFEST")" = native ]; then
        exec "$folder/bin/zgedge-native" "$@"
    else
        exec "$folder/venv/bin/python" -I -m zgedge.runtime.board "$@"
    fi
}
within() { # seconds command...: it is ended then
    seconds=$1
    shift
    "$@" &
    job=$!
    (
        trap 'exit 0' TERM
        n=0
        while [ $n -lt $((seconds * 5)) ]; do
            sleep 0.2 2>/dev/null || { sleep 1; n=$((n + 4)); }
            n=$((n + 1))
            kill -0 $job 2>/dev/null || exit 0
        done
        kill -9 $job 2>/dev/null
    ) >/dev/null 2>&1 </dev/null &
    watcher=$!
    code=0
    wait $job || code=$?
    kill $watcher 2>/dev/null || :
    return $code
}

do_install() { # version offline|online
    here "$1"
    if [ "$(line_of runtime "$V/MANIFEST")" = python ] && [ ! -f "$V/installed" ]; then
        # shellcheck disable=SC2046 # words
        set -- "$2" $(find_python)
        [ $# -eq 3 ] || fail python "none"
        case $3 in 3.[0-9]) fail python "$3" ;; esac
        rm -rf "$V/venv"
        writing "$2" -I -m venv --without-pip "$V/venv"
        set +f
        pip=$(echo "$V"/wheels/pip-*.whl)/pip own=$(echo "$V"/wheels/zgedge-*.whl)
        set -f
        set -- "$1" "$V/venv/bin/python" "$pip" --disable-pip-version-check --no-cache-dir install -q --no-compile
        if [ "$1" = online ]; then
            shift
            writing "$@" --only-binary :all: --require-hashes -r "$V/wheels/requirements.txt"
            writing "$@" --no-index --no-deps "$own"
        else
            shift
            writing "$@" --no-index --find-links "$V/wheels" "$own"
        fi
        compile
        settle
        : >"$V/installed"
    fi
    said=$(within 120 runtime "$V" version 2>&1) || broken_program $? "$said"
    say "runtime $said"
}
compile() { # the core, where the wheel came without its library
    set +f
    core=$(echo "$V"/venv/lib/python3*/site-packages/zgedge/runtime)
    set -f
    [ ! -f "$core/libzge.so" ] || return 0
    command -v cc >/dev/null 2>&1 || fail cc "this board has no C compiler"
    say "compiling here"
    set +f
    writing cc -std=c11 -O3 -fPIC -shared -ffp-contract=off -fno-trapping-math -fno-math-errno -fvisibility=hidden \
        -DZGE_VARIANT=portable -I"$core/core" "$core"/core/zge_*.c -o "$core/libzge.so"
    set -f
}
broken_program() { # exit code, what it said
    case $1 in
        132) fail instruction "it was built for another processor (illegal instruction)" ;;
        126 | 127) fail machine-program "it cannot run here: $(last_line "$2")" ;;
        137) fail slow "it took too long, or there is not enough memory" ;;
        *) fail program "it ended with exit code $1: $(last_line "$2")" ;;
    esac
}
do_golden() { # version
    here "$1"
    code=0
    said=$(within 300 runtime "$V" golden "$V/model.zge" "$V/golden.bin" 2>&1) || code=$?
    case $code in
        0) say "golden $(last_line "$said")" ;;
        1 | 3 | 4) fail golden "$(last_line "$said")" ;;
        *) broken_program $code "$said" ;;
    esac
}
do_put() { # version file; standard input: what is in it
    here "$1"
    case $2 in
        service | service.kind | requests | answers | answers.ascii | rows | labels | labels.ascii) ;;
        *) fail usage "no such file" ;;
    esac
    writing store "$V/$2.new"
    mv -f "$V/$2.new" "$V/$2"
}
do_state() { # version: which learned state it goes on from
    here "$1"
    now=$(current current)
    base=$(line_of model "$V/MANIFEST" | head -c 16)
    fresh=$base
    [ ! -e "$S/state/$base" ] || fresh=$base-${1%%-*}
    if [ "$now" = "$1" ] && [ -L "$V/state" ]; then
        say "state same"
        return
    fi
    from=''
    if [ -n "$now" ] && [ "$(line_of model "$S/current/MANIFEST" | head -c 16)" = "$base" ]; then
        from=$(readlink "$S/current/state" || :)
        from=${from##*/}
    elif [ -e "$S/state/$base" ]; then
        from=$base
    fi
    take=$fresh told="fresh $fresh"
    if [ -n "$from" ] && [ -f "$S/state/$from/slot-a" ] && [ ! -L "$S/state/$from/slot-a" ] && [ ! -L "$S/state/$from/slot-b" ]; then
        # A copy, since the service goes on writing; asked by what runs now and by what shall run.
        rm -rf "$S/incoming/copy"
        writing mkdir -p "$S/incoming/copy"
        writing cp "$S/state/$from/slot-a" "$S/state/$from/slot-b" "$S/incoming/copy/"
        new=$(within 120 runtime "$V" digest "$V/model.zge" --state "$S/incoming/copy" "$V/golden.bin" 2>/dev/null) || new=''
        old=$new
        if [ -n "$now" ] && [ "$(line_of model "$S/current/MANIFEST" | head -c 16)" = "$base" ]; then
            old=$(within 120 runtime "$S/current" digest "$S/current/model.zge" --state "$S/incoming/copy" "$V/golden.bin" 2>/dev/null) || old='-'
        fi
        rm -rf "$S/incoming/copy"
        if [ -n "$new" ] && [ "$(printf %s "$new" | tr -d ' ')" = "$(printf %s "$old" | tr -d ' ')" ]; then
            take=$from told="kept $from $new"
        else
            told="archived $from $fresh"
        fi
    elif [ -n "$from" ]; then
        take=$from told="kept $from nothing learned"
    elif [ -n "$now" ] && [ -L "$S/current/state" ]; then
        from=$(readlink "$S/current/state")
        from=${from##*/}
        [ ! -f "$S/state/$from/slot-a" ] || told="archived $from $fresh"
    fi
    writing mkdir -p "$S/state/$take"
    ln -s "../../state/$take" "$V/state.new"
    mv -T "$V/state.new" "$V/state"
    printf '%s\n' "$told" >"$V/state.told"
    say "state $told"
}

# ---- the service ----

unit() { say "zgedge-$NAME.service"; }
kind_of() { cat "$1/service.kind" 2>/dev/null || say "init -"; }
owners() { # version's folder: state and socket belong to the service's user
    read -r _ user <<K
$(kind_of "$1")
K
    if [ "$(id -u)" != 0 ] || [ "${user:--}" = - ]; then return 0; fi
    if ! id "$user" >/dev/null 2>&1; then
        if command -v useradd >/dev/null 2>&1; then
            useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin "$user" >/dev/null 2>&1 || return 0
        elif command -v adduser >/dev/null 2>&1; then
            addgroup -S "$user" >/dev/null 2>&1 || :
            adduser -S -D -H -G "$user" "$user" >/dev/null 2>&1 || return 0
        else # no program for it: a line each, with a number that is free
            n=899
            while grep -q "^[^:]*:[^:]*:$n:" /etc/passwd /etc/group; do n=$((n - 1)); done
            say "$user:x:$n:" >>/etc/group
            say "$user:x:$n:$n::/:/usr/sbin/nologin" >>/etc/passwd
        fi
    fi
    group=$(id -gn "$user")
    chown -hR "$user:$group" "$S/run" "$S/state"
    chmod 750 "$S/state"
    chmod 755 "$S/run"
}
judge_unit() { say "zgedge-$NAME-judge.service"; }
place() { # mode file path: a copy takes the place of what is there as a whole, or not at all
    cp "$2" "$3.new" && chmod "$1" "$3.new" && mv -f "$3.new" "$3" && return
    rm -f "$3.new"
    return 1
}
place_service() { # version's folder; fails, and leaves what is there, where it cannot be written
    owners "$1"
    if [ "$0" != "$S/agent.sh" ]; then
        place 644 "$0" "$S/agent.sh" || return 1
    fi
    case $(kind_of "$1") in
        systemd*)
            cat >"$S/judge.new" <<U || return 1
[Unit]
Description=zgedge: $NAME, after a switch that was cut off
ConditionPathExists=$S/pending
[Service]
Type=oneshot
ExecStart=/bin/sh $S/agent.sh $ROOT $NAME boot
[Install]
WantedBy=multi-user.target
U
            place 644 "$S/judge.new" "/etc/systemd/system/$(judge_unit)" || return 1
            rm -f "$S/judge.new"
            place 644 "$1/service" "/etc/systemd/system/$(unit)" || return 1
            systemctl daemon-reload || return 1
            systemctl -q enable "$(unit)" "$(judge_unit)" || return 1
            ;;
        *)
            place 755 "$1/service" "$S/init" || return 1
            if [ "$(id -u)" = 0 ] && [ -d /etc/init.d ]; then
                ln -sf "$S/init" "/etc/init.d/zgedge-$NAME"
                update-rc.d "zgedge-$NAME" defaults >/dev/null 2>&1 || rc-update add "zgedge-$NAME" >/dev/null 2>&1 || :
            fi
            ;;
    esac
}
control() { # start|stop|restart
    case $(kind_of "$S/current") in
        systemd*) systemctl "$1" "$(unit)" ;;
        *) sh "$S/init" "$1" ;;
    esac </dev/null >/dev/null 2>&1
}
ask_status() {
    reply=$(printf '{"op": "status"}\n' | ask_lines) || return 1
    case $reply in *'"ok": true'* | *'"ok":true'*) ;; *) return 1 ;; esac
}
ask_lines() ( # standard input: requests, a line each
    runtime "$S/current" ask "$S/run/socket" --timeout 5 2>/dev/null
)
digits_of() { # the number behind a key of a reply, without its fraction; not from the learner's part
    printf '%s\n' "${reply%%'"learner"'*}" | sed -n "s/.*\"$1\": *\\([0-9][0-9]*\\).*/\\1/p"
}
share_of() { # the same in per cent, of a number from 0 to 1
    printf '%s\n' "${reply%%'"learner"'*}" | sed -n "s/.*\"$1\": *\\([01]\\)\\.\\([0-9]*\\).*/\\1\\200/p" | head -c 3 | sed 's/^0*\(.\)/\1/'
}
awaken() { # wait until the service answers
    since=$(uptime_now)
    while ! ask_status; do
        [ $(($(uptime_now) - since)) -lt $START ] || return 1
        sleep 0.5 2>/dev/null || sleep 1
    done
}
agree() { # requests, answers, answers.ascii: how many of how many are as they should be
    right=0 total=0
    # One process for all lines: on a slow board each takes its time to start.
    ask_lines <"$1" | sed 's/.*"label": *//; s/, *"score".*//' >"$S/incoming/replies" || :
    exec 3<"$S/incoming/replies" 4<"$2" 5<"$3"
    while IFS= read -r want <&4 && IFS= read -r ascii <&5; do
        total=$((total + 1))
        IFS= read -r got <&3 || got=''
        if [ "$got" = "$want" ] || [ "$got" = "$ascii" ]; then right=$((right + 1)); fi
    done
    exec 3<&- 4<&- 5<&-
    rm -f "$S/incoming/replies"
}
point() { # at a version: the one moment in which one takes the other's place
    ln -sfn "versions/$1" "$S/current.new"
    settle
    mv -T "$S/current.new" "$S/current"
    settle
}
remember() { # what a full disk has no room for is not worth a switch
    if { { cat "$S/history" 2>/dev/null || :; say "$*"; } | tail -n $HISTORY >"$S/history.new"; } 2>/dev/null; then
        mv -f "$S/history.new" "$S/history"
    else # a part of it is less than what is there
        rm -f "$S/history.new"
    fi
}

asked() { # version's folder, requests, answers: whether they came as a whole
    [ -f "$1/$2" ] && [ -f "$1/$3" ] && [ -f "$1/$3.ascii" ]
}
# Watch the service for so many seconds; sets bad to what is wrong with it, or to nothing.
watch_health() { # version's folder, seconds, least right rows in percent of them or -, accuracy before or -
    bad='' last=0 missed=0
    awaken || { bad="it did not answer in $START seconds"; return; }
    last=$(digits_of uptime)
    if asked "$1" requests answers; then
        agree "$1/requests" "$1/answers" "$1/answers.ascii"
        ask_status || { bad="it stopped answering"; return; }
        learned=$(digits_of samples)
        # What it learned before may answer otherwise, and shall.
        case $reply in
            *'"started_from": "the deployed model"'* | *'"started_from":"the deployed model"'*)
                if [ "${learned:-0}" = 0 ] && [ $right -lt $total ]; then
                    bad="$((total - right)) of $total answers differ from those of the same model here"
                    return
                fi
                ;;
        esac
        say "answers $right $total"
    fi
    if [ "$3" != - ] && asked "$1" rows labels; then
        agree "$1/rows" "$1/labels" "$1/labels.ascii"
        say "rows $right $total"
        if [ $((right * 100)) -lt $(($3 * total)) ]; then
            bad="$right of $total rows were answered rightly, and $3 % should be"
            return
        fi
    fi
    since=$(uptime_now)
    while [ $(($(uptime_now) - since)) -lt "$2" ]; do
        sleep 1
        if ! ask_status; then
            missed=$((missed + 1))
            [ $missed -lt 3 ] || { bad="it does not answer any more"; return; }
            continue
        fi
        missed=0
        now=$(digits_of uptime)
        if [ "${now:-0}" -lt "${last:-0}" ]; then
            bad="it ended and was started again"
            return
        fi
        last=$now
        if [ "$4" != - ] && [ "$(digits_of window)" -ge 50 ] && [ "$(share_of accuracy)" -lt $(($4 - 20)) ]; then
            bad="its accuracy fell from $4 % to $(share_of accuracy) %"
            return
        fi
        say "alive $(($(uptime_now) - since))"
    done
}

# Switch to a version, watch it, and go back by itself. Runs on when the connection is cut.
change() { # version seconds least
    target=$1 seconds=$2 least=$3
    here "$target"
    old=$(current current) accuracy=- boots=0
    if [ -n "$old" ] && ask_status; then
        window=$(digits_of window)
        [ "${window:-0}" -lt 50 ] || accuracy=$(share_of accuracy)
        # What runs now is the measure for the rows too: it may have learned.
        if asked "$V" rows labels; then
            agree "$V/rows" "$V/labels" "$V/labels.ascii"
            say "before $right $total"
            part=$((right * 100 / total - 5))
            if [ "$least" = - ] || [ $part -gt "$least" ]; then least=$part; fi
        fi
    fi
    asked "$V" rows labels || least=-
    # Where it is the one that runs already, the one before is what is left to go back to.
    if [ "$old" = "$target" ]; then old=$(current previous); fi
    note_pending "$(boot_id)"
    place_service "$V"
    point "$target"
    say "switched $target"
    control restart || :
    judge
}
note_pending() { # boot: what a judge needs after the power went in the middle, too
    printf '%s %s %s %s %s %s %s\n' "$target" "${old:--}" "$1" "$seconds" "$least" "$accuracy" "$boots" >"$S/pending.new" &&
        mv -f "$S/pending.new" "$S/pending"
}
judge() { # the version `target`: whether it stays, by `old`, `seconds`, `least`, `accuracy` and `boots`
    if [ "${boots:-0}" -ge $BOOTS ]; then
        bad="the board started again $boots times with it"
    else
        watch_health "$V" "$seconds" "$least" "$accuracy"
    fi
    if [ -z "$bad" ]; then
        before "$old"
        rm -f "$S/pending"
        remember "$target healthy"
        settle
        prune
        say "end healthy $target"
        return
    fi
    say "bad $bad"
    if version_like "$old" && [ "$old" != "$target" ] && [ -f "$S/versions/$old/MANIFEST" ]; then
        go_back "$old" "$bad"
    else
        withdraw "$bad"
    fi
}
before() { # version: where a plain rollback goes, known to be better than what was taken back
    if version_like "${1:--}" && [ "$1" != "$target" ]; then
        ln -sfn "versions/$1" "$S/previous.new"
        mv -T "$S/previous.new" "$S/previous"
    fi
}
go_back() { # version, why
    # A disk that was filled meanwhile holds nobody up: what the switch itself needs no more goes, and
    # what starts the service mostly is what it was.
    make_room
    place_service "$S/versions/$1" || :
    point "$1"
    control restart || :
    if awaken; then back=answers; else back=silent; fi
    rm -f "$S/pending"
    remember "$target rolled back to $1: $2"
    settle
    say "end rolled-back $1 $back"
}
withdraw() { # why: there is no version to go back to
    control stop || :
    rm -f "$S/current" "$S/pending"
    remember "$target withdrawn: $1"
    settle
    say "end withdrawn $target"
}
prune() { # old versions: the current one, the one before and two more that can be gone back to stay
    serving=" $(current current) $(current previous) "
    others=$(versions | while read -r v; do
        case $serving in
            *" $v "*) ;;
            *) if [ -f "$S/versions/$v/ready" ]; then say "$v"; else rm -rf "$S/versions/$v"; fi ;;
        esac
    done)
    # shellcheck disable=SC2086 # words
    set -- $others
    while [ $# -gt 2 ]; do
        rm -rf "${S:?}/versions/$1"
        shift
    done
    make_room
}
make_room() { # what came to be installed, and is
    sweep "$S/incoming/*.zgb"
    sweep "$S/incoming/*.part"
    rm -rf "$S/incoming/work" "$S/incoming/copy"
}
resolve() { # a switch that was cut off, mostly by the end of the board's power
    read -r target old _ seconds least accuracy boots <"$S/pending" || :
    now=$(current current)
    if [ "$now" != "$target" ]; then
        # What starts the service may be the other version's already.
        if [ -n "$now" ]; then
            place_service "$S/versions/$now" || :
            control restart || :
        fi
        rm -f "$S/pending"
        remember "$target was not switched to: the board was cut off"
        say "end unswitched $target"
        return
    fi
    here "$target"
    control start || :
    judge
}
apart() { # token function arguments...: run it apart from the connection, and pass on what it says
    token=$1
    shift
    log=$S/change.log # not in run: that is the service's own
    : >"$log"
    (
        trap '' HUP PIPE
        "$@"
    ) >"$log" 2>"$log.err" </dev/null &
    pid=$!
    write_owner "$token" $pid
    follow $pid
}
do_change() { # token version seconds least
    here "$2"
    : >"$V/ready" # all that belongs to it has come
    apart "$1" change "$2" "$3" "$4"
}
do_resolve() { # token
    [ ! -f "$S/pending" ] || apart "$1" resolve
}
follow() { # pid: pass on what a change says until it ends
    seen=0
    while :; do
        gone=no
        kill -0 "$1" 2>/dev/null || gone=yes
        tail -n "+$((seen + 1))" "$log" >"$log.new"
        while IFS= read -r line; do
            say "$line"
            seen=$((seen + 1))
            case $line in
                end' '*)
                    wait "$1" 2>/dev/null || :
                    return
                    ;;
            esac
        done <"$log.new"
        [ $gone = no ] || fail broken "the switch ended: $(last_line "$(cat "$log.err")")"
        sleep 0.3 2>/dev/null || sleep 1
    done
}

do_boot() { # after the board has started: judge a switch that the end of its power cut off
    [ -f "$S/pending" ] || return 0
    read -r _ _ boot _ <"$S/pending" || :
    [ "$boot" != "$(boot_id)" ] || return 0
    take_lock "board.$$"
    trap 'drop_lock "board.$$"' EXIT
    # A version with which the board does not stay up would be judged for ever.
    read -r target old boot seconds least accuracy boots <"$S/pending" || :
    boots=$((${boots:-0} + 1))
    note_pending "$boot" || : # on a full disk the count stays; the judgement is worth more
    settle # it outlasts a board that falls at once
    resolve >"$S/change.log" 2>"$S/change.log.err"
}

do_rollback() { # token version|- seconds
    to=$2
    if [ "$to" = - ]; then to=$(current previous); fi
    [ -n "$to" ] || fail nothing "there is no version before"
    [ "$to" != "$(current current)" ] || fail nothing "$to runs already"
    here "$to"
    [ -f "$V/ready" ] || fail missing "version $to came only in part"
    do_change "$1" "$to" "$3" -
}

# ---- looking ----

do_status() {
    do_facts
    for zone in 0 1 2 3 4 5 6 7; do
        t=$(cat "/sys/class/thermal/thermal_zone$zone/temp" 2>/dev/null) || continue
        say "temperature $t"
    done
    if command -v vcgencmd >/dev/null 2>&1; then
        say "throttled $(vcgencmd get_throttled 2>/dev/null | sed 's/.*=//')"
    fi
    if [ -f "$S/history" ]; then say "last $(tail -n 1 "$S/history")"; fi
    [ -n "$(current current)" ] || fail nothing "no version of $NAME is installed here"
    if ask_status; then say "service $reply"; else say "service none"; fi
}
do_ask() {
    [ -n "$(current current)" ] || fail nothing "no version of $NAME is installed here"
    ask_lines || fail silent "the service does not answer"
}
do_logs() { # lines
    number "$1" || fail usage "no number"
    case $(kind_of "$S/current") in
        systemd*) journalctl --no-pager -q -n "$1" -u "$(unit)" | sed 's/^/log /' ;;
        *) tail -n "$1" "$S/log" 2>/dev/null | sed 's/^/log /' ;;
    esac
    sed 's/^/history /' "$S/history" 2>/dev/null || :
}
do_states() {
    now=$(readlink "$S/current/state" 2>/dev/null || :)
    # shellcheck disable=SC2012
    for s in $(ls "$S/state" 2>/dev/null); do
        [ -f "$S/state/$s/slot-a" ] || continue
        if [ "$s" = "${now##*/}" ]; then say "state $s current"; else say "state $s archived"; fi
    done
}
do_slot() { # state slot: its bytes, bare
    case $1 in '' | *[!0-9a-f-]*) fail usage "no such state" ;; esac
    case $2 in slot-a | slot-b) ;; *) fail usage "no such slot" ;; esac
    [ -f "$S/state/$1/$2" ] && [ ! -L "$S/state/$1/$2" ] || fail missing "there is no state $1"
    cat "$S/state/$1/$2"
    exit 0
}
do_model() { # the model file that serves, bare
    [ -n "$(current current)" ] || fail nothing "no version of $NAME is installed here"
    cat "$S/current/model.zge"
    exit 0
}
do_remove() { # with-state|-
    if [ -n "$(current current)" ]; then control stop || :; fi
    if [ "$(id -u)" = 0 ]; then
        if [ -f "/etc/systemd/system/$(unit)" ]; then
            systemctl -q disable "$(unit)" "$(judge_unit)" 2>/dev/null || :
            rm -f "/etc/systemd/system/$(unit)" "/etc/systemd/system/$(judge_unit)"
            systemctl daemon-reload
        fi
        if [ -L "/etc/init.d/zgedge-$NAME" ]; then
            update-rc.d -f "zgedge-$NAME" remove >/dev/null 2>&1 || rc-update del "zgedge-$NAME" >/dev/null 2>&1 || :
            rm -f "/etc/init.d/zgedge-$NAME"
        fi
    fi
    # shellcheck disable=SC2045 # names are our own
    for entry in $(ls -A "$S"); do
        case $entry in state | lock) ;; *) rm -rf "${S:?}/$entry" ;; esac
    done
    if [ "$1" = with-state ]; then
        rm -rf "$S/state"
    elif rmdir "$S/state" 2>/dev/null; then
        :
    else
        say "kept $S/state"
    fi
    settle
}

# ---- commands ----

if [ "$COMMAND" = names ]; then
    do_names
    say ok
    exit 0
fi
matches "$NAME" || fail usage "no name of a service"
S=$ROOT/$NAME
case $COMMAND in
    facts | status | logs | states | slot | model | ask | keys | boot) "do_$COMMAND" "$@" ;;
    lock) take_lock "$@" ;;
    unlock)
        drop_lock "$1"
        rmdir "$S" 2>/dev/null || :
        ;;
    trust | retrust | begin | offset | receive | unpack | install | golden | put | state | remove)
        keep_lock "$1"
        shift
        "do_$COMMAND" "$@"
        ;;
    change | rollback | resolve)
        keep_lock "$1"
        "do_$COMMAND" "$@"
        ;;
    *) fail usage "no command $COMMAND" ;;
esac
say ok
