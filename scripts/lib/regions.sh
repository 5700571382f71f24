# The three regions, in containers or as processes of this machine: one set of functions for both. Sourced after
# common.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # Some variables are the caller's, and some are for the caller.

REGIONS=(us-east us-west eu-central)
# What `netbuild wan` and docker-compose.yml are told of the links.
LINKS=(us-east:us-west=us-east us-east:eu-central=us-west us-west:eu-central=eu-central)

# `docker` or `local`; empty until it is chosen.
place=
# Where the regions of this machine keep everything, and how their emulated links are called.
state=${NETBUILD_REGIONS_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/netbuild/regions}
declare -A containers=()

PLACE_HELP='  --docker        the regions of docker-compose.yml (default: whatever is up)
  --local         those of this machine
  --state DIR     where those of this machine are kept (default: NETBUILD_REGIONS_STATE, or
                  ~/.local/state/netbuild/regions)
  --help          this text'

# place_option ARGUMENT...: takes an option that says where the regions are; how many words it was is in $taken.
place_option() {
    taken=1
    case $1 in
        --docker) place=docker ;;
        --local) place=local ;;
        --state)
            state=$(value "$@")
            place=local
            taken=2
            ;;
        *) return 1 ;;
    esac
}

# What Compose calls this project by itself.
project() {
    local name
    name=$(basename "$repository")
    name=${COMPOSE_PROJECT_NAME:-${name,,}}
    printf '%s' "${name//[^a-z0-9_-]/}"
}

compose() {
    if [[ -z ${compose_command-} ]]; then
        compose_command=docker-compose
        if docker compose version >/dev/null 2>&1; then
            compose_command='docker compose'
        else
            command -v docker-compose >/dev/null ||
                fail 'there is no docker-compose; on Debian: apt-get install docker-compose'
        fi
    fi
    # It is one word or two.
    # shellcheck disable=SC2086
    $compose_command --project-name "$(project)" --project-directory "$repository" \
        -f "$repository/docker-compose.yml" "$@"
}

# containers_of [SERVICE] [OPTION...]: the ids of the project's containers.
containers_of() {
    docker ps -q --filter "label=com.docker.compose.project=$(project)" \
        --filter "label=com.docker.compose.service${1:+=$1}" "${@:2}"
}

# Every set of regions of this machine has emulated links of its own.
wan_name() {
    local sum
    sum=$(printf '%s' "$state" | cksum)
    printf 'regions-%s' "${sum%% *}"
}

# container SERVICE: its id.
container() {
    if [[ -z ${containers[$1]-} ]]; then
        containers[$1]=$(containers_of "$1" -a)
    fi
    [[ -n ${containers[$1]} ]] || fail "there is no container of $1; start the regions with: scripts/start-regions.sh --docker"
    found=${containers[$1]}
}

docker_is_up() {
    command -v docker >/dev/null && [[ -n $(containers_of wan 2>/dev/null) ]]
}

local_is_up() {
    [[ -e $state/programs ]] && "$(<"$state/programs")/netbuild" wan status --name "$(wan_name)" >/dev/null 2>&1
}

# Uses the regions that were asked for, or else those that are up.
choose_regions() {
    case $place in
        docker) docker_is_up || fail 'the regions are not up; start them with: scripts/start-regions.sh --docker' ;;
        local) local_is_up || fail 'the regions are not up; start them with: scripts/start-regions.sh' ;;
        *)
            if local_is_up; then
                place=local
            elif docker_is_up; then
                place=docker
            else
                fail 'no regions are up; start them with: scripts/start-regions.sh [--docker]'
            fi
            ;;
    esac
    [[ $place == docker ]] || programs=$(<"$state/programs")
}

# wan COMMAND ARGUMENT...: a command of `netbuild wan` for the links between the regions.
wan() {
    if [[ $place == docker ]]; then
        container wan
        docker exec "$found" netbuild wan "$@"
    else
        "$programs/netbuild" wan "$1" --name "$(wan_name)" "${@:2}"
    fi
}

