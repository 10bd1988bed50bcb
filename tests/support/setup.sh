# Sets a checkout up on Debian: sourced by tests/run and examples/demo, never run by itself.
#
#   prepare_environment CHECKOUT [ejabberd] [postgresql] [strace]
#
# installs what is missing from Debian (Prosody, Python's venv, and what is named), makes
# CHECKOUT/.venv with the package (editable) and its development tools, and sets ENVIRONMENT to
# that folder. It is quiet and quick when everything is there already; otherwise it says on
# standard error what it does.
# shellcheck shell=bash

# `pip install --group` came with this release; older ones are brought up to it.
readonly PIP_NEEDED=25.1

note() {
    printf 'setup: %s\n' "$*" >&2
}

fail() {
    note "$@"
    exit 1
}

# Runs a command and shows what it printed only if it fails.
quietly() {
    local output
    if ! output="$("$@" 2>&1)"; then
        printf '%s\n' "$output" >&2
        fail "this failed: $*"
    fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Prints a Python that is new enough and can make virtual environments, or nothing.
find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
}

# Prints where Debian has a program of PostgreSQL's, of any version, or nothing.
find_postgresql() {
    local program
    for program in /usr/lib/postgresql/*/bin/"$1"; do
        if [ -x "$program" ]; then
            printf '%s\n' "$program"
            return
        fi
    done
    command -v "$1" || true
}

# Has Debian's PostgreSQL make no cluster of its own, unless the machine has said what it wants.
forbid_main_cluster() {
    local wish=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$wish" ]; then
        # shellcheck disable=SC2016  # the inner shell expands these
        quietly as_root sh -c \
            'mkdir -p "${1%/*}" && printf "create_main_cluster = false\n" >"$1"' sh "$wish"
    fi
}

# Has those of the named services that would start a server at every boot not do so.
forbid_boot() {
    local service
    for service in "$@"; do
        case $service in
            prosody | ejabberd)
                ! command -v update-rc.d >/dev/null ||
                    quietly as_root update-rc.d "$service" disable
                ;;
            epmd)
                ! command -v systemctl >/dev/null ||
                    quietly as_root systemctl disable epmd.service epmd.socket
                ;;
        esac
    done
}

# Installs Debian packages. Prosody's and ejabberd's would start servers on public ports, now and
# at every boot, and PostgreSQL's one on loopback: a policy forbids that while we install, unless
# the machine has a policy of its own.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    local apt=(apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120)
    command -v apt-get >/dev/null || fail "this is no Debian; please install: $*"
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        fail "neither root nor sudo; please have these installed: apt-get install $*"
    note "installing $* from Debian"
    local services=("$@")
    # Erlang's port mapper comes with ejabberd, unless Erlang was here before.
    [[ " $* " != *" ejabberd "* ]] || command -v epmd >/dev/null || services+=(epmd)
    [[ " $* " != *" postgresql "* ]] || forbid_main_cluster
    (
        # shellcheck disable=SC2016  # the inner shell expands these
        if [ ! -e "$policy" ]; then
            trap 'as_root rm -f "$policy"' EXIT
            as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$policy"
        fi
        quietly as_root "${apt[@]}" update
        quietly as_root env DEBIAN_FRONTEND=noninteractive \
            "${apt[@]}" -o Dpkg::Options::=--force-confold \
            install -y --no-install-recommends "$@"
    ) </dev/null
    forbid_boot "${services[@]}"
}

# Arguments: further packages that are wanted.
install_missing_packages() {
    local packages=() wanted
    command -v prosody >/dev/null || packages+=(prosody)
    [ -n "$(find_python)" ] || packages+=(python3 python3-venv)
    for wanted in "$@"; do
        case $wanted in
            postgresql)
                { [ -n "$(find_postgresql initdb)" ] && [ -n "$(find_postgresql pg_dump)" ]; } ||
                    packages+=(postgresql)
                ;;
            ejabberd)
                compgen -G '/usr/lib/*/ejabberd-*/ebin' >/dev/null || packages+=(ejabberd)
                ;;
            *) command -v "$wanted" >/dev/null || packages+=("$wanted") ;;
        esac
    done
    [ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
}

# Prints what the environment depends on, in one line: when it changes, the environment is new.
fingerprint() {
    local checkout=$1 python=$2
    { printf '%s\n' "$checkout" && "$python" -c 'import sys; print(sys.version, sys.prefix)' &&
        cat "$checkout/pyproject.toml" "$checkout/tests/support/setup.sh"; } | sha256sum
}

make_environment() {
    local checkout=$1 python=$2 environment=$3
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    note "making $environment (a minute or so)"
    rm -rf "$environment"
    quietly "$python" -m venv "$environment"
    quietly "$environment/bin/python" -m pip install --upgrade "pip>=$PIP_NEEDED"
    quietly "$environment/bin/python" -m pip install \
        --editable "$checkout" --group "$checkout/pyproject.toml:dev"
}

prepare_environment() {
    local checkout=$1 python wanted
    shift
    ENVIRONMENT="$checkout/.venv"
    install_missing_packages "$@"
    python="$(find_python)"
    [ -n "$python" ] || fail "found no Python 3.11 or later with the venv module"
    wanted="$(fingerprint "$checkout" "$python")"
    # One at a time: two runs in one checkout must not make the environment twice.
    exec 9<"$checkout"
    flock 9
    if [ "$(cat "$ENVIRONMENT/fingerprint" 2>/dev/null)" != "$wanted" ]; then
        make_environment "$checkout" "$python" "$ENVIRONMENT" 9<&-
        printf '%s\n' "$wanted" >"$ENVIRONMENT/fingerprint"
    fi
    exec 9<&-
}
