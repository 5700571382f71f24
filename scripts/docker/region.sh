#!/bin/sh
# The agent of a region. Whoever comes first makes the key of the mesh in /mesh, which all regions share, so
# that none of them needs another one to start.
set -eu
key=/mesh/mesh.key
mine=$NETBUILD_DATA_DIR/mesh.key

if [ ! -e "$mine" ]; then
    umask 077
    new=$key.$NETBUILD_REGION
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$new"
    # Of several that try, one makes the link.
    ln "$new" "$key" 2>/dev/null || true
    rm "$new"
    cp "$key" "$mine.new"
    mv "$mine.new" "$mine"
fi
# Its standard output is the ticket of the mesh, which logs should not keep; `netbuild ticket` tells it.
exec netbuild-agent "$@" >/dev/null