# in_region REGION COMMAND ARGUMENT...: runs a command in the network of a region, in its workspace and beside its
# agent. Standard input is passed on.
in_region() {
    local region=$1
    shift
    if [[ $place == docker ]]; then
        container "$region"
        docker exec -i "$found" "$@"
    else
        (
            cd "$state/$region/work" || exit
            export NETBUILD_DATA_DIR=$state/$region/data PATH=$programs:$PATH
            exec "$programs/netbuild" wan exec --name "$(wan_name)" "$region" -- "$@"
        )
    fi
}

# region_address REGION: where its agent is.
region_address() {
    in_region "$1" netbuild status --json | json 'v["data_address"].rsplit(":", 1)[0]'
}

# pid_of FILE: the process that a file names, if it still is one of these regions.
pid_of() {
    local pid
    # All of them stay in the directory that they were started in.
    pid=$(cat "$1" 2>/dev/null) && [[ $(readlink "/proc/$pid/cwd") == "$state"/* ]] && printf '%s' "$pid"
}

# start_local_agent REGION: starts the agent of a region of this machine.
start_local_agent() {
    local region=$1 number=0 join=() backend=
    for other in "${REGIONS[@]}"; do
        number=$((number + 1))
        join+=(--join "/ip4/10.77.$number.1/udp/4001/quic-v1")
        [[ $other != "$region" ]] || mine=10.77.$number.1
    done
    [[ ! -e $state/$region/backend ]] || backend=$(<"$state/$region/backend")
    AWS_ACCESS_KEY_ID=netbuild AWS_SECRET_ACCESS_KEY=netbuild-secret AWS_ENDPOINT_URL_S3="http://$mine:8333" \
        CACHE_BACKEND=$backend in_region "$region" netbuild-agent --region "$region" \
        --data-dir "$state/$region/data" --listen "$mine:4001" "${join[@]}" --detach >/dev/null
    in_region "$region" netbuild status --json | json 'v["pid"]' >"$state/$region/agent.pid"
}

# do_to_agent REGION VERB SIGNAL: what docker calls it, and the signal that does the same here.
do_to_agent() {
    if [[ $place == docker ]]; then
        container "$1"
        docker "$2" "$found" >/dev/null
        return
    fi
    local pid
    pid=$(pid_of "$state/$1/agent.pid") || fail "the agent of $1 does not run"
    kill "-$3" "$pid"
}

# kill_agent REGION: as a crash would.
kill_agent() {
    do_to_agent "$1" kill KILL
}

# start_agent REGION: starts one that was killed.
start_agent() {
    if [[ $place == docker ]]; then
        container "$1"
        docker start "$found" >/dev/null
    else
        start_local_agent "$1"
    fi
    wait_until "the agent of $1 answers" agent_answers "$1"
}

# pause_agent REGION, resume_agent REGION: it neither answers nor closes anything.
pause_agent() {
    do_to_agent "$1" pause STOP
}

resume_agent() {
    do_to_agent "$1" unpause CONT
}

agent_answers() {
    in_region "$1" netbuild status >/dev/null 2>&1
}

# knows_others REGION [COUNT]: whether an agent is connected with so many others, has measured their links, and asks
# them.
knows_others() {
    local known
    known=$(in_region "$1" netbuild status --json 2>/dev/null |
        json 'sum(1 for m in v["members"] if m["connected"] and m["rtt_ms"] is not None and m["state"] == "ok")') || return 1
    [[ $known -ge ${2:-$((${#REGIONS[@]} - 1))} ]]
}

wait_for_mesh() {
    local region
    for region in "${REGIONS[@]}"; do
        wait_until "the agent of $region answers" agent_answers "$region"
    done
    for region in "${REGIONS[@]}"; do
        wait_until "$region knows the other regions" knows_others "$region"
    done
}

# mend_regions: undoes whatever was done to agents and links, and does not mind what was not.
mend_regions() {
    local region
    wan set all --reset || true
    for region in "${REGIONS[@]}"; do
        (resume_agent "$region") 2>/dev/null || true
        agent_answers "$region" || (start_agent "$region") || true
    done
}
